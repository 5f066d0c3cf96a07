//! Starts operations. Each operation has one background task, which its handle owns.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tinkers_core::nesting::NestedMark;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    BoxFuture, Error, ErrorKind, ProgressCell, RecoveredError, Result, RouteClass, Sent,
    SessionContext, Timestamp,
};
use tokio::sync::oneshot;

use crate::{ApiFuture, catch_unwind};

/// A client-side queue of operations, which reports when it last made progress. Operations wait in this queue before they ask the rate
/// limiter for permission to send a request.
pub trait QueueActivity: Send + Sync + fmt::Debug {
    /// Returns the last time at which the queue moved: its first entry changed, or the request of that entry made progress.
    fn last_activity(&self) -> Option<Timestamp>;
}

/// The context of an operation: its session, deadline, and the place where its progress is reported.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The session to which the operation belongs.
    pub session: Arc<dyn SessionContext>,
    /// The progress of the operation, which its [`ApiFuture`] reports to the user.
    pub progress: Arc<ProgressCell>,
    /// The name of the public method that started the operation, as `Client.method`, for errors and logs.
    pub name: &'static str,
    /// The route class of the operation's requests, such as training or sampling. The rate limiter has a queue for each class, in which the
    /// requests wait.
    pub class: RouteClass,
    /// The time at which the whole operation times out.
    pub deadline: Option<Timestamp>,
    /// The client-side queue in which the operation waits before it asks the rate limiter for permission to send a request; `None` if there
    /// is no such queue.
    pub queue: Option<Arc<dyn QueueActivity>>,
}

impl Operation {
    /// Creates the context of an operation that starts now.
    pub fn new(session: Arc<dyn SessionContext>, name: &'static str, class: RouteClass) -> Self {
        let now = session.caller().time.now();
        Self {
            progress: Arc::new(ProgressCell::new(now)),
            deadline: session.operation_deadline().map(|limit| now.after(limit)),
            session,
            name,
            class,
            queue: None,
        }
    }

    /// Adds a client-side queue in which the operation waits before it asks the rate limiter for permission to send a request. While this
    /// queue makes progress, the operation does not count as stalled.
    #[must_use]
    pub fn in_queue(mut self, queue: Arc<dyn QueueActivity>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Returns the time at which the operation fails if it makes no further progress. This is the operation deadline, or `limit` after the
    /// last progress, whichever comes first.
    ///
    /// # Errors
    /// `Stalled` if there was no progress for `limit`, and `Timeout` if the operation deadline has passed.
    fn timeout_at(&self, limit: Duration) -> Result<Timestamp> {
        let caller = self.session.caller();
        let now = caller.time.now();
        let queue_moved = || self.queue.as_ref().and_then(|queue| queue.last_activity());
        let moved = || {
            caller
                .admission
                .last_queue_progress(self.class)
                .max(queue_moved())
        };
        let stalls_at = self.progress.check_stall(now, limit, moved)?;
        match self.deadline {
            Some(deadline) if deadline <= now => {
                let message = "the operation took longer than the client's operation_deadline";
                Err(Error::new(
                    ErrorKind::Timeout,
                    self.progress.sent(),
                    message,
                ))
            }
            Some(deadline) => Ok(stalls_at.min(deadline)),
            None => Ok(stalls_at),
        }
    }
}

/// Starts `work` in a background task on the I/O runtime, and returns a handle for its result. The operation fails if it makes no progress
/// within the session's progress deadline, or exceeds the operation deadline.
///
/// The handle returns exactly one result. It is an error if `work` panics, if the task is aborted, or if a deadline passes.
pub fn start<T, F>(operation: Operation, work: F) -> ApiFuture<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let time = Arc::clone(&operation.session.caller().time);
    let progress = Arc::clone(&operation.progress);
    let limit = operation.session.progress_deadline();
    let (name, session) = (operation.name, Arc::clone(&operation.session));
    let mut work = catch_unwind(work);
    // The task runs outside of the current request, so the flag for nested requests is carried over.
    let mark = NestedMark::here();
    let watched = async move {
        // Both limits share one timer, since many operations wait at once.
        let mut timer: Option<BoxFuture<'static, ()>> = None;
        let result = poll_fn(|cx| {
            // The work is polled first, so that an available result wins over a passed limit.
            if let Poll::Ready(result) = mark.during(|| Pin::new(&mut work).poll(cx)) {
                return Poll::Ready(result);
            }
            loop {
                if let Some(timer) = &mut timer
                    && timer.as_mut().poll(cx).is_pending()
                {
                    return Poll::Pending;
                }
                match operation.timeout_at(limit) {
                    Ok(at) => timer = Some(operation.session.caller().time.sleep_until(at)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await;
        // The resources of the work are released before its result is delivered.
        drop(work);
        let result = result.map_err(|error| with_earlier_requests(error, &operation.progress));
        if let Err(error) = &result {
            operation.session.operation_failed(operation.name, error);
        }
        if sender.send(Box::new(result)).is_err() {
            operation
                .session
                .caller()
                .recovered_errors
                .count(RecoveredError::Undelivered);
            catch_panic(
                || tracing::debug!(recovered_error = RecoveredError::Undelivered.name(), operation = operation.name, request_id = ?operation.progress.snapshot().request_id, "the caller of this operation dropped its future"),
            );
        }
    };
    let task = session.spawner().spawn(Box::pin(watched));
    ApiFuture::new(receiver, progress, time, name, task)
}

/// Changes an error from `NotSent` to `MaybeSent` if an earlier request of the same operation was sent, since the server may have carried
/// out the operation.
fn with_earlier_requests(error: Error, progress: &ProgressCell) -> Error {
    if error.sent() == Sent::NotSent && progress.may_be_sent() {
        error.with_sent(Sent::MaybeSent)
    } else {
        error
    }
}
