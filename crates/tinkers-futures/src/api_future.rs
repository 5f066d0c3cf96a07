//! The handle of a running operation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tinkers_core::{Clock, Error, ErrorKind, Progress, ProgressCell, Result, Sent, Task};
use tokio::sync::oneshot;

/// The handle of a running operation, which is awaited for the result. It can be awaited on any executor, or without an executor by
/// `tinkers::block_on`.
///
/// The operation runs in the background, whether the handle is polled or not.
///
/// ```no_run
/// # async fn wait(step: tinkers_futures::ApiFuture<f64>) -> tinkers_core::Result<()> {
/// use std::time::Duration;
///
/// println!("{:?}", step.progress());
/// let result = step.within(Duration::from_secs(600)).await?;
/// println!("result {result}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The error of the operation. [`ErrorKind::Aborted`] if the runtime of the operation ended: keep the runtime alive as long as the client.
///
/// # Cancel safety
/// Dropping the handle, or [`ApiFuture::cancel`], ends the wait. A training call keeps its queue position and is still submitted, while a
/// sample is abandoned. Awaiting the handle by reference (`(&mut future).await`) in a `select!` is cancel safe: the result is not lost.
#[must_use = "the operation runs, but its result and its error are lost unless the handle is awaited"]
pub struct ApiFuture<T> {
    /// The receiver of the operation's result, which the background task sends. The result is boxed, since the channel reserves memory for
    /// it from the start.
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

    /// Returns the current progress of the operation, such as its phase and the state of the server's queue.
    pub fn progress(&self) -> Progress {
        self.progress.snapshot()
    }

    /// Returns the id that the server gave the request; `None` before the request is accepted. For a call of several requests, returns the id of
    /// the request that was accepted last.
    pub fn request_id(&self) -> Option<String> {
        self.progress.snapshot().request_id
    }

    /// Ends the wait for the result, as dropping the handle does.
    pub fn cancel(self) {}

    /// Waits for the result for at most `limit`.
    ///
    /// # Errors
    /// `Timeout` if there is no result after `limit`. The server may still carry out the operation, so do not repeat a training call.
    ///
    /// # Cancel safety
    /// Dropping the future drops the handle.
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
