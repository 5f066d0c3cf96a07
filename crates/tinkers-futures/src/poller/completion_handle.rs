//! The handle of a request that waits for its completion.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use tinkers_core::Result;

use super::completion_table::{CompletionNotice, CompletionTable};

/// The registration of a request with a [`SessionPoller`](crate::SessionPoller), which reports when the request has completed. Keep the
/// handle until the result is retrieved.
///
/// Dropping the handle removes the registration and acknowledges the result to the server, which may then discard the result.
pub struct CompletionHandle {
    completions: Arc<CompletionTable>,
    id: Arc<str>,
}

impl CompletionHandle {
    pub(super) fn new(completions: Arc<CompletionTable>, id: Arc<str>) -> Self {
        Self { completions, id }
    }

    /// Returns the id that the server assigned to the request.
    pub fn request_id(&self) -> &str {
        &self.id
    }

    /// Waits until the server reports that the operation has ended, so that the caller can retrieve its result. Also returns if the shared
    /// poll cannot report this request: the caller must then poll for this request individually.
    ///
    /// # Errors
    /// The error with which the shared poller ended, because it was dropped or its runtime has ended.
    pub async fn completed(&self) -> Result<CompletionNotice> {
        poll_fn(|cx| self.completions.poll(&self.id, cx.waker()))
            .await
            .map_err(|error| error.with_request_id(&*self.id))
    }
}

impl Drop for CompletionHandle {
    fn drop(&mut self) {
        self.completions.deregister(&self.id);
    }
}

impl fmt::Debug for CompletionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionHandle")
            .field("request_id", &self.id)
            .finish_non_exhaustive()
    }
}
