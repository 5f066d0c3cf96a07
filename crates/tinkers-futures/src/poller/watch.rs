//! One who waits for the poller's word.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use tinkers_core::Result;

use super::board::{Board, CompletionNotice};

/// A place among those who wait. Dropped, it is given up and the server is told that nobody wants the result any more: to be
/// kept until the result was fetched.
pub struct CompletionHandle {
    board: Arc<Board>,
    id: Arc<str>,
}

impl CompletionHandle {
    pub(super) fn new(board: Arc<Board>, id: Arc<str>) -> Self {
        Self { board, id }
    }

    /// The server's id of the operation.
    pub fn request_id(&self) -> &str {
        &self.id
    }

    /// Waits until the server says that the operation has ended.
    ///
    /// # Errors
    /// Why the poller ended before that.
    pub async fn announced(&self) -> Result<CompletionNotice> {
        poll_fn(|cx| self.board.poll(&self.id, cx.waker()))
            .await
            .map_err(|error| error.with_request_id(&*self.id))
    }
}

impl Drop for CompletionHandle {
    fn drop(&mut self) {
        self.board.leave(&self.id);
    }
}

impl fmt::Debug for CompletionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionHandle")
            .field("request_id", &self.id)
            .finish_non_exhaustive()
    }
}
