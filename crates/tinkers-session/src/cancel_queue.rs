//! The queue of abandoned samples, which a task of the session cancels on the server.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tinkers_core::{Call, Caller, Error, RecoveredError, RouteClass};
use tinkers_futures::catch_unwind;
use tinkers_wire::{CancelFuture, routes, to_json};
use tokio::sync::Notify;

use crate::session_state::SessionState;

/// The maximum number of queued cancellations. Further samples are not cancelled: the server computes them to the end.
const MAX_QUEUED: usize = 4096;

/// The timeout of one attempt of a cancellation.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// The time limit of a cancellation with its retries. Later it saves the server little work.
const LIMIT: Duration = Duration::from_secs(60);

/// The samples of a session that the program has abandoned and that are still to be cancelled on the server.
#[derive(Debug, Default)]
pub(crate) struct CancelQueue {
    queue: Mutex<Queue>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    request_ids: VecDeque<String>,
    /// Whether no task takes from the queue any more, so that nothing is added.
    is_closed: bool,
}

impl CancelQueue {
    /// Adds a sample by its request id. Returns `false` if the queue is full, so that the sample is not cancelled. Ignores samples of a closed
    /// session, whose samples end with it.
    pub(crate) fn push(&self, request_id: &str) -> bool {
        let mut queue = self.lock();
        if queue.is_closed || queue.request_ids.len() >= MAX_QUEUED {
            return queue.is_closed;
        }
        queue.request_ids.push_back(request_id.to_owned());
        drop(queue);
        self.added.notify_one();
        true
    }

    /// Cancels the queued samples on the server, until the session is closed or the server turns out to lack the route. The server's
    /// dynamic configuration sets the maximum number of concurrent requests.
    pub(crate) async fn run(self: Arc<Self>, caller: Caller, state: Arc<SessionState>) {
        let mut running = FuturesUnordered::new();
        loop {
            let most = state.dynamic.load().sample_cancel_max_batch_size.max(1);
            while running.len() < usize::try_from(most).unwrap_or(usize::MAX)
                && let Some(request_id) = self.next()
            {
                running.push(cancel(&caller, request_id));
            }
            let added = pin!(self.added.notified());
            let outcome = if running.is_empty() {
                added.await;
                None
            } else {
                match select(running.next(), added).await {
                    Either::Left((outcome, _)) => outcome,
                    Either::Right(_) => None,
                }
            };
            if state.check_open().is_err() || outcome == Some(Cancellation::MissingRoute) {
                self.close();
                return;
            }
        }
    }

    fn next(&self) -> Option<String> {
        self.lock().request_ids.pop_front()
    }

    fn close(&self) {
        let mut queue = self.lock();
        queue.is_closed = true;
        queue.request_ids = VecDeque::new();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a cancellation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancellation {
    Done,
    /// The request has failed, so the server may compute the sample to the end.
    Failed,
    /// The server has no route for cancellations.
    MissingRoute,
}

async fn cancel(caller: &Caller, request_id: String) -> Cancellation {
    let body = to_json(&CancelFuture { request_id });
    let mut call = Call::post(routes::CANCEL_FUTURE, body, RouteClass::Control);
    call.attempt_limit = Some(ATTEMPT_LIMIT);
    call.deadline = Some(caller.time.now().after(LIMIT));
    // A panic in the transport is a failed cancellation.
    match catch_unwind(caller.call(call)).await {
        Ok(_) => Cancellation::Done,
        Err(error) => {
            let recovered_errors = &caller.recovered_errors;
            recovered_errors.record(RecoveredError::Cancellation, &error);
            failure(&error)
        }
    }
}

/// Classifies the error of a cancellation. A server that has the route may respond with 400, 404, 410 or 422 to the id of a sample that it no
/// longer knows, so these statuses do not show that the route is missing.
fn failure(error: &Error) -> Cancellation {
    match error.status() {
        Some(405 | 501) => Cancellation::MissingRoute,
        _ => Cancellation::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_queue_is_bounded_and_keeps_the_oldest_samples() {
        let queue = CancelQueue::default();
        for id in 0..MAX_QUEUED {
            assert!(queue.push(&id.to_string()));
        }
        assert!(!queue.push("one too many"));
        assert_eq!(queue.next().as_deref(), Some("0"));
        assert!(queue.push("next"));
        queue.close();
        assert!(queue.push("late"), "it is ignored, not lost");
        assert_eq!(queue.next(), None);
    }
}
