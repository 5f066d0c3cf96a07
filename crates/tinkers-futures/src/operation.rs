//! Starting operations: one background task each, owned by the handle that waits for it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tinkers_core::contain::contain;
use tinkers_core::nesting::Mark;
use tinkers_core::{
    BoxFuture, Error, ErrorKind, HttpResponse, ProgressCell, RecoveredError, Result, RouteClass,
    Sent, SessionContext, Timestamp,
};
use tinkers_wire::{PollResponse, SubmissionResponse};
use tokio::sync::oneshot;

use crate::retrieve::operation_failed;
use crate::{ApiFuture, catch_unwind};

/// Activity of a client-side queue in which operations wait before they ask for admission.
pub trait QueueActivity: Send + Sync + fmt::Debug {
    /// Returns when the queue last moved: when its first entry changed, or that entry's request made progress.
    fn last_activity(&self) -> Option<Timestamp>;
}

/// What an operation's work is given.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The session that it belongs to.
    pub session: Arc<dyn SessionContext>,
    /// Where its progress is told.
    pub progress: Arc<ProgressCell>,
    /// The public method, as `Client.method`.
    pub name: &'static str,
    /// The class of its requests, in whose queue it waits for its turn.
    pub class: RouteClass,
    /// When it is given up, news or not.
    pub deadline: Option<Timestamp>,
    /// Where it waits before it asks for admission.
    pub queue: Option<Arc<dyn QueueActivity>>,
}

impl Operation {
    /// An operation that begins now.
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

    /// The same, waiting in `queue` first: while that moves, the operation does not count as stalled.
    #[must_use]
    pub fn in_queue(mut self, queue: Arc<dyn QueueActivity>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// When it is given up, should no news come.
    fn patience(&self, limit: Duration) -> Result<Timestamp> {
        let caller = self.session.caller();
        let now = caller.time.now();
        let queue_moved = || self.queue.as_ref().and_then(|queue| queue.last_activity());
        let moved = || caller.admission.moved(self.class).max(queue_moved());
        let stalls_at = self.progress.patience(now, limit, moved)?;
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

/// Starts `work` on the I/O runtime under the session's deadlines. A panic, an abort, a stall and a deadline that passes reach
/// the caller as an error, exactly once.
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
    // It runs elsewhere: whether a request under way made it must go along.
    let mark = Mark::here();
    let watched = async move {
        // One for both limits, and no future for either: many wait at once.
        let mut alarm: Option<BoxFuture<'static, ()>> = None;
        let result = poll_fn(|cx| {
            // The work first: a result that is there wins over the reasons to give it up.
            if let Poll::Ready(result) = mark.during(|| Pin::new(&mut work).poll(cx)) {
                return Poll::Ready(result);
            }
            loop {
                if let Some(alarm) = &mut alarm
                    && alarm.as_mut().poll(cx).is_pending()
                {
                    return Poll::Pending;
                }
                match operation.patience(limit) {
                    Ok(at) => alarm = Some(operation.session.caller().time.sleep_until(at)),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await;
        // What the work held is free before its result is told.
        drop(work);
        let result = result.map_err(|error| with_earlier_requests(error, &operation.progress));
        if sender.send(Box::new(result)).is_err() {
            operation
                .session
                .caller()
                .recovered_errors
                .count(RecoveredError::Undelivered);
            contain(
                || tracing::debug!(recovered_error = RecoveredError::Undelivered.name(), operation = operation.name, request_id = ?operation.progress.snapshot().request_id, "the caller of this operation dropped its future"),
            );
        }
    };
    let task = session.spawner().spawn(Box::pin(watched));
    ApiFuture::new(receiver, progress, time, name, task)
}

/// An operation may be several requests: the one that failed may not have left when an earlier one has.
fn with_earlier_requests(error: Error, progress: &ProgressCell) -> Error {
    if error.sent() == Sent::NotSent && progress.has_left() {
        error.with_sent(Sent::MaybeSent)
    } else {
        error
    }
}

/// Reads the promise of a submission.
///
/// # Errors
/// `OperationFailed` when the answer tells of a failure, and `Protocol` when it has no request id for another reason.
pub fn promise(answer: &HttpResponse) -> Result<SubmissionResponse> {
    SubmissionResponse::read(&answer.body).map_err(|error| {
        let error = match PollResponse::failure_in(&answer.body) {
            Some(PollResponse::Failed { error, category }) => operation_failed(&error, category),
            _ => {
                let message = format!("the submission response carries no request id: {error}");
                Error::new(ErrorKind::Protocol, Sent::Answered, message)
            }
        };
        error.with_answer(answer.status.as_u16(), &answer.body)
    })
}

/// Whether an answer to a submission can be read, for [`Call::is_readable`](tinkers_core::Call::is_readable).
pub fn is_promise(answer: &HttpResponse) -> bool {
    SubmissionResponse::read(&answer.body).is_ok()
}
