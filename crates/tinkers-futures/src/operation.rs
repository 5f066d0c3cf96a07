//! Starting operations: one background task each, owned by the handle that waits for it.

use std::future::Future;
use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, HttpResponse, ProgressCell, Result, Sent, SessionContext};
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
}

impl Operation {
    /// An operation that begins now.
    pub fn new(session: Arc<dyn SessionContext>, name: &'static str) -> Self {
        let progress = Arc::new(ProgressCell::new(session.caller().time.now()));
        Self {
            session,
            progress,
            name,
        }
    }
}

/// Starts `work` on the I/O runtime under the session's progress deadline. A panic, an abort and a stall reach the caller
/// as an error, exactly once.
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
    let watched = async move {
        let stalled = operation
            .progress
            .stalled(&*operation.session.caller().time, limit);
        let result = first(catch_unwind(work), stalled).await;
        if sender.send(result).is_err() {
            tracing::debug!(operation = name, request_id = ?operation.progress.snapshot().request_id, "nobody waits for this result");
        }
    };
    let task = session.spawner().spawn(Box::pin(watched));
    ApiFuture::new(receiver, progress, time, name, task)
}

/// The work's result, or the stall that comes before it.
async fn first<T>(
    work: impl Future<Output = Result<T>> + Send,
    stalled: impl Future<Output = Error> + Send,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut stalled = std::pin::pin!(stalled);
    std::future::poll_fn(move |cx| {
        if let std::task::Poll::Ready(result) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(result);
        }
        stalled.as_mut().poll(cx).map(Err)
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
