//! Starting operations: one background task each, owned by the handle that waits for it.

use std::future::Future;
use std::sync::Arc;

use tinkers_core::{
    Error, ErrorKind, HttpResponse, Moment, ProgressCell, Result, Sent, SessionContext, Time,
};
use tinkers_wire::Promise;
use tokio::sync::oneshot;

use crate::{ApiFuture, catch_unwind};

/// What an operation's work is given.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The session that it belongs to.
    pub session: Arc<dyn SessionContext>,
    /// Where its progress is told.
    pub progress: Arc<ProgressCell>,
    /// The public method, as `Client.method`.
    pub name: &'static str,
    /// When it is given up, news or not.
    pub deadline: Option<Moment>,
}

impl Operation {
    /// An operation that begins now.
    pub fn new(session: Arc<dyn SessionContext>, name: &'static str) -> Self {
        let now = session.caller().time.now();
        Self {
            progress: Arc::new(ProgressCell::new(now)),
            deadline: session.operation_deadline().map(|limit| now.after(limit)),
            session,
            name,
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
    // Boxed, since each layer around it would hold it twice.
    let work = Box::pin(work);
    let watched = async move {
        let time = &*operation.session.caller().time;
        let stalled = operation.progress.stalled(time, limit);
        let work = first(catch_unwind(work), stalled);
        let result = first(work, overdue(&operation, time)).await;
        if sender.send(result).is_err() {
            tracing::debug!(operation = name, request_id = ?operation.progress.snapshot().request_id, "nobody waits for this result");
        }
    };
    let task = session.spawner().spawn(Box::pin(watched));
    ApiFuture::new(receiver, progress, time, name, task)
}

/// Completes when the operation has taken as long as it may.
async fn overdue(operation: &Operation, time: &dyn Time) -> Error {
    match operation.deadline {
        Some(at) => time.sleep_until(at).await,
        None => std::future::pending().await,
    }
    let message = "the operation took longer than the client's operation_deadline";
    Error::new(ErrorKind::Timeout, operation.progress.sent(), message)
}

/// The work's result, or the reason to give it up that comes before it.
async fn first<T>(
    work: impl Future<Output = Result<T>> + Send,
    given_up: impl Future<Output = Error> + Send,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut given_up = std::pin::pin!(given_up);
    std::future::poll_fn(move |cx| {
        if let std::task::Poll::Ready(result) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(result);
        }
        given_up.as_mut().poll(cx).map(Err)
    })
    .await
}

/// Reads the promise of a submission.
///
/// # Errors
/// `Protocol` when the answer is none.
pub fn promise(answer: &HttpResponse) -> Result<Promise> {
    Promise::read(&answer.body).map_err(|error| {
        let message = format!("the server's answer is no promise of a result: {error}");
        Error::new(ErrorKind::Protocol, Sent::Answered, message)
            .with_answer(answer.status.as_u16(), &answer.body)
    })
}
