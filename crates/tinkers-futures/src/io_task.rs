//! Runs futures on the I/O runtime, so that they can be awaited on any executor.

use tinkers_core::nesting::NestedMark;
use tinkers_core::{Accepted, BoxFuture, Call, Caller, Error, ErrorKind, Result, Sent, Spawn};
use tokio::sync::oneshot;

use crate::catch_unwind;

/// Runs `work` on the I/O runtime, so that the timers and retries of `work` do not depend on the caller's executor. Dropping the returned
/// future cancels `work`. `work` is boxed, so that the caller's future stays small.
///
/// # Errors
/// The error of `work`, or `Aborted` if `work` panics or the runtime ends.
pub async fn on_io<T: Send + 'static>(
    spawner: &dyn Spawn,
    work: BoxFuture<'static, Result<T>>,
) -> Result<T> {
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

/// Makes a call with its retries on the I/O runtime, and fails with `Timeout` when the deadline of the call passes.
///
/// # Errors
/// The error of the call.
pub async fn call_on_io(spawner: &dyn Spawn, caller: Caller, call: Call) -> Result<Accepted> {
    let work = Box::pin(async move {
        let (deadline, operation) = (call.deadline, call.operation);
        let Some(at) = deadline else {
            return caller.call(call).await;
        };
        let called = caller.time.deadline(at, caller.call(call)).await;
        called.unwrap_or_else(|| {
            let message = "no response before the deadline";
            let error = Error::new(ErrorKind::Timeout, Sent::MaybeSent, message);
            Err(match operation {
                Some(operation) => error.with_operation(operation),
                None => error,
            })
        })
    });
    on_io(spawner, work).await
}
