//! The send task of a model, which sends queued submissions in order.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tinkers_core::{ProgressCell, Result};
use tinkers_futures::panic_error;

use crate::delivery::Delivery;
use crate::requests::Request;
use crate::submission_queue::{Entry, OutcomeReceiver, Queued, SendPermit, SubmissionQueue};

/// Queues the requests of a training call. If no task sends the queued calls of the model, starts such a task. Returns the receiver of the
/// outcome of the call.
pub(crate) fn submit(
    queue: &Arc<SubmissionQueue>,
    operation: &'static str,
    requests: Vec<Arc<dyn Request>>,
    progress: Arc<ProgressCell>,
) -> Result<OutcomeReceiver> {
    let (outcome, permit) = queue.push(operation, requests, progress)?;
    if let Some(permit) = permit {
        // Without the lock of the queue: on a runtime that has shut down, `spawn` drops the task at once, and the drop takes the lock.
        let task = send_all(Arc::clone(queue), permit);
        queue.session().spawner().spawn(Box::pin(task)).detach();
    }
    Ok(outcome)
}

/// Sends queued training calls until the queue is empty. If the task that runs this function is aborted, `permit` is dropped, which fails the
/// remaining calls.
async fn send_all(queue: Arc<SubmissionQueue>, mut permit: SendPermit<Entry>) {
    while let Some(entry) = permit.next() {
        // Nothing is submitted after the close of the session, so the sequence numbers are not needed any more.
        if let Err(closed) = queue.session().check_open() {
            entry.fail(closed);
            continue;
        }
        queue.set_head(&entry.submission.progress);
        let mark = entry.submission.mark;
        let mut delivery = Delivery::new(&queue, entry.submission, entry.reply);
        let delivered = mark.carry(AssertUnwindSafe(delivery.run()).catch_unwind());
        if let Err(panic) = delivered.await {
            delivery.abort(panic_error(&*panic));
        }
    }
}
