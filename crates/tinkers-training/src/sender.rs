//! The task that sends a model's requests while there are any.

use std::sync::Arc;

use tinkers_core::Setback;
use tinkers_futures::catch_unwind;

use crate::delivery::Delivery;
use crate::order::Sending;
use crate::turns::{Queued, Turns};

/// Starts the task that sends. It ends by itself; should it be aborted, what it was given sees to it that nobody is left waiting.
///
/// Called without the lock of the order: on a runtime that has ended the task is dropped inside `spawn`, and that takes the lock.
pub(crate) fn start(turns: &Arc<Turns>, sending: Sending<Queued>) {
    let task = run(Arc::clone(turns), sending);
    turns.session().spawner().spawn(Box::pin(task)).detach();
}

async fn run(turns: Arc<Turns>, mut sending: Sending<Queued>) {
    while let Some(Queued { turn, reply, .. }) = sending.next() {
        // What was queued when the session was closed is not submitted after it. Its numbers are used up with the client.
        if let Err(closed) = turns.session().check_open() {
            if let Err(Err(closed)) = reply.send(Err(closed)) {
                let setbacks = &turns.session().caller().setbacks;
                setbacks.note(Setback::Undelivered, &closed);
            }
            continue;
        }
        turns.begins(&turn.progress);
        let mark = turn.mark;
        let mut delivery = Delivery::new(&turns, turn, reply);
        let sent = catch_unwind(async {
            delivery.run().await;
            Ok(())
        });
        if let Err(panic) = mark.carry(sent).await {
            delivery.broke_off(panic);
        }
    }
}
