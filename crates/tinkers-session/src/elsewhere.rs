//! A session's own requests, made on the I/O runtime whatever executor waits for them.

use std::future::Future;

use tinkers_core::nesting::Mark;
use tinkers_core::{Error, ErrorKind, Sent, Spawn};
use tinkers_futures::catch_unwind;
use tokio::sync::oneshot;

/// Does `work` on the I/O runtime, so that its pauses and repeats go on while the caller's executor is busy with something else.
/// Dropping the future ends the work.
pub(crate) async fn on_io<T: Send + 'static>(
    spawner: &dyn Spawn,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    // A request under way that makes this one, such as in a transport layer, is waiting for it here.
    let mark = Mark::here();
    let task = spawner.spawn(Box::pin(async move {
        // Whoever waited may have gone at this very moment.
        let _ = sender.send(mark.carry(catch_unwind(work)).await);
    }));
    let outcome = receiver.await;
    drop(task);
    outcome.unwrap_or_else(|_| {
        let message = "the runtime that the request was made on has ended";
        Err(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message))
    })
}
