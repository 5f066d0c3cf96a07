//! Runs futures on the I/O runtime, so that they can be awaited on any executor.

use tinkers_core::nesting::NestedMark;
use tinkers_core::{BoxFuture, Error, ErrorKind, Sent, Spawn};
use tinkers_futures::catch_unwind;
use tokio::sync::oneshot;

/// Runs `work` on the I/O runtime, so that the timers and retries of `work` do not depend on the caller's executor. Dropping the returned
/// future cancels `work`. `work` is boxed, so that the caller's future stays small.
pub(crate) async fn on_io<T: Send + 'static>(
    spawner: &dyn Spawn,
    work: BoxFuture<'static, Result<T, Error>>,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    // If a transport layer makes this call inside another request, that request waits for this call.
    let mark = NestedMark::here();
    let task = spawner.spawn(Box::pin(async move {
        // The caller may have dropped the future.
        let _ = sender.send(mark.carry(catch_unwind(work)).await);
    }));
    let outcome = receiver.await;
    drop(task);
    outcome.unwrap_or_else(|_| {
        let message = "the runtime of the request has ended";
        Err(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message))
    })
}
