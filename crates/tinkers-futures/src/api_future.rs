//! The handle on an operation under way.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tinkers_core::{Clock, Error, ErrorKind, Progress, ProgressCell, Result, Sent, Task};
use tokio::sync::oneshot;

/// An operation under way. Await it on any executor, or on none with `tinkers::block_on`.
///
/// The work goes on whether it is polled or not. Dropping or cancelling it ends the *waiting*: a training call that has
/// taken its place in the order is submitted all the same; a sample is given up.
///
/// # Cancel safety
/// Awaiting by reference (`(&mut future).await`) in a `select!` loses nothing.
pub struct ApiFuture<T> {
    /// Boxed, since there is room for it from the start.
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

    /// What is known of it now.
    pub fn progress(&self) -> Progress {
        self.progress.snapshot()
    }

    /// The server's id of the operation, once it was accepted. Of several chunks, the last accepted one's.
    pub fn request_id(&self) -> Option<String> {
        self.progress.snapshot().request_id
    }

    /// Ends the waiting, as dropping does.
    pub fn cancel(self) {}

    /// Waits no longer than `limit` from now.
    ///
    /// # Errors
    /// `Timeout` when the limit passes first; the operation may still be carried out by the server.
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

/// The task went away without a word: its runtime ended.
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
