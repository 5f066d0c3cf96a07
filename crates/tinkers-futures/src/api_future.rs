//! The handle of a running operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tinkers_core::{Clock, Error, ErrorKind, Progress, ProgressCell, Result, Sent, Task};
use tokio::sync::oneshot;

/// The handle of a running operation. Await it on any executor, or wait for it with `tinkers::block_on`.
///
/// The operation runs whether or not the handle is polled. Dropping or cancelling the handle ends the wait. A training call is still
/// submitted then, and keeps its position in the order of training calls; a sample is abandoned.
///
/// # Cancel safety
/// Awaiting the handle by reference (`(&mut future).await`) in a `select!` is cancel safe: the result is not lost.
#[must_use = "the operation runs, but its result and its error are lost unless the handle is awaited"]
pub struct ApiFuture<T> {
    /// The receiver of the result. The result is boxed, since the channel reserves memory for it from the start.
    result: oneshot::Receiver<Box<Result<T>>>,
    progress: Arc<ProgressCell>,
    time: Arc<dyn Clock>,
    operation: &'static str,
    _task: Task,
}

impl<T> ApiFuture<T> {
    pub(crate) fn new(
        result: oneshot::Receiver<Box<Result<T>>>,
        progress: Arc<ProgressCell>,
        time: Arc<dyn Clock>,
        operation: &'static str,
        task: Task,
    ) -> Self {
        Self {
            result,
            progress,
            time,
            operation,
            _task: task,
        }
    }

    /// Returns the current progress of the operation.
    pub fn progress(&self) -> Progress {
        self.progress.snapshot()
    }

    /// Returns the request id that the server assigned when it accepted the operation. If the operation consists of several chunks,
    /// this is the id of the last accepted chunk.
    pub fn request_id(&self) -> Option<String> {
        self.progress.snapshot().request_id
    }

    /// Ends the wait for the result, like dropping the handle.
    pub fn cancel(self) {}

    /// Waits for the result, but only until `limit` has passed.
    ///
    /// # Errors
    /// `Timeout` if the limit passes first. The server may still carry out the operation.
    pub async fn within(self, limit: Duration) -> Result<T>
    where
        T: Send,
    {
        let (time, operation) = (Arc::clone(&self.time), self.operation);
        let at = time.now().after(limit);
        time.deadline(at, self).await.unwrap_or_else(|| {
            let message = format!(
                "no result within {} s; the server may still finish it",
                limit.as_secs_f64()
            );
            Err(Error::new(ErrorKind::Timeout, Sent::MaybeSent, message).with_operation(operation))
        })
    }
}

impl<T> Future for ApiFuture<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let operation = self.operation;
        Pin::new(&mut self.result).poll(cx).map(|delivered| {
            delivered
                .map_or_else(|_| Err(aborted()), |result| *result)
                .map_err(|error| error.with_operation(operation))
        })
    }
}

/// Returns the error of an operation whose background task was dropped, since its runtime has ended.
fn aborted() -> Error {
    let message = "the background task was aborted; its runtime has ended";
    Error::new(ErrorKind::Aborted, Sent::MaybeSent, message)
}

impl<T> fmt::Debug for ApiFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiFuture")
            .field("operation", &self.operation)
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}
