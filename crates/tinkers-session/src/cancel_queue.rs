//! The queue of abandoned samples, which a task of the session cancels on the server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tinkers_core::retry::is_missing_route;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{Call, Caller, Error, RouteClass};
use tinkers_futures::catch_unwind;
use tinkers_wire::{CancelFuture, routes, to_json};
use tokio::sync::Notify;

use crate::session_state::SessionState;

/// The maximum number of queued cancellations. Further samples are not cancelled: the server computes them to the end.
const MAX_QUEUED: usize = 4096;

/// The timeout of one cancellation request.
const LIMIT: Duration = Duration::from_secs(30);

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
    /// Adds a sample by its request id. Does nothing if the queue is full or closed.
    pub(crate) fn push(&self, request_id: &str) {
        let mut queue = self.lock();
        if queue.is_closed || queue.request_ids.len() >= MAX_QUEUED {
            return;
        }
        queue.request_ids.push_back(request_id.to_owned());
        drop(queue);
        self.added.notify_one();
    }

    /// Cancels the queued samples on the server, a batch at a time, until the session is closed or the server turns out to lack the route.
    /// The requests of a batch are sent concurrently; the server's dynamic configuration sets their number.
    pub(crate) async fn run(self: Arc<Self>, caller: Caller, state: Arc<SessionState>) {
        loop {
            self.added.notified().await;
            loop {
                let size = state.dynamic.load().sample_cancel_max_batch_size.max(1);
                let batch = self.take(usize::try_from(size).unwrap_or(MAX_QUEUED));
                if batch.is_empty() {
                    break;
                }
                let cancellations = batch.into_iter().map(|id| cancel(&caller, id));
                let outcomes = join_all(cancellations).await;
                let is_over = state.check_open().is_err();
                if is_over || outcomes.contains(&Cancellation::MissingRoute) {
                    self.close();
                    return;
                }
            }
        }
    }

    fn take(&self, most: usize) -> Vec<String> {
        let mut queue = self.lock();
        let count = most.min(queue.request_ids.len());
        queue.request_ids.drain(..count).collect()
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
    call.attempt_limit = Some(LIMIT);
    // A panic in the transport is a failed cancellation.
    match catch_unwind(caller.call(call)).await {
        Ok(_) => Cancellation::Done,
        Err(error) => {
            catch_panic(
                || tracing::debug!(%error, "cannot cancel an abandoned sample; the server computes it to the end"),
            );
            failure(&error)
        }
    }
}

/// Classifies the error of a cancellation. A server that has the route responds with 400, 404 or 422 to the id of a sample that it no
/// longer knows, so these statuses do not show that the route is missing.
fn failure(error: &Error) -> Cancellation {
    match error.status() {
        Some(status) if is_missing_route(status) && !matches!(status, 400 | 404 | 422) => {
            Cancellation::MissingRoute
        }
        _ => Cancellation::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_queue_is_bounded_and_keeps_the_oldest_samples() {
        let queue = CancelQueue::default();
        for id in 0..MAX_QUEUED + 10 {
            queue.push(&id.to_string());
        }
        let all = queue.take(usize::MAX);
        assert_eq!(all.len(), MAX_QUEUED);
        assert_eq!(all[MAX_QUEUED - 1], (MAX_QUEUED - 1).to_string());
        queue.close();
        queue.push("late");
        assert!(queue.take(1).is_empty());
    }
}
