//! The task that sends a model's requests while there are any.

use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, Sent};
use tinkers_futures::catch_unwind;

use crate::delivery::Delivery;
use crate::poison::{Poison, Recovery};
use crate::turns::Turns;

/// The task that sends. However it ends, nobody is left waiting.
pub(crate) struct Sender {
    turns: Arc<Turns>,
    finished: bool,
}

impl Sender {
    /// Starts it. It ends by itself.
    pub(crate) fn start(turns: &Arc<Turns>) {
        let sender = Self {
            turns: Arc::clone(turns),
            finished: false,
        };
        let spawner = turns.session().spawner();
        spawner.spawn(Box::pin(sender.run())).detach();
    }

    async fn run(mut self) {
        while let Some((turn, reply)) = self.turns.next() {
            // What was queued when the session was closed is not submitted after it. Its numbers are used up with the client.
            if let Err(closed) = self.turns.session().check_open() {
                let _ = reply.send(Err(closed));
                continue;
            }
            let mut delivery = Delivery::new(&self.turns, turn, reply);
            let sent = catch_unwind(async {
                delivery.run().await;
                Ok(())
            });
            if let Err(panic) = sent.await {
                delivery.broke_off(panic);
            }
        }
        self.finished = true;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The runtime ended, or the task was aborted.
        let message =
            "the task that sends this model's requests was aborted; its runtime has ended";
        self.turns.poison(Poison {
            cause: Error::new(ErrorKind::Aborted, Sent::MaybeSent, message),
            recovery: Recovery::Never,
        });
        self.turns.sending_ended();
    }
}
