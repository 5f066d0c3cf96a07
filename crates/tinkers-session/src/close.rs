//! The end of a session at the caller's wish.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tinkers_core::{Call, Caller, Error, ErrorKind, Policy, RecoveredError, RouteClass, Timeouts};
use tinkers_wire::{FinishReason, FinishSession, routes, to_json};

use crate::session::Session;

/// How long the finish is repeated while the server does not take it, the pauses included. A longer wait that the server asks
/// for, or a bill that is not paid, must not hold up a program that wants to end.
const FINISH_WINDOW: Duration = Duration::from_secs(60);

impl Session {
    /// Closes the session: tells the server why, then stops the heartbeats.
    ///
    /// Every later call fails with `Closed`, and so does at once every call that the server has not accepted yet, wherever it
    /// waits; an error with [`Sent::MaybeSent`](tinkers_core::Sent) says that an attempt of it may have been applied. Nothing is
    /// submitted any more. The results of requests that were accepted before are still fetched for their waiters, as far as the
    /// server finishes them. Heartbeats go on until the server knows of the end.
    ///
    /// Closing again does nothing. It takes about a minute at most, and where the server wants to be asked again later than that,
    /// the error says when. The session is closed here even when this fails or is dropped; then the server ends it after its
    /// expiry.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<(), Error> {
        let was_open = self.life.close();
        // Stopped when this is over, whichever way; heartbeats go on until the server knows.
        let tasks = self
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if !was_open {
            return Ok(());
        }
        let body = to_json(&FinishSession { reason, detail });
        let path = routes::finish_session(&self.id);
        let mut call = Call::post(path, body, RouteClass::Control);
        call.operation = Some("ServiceClient.close");
        call.policy = Policy {
            window: FINISH_WINDOW,
            ..Policy::PATIENT
        };
        call.deadline = Some(self.caller.time.now().after(FINISH_WINDOW));
        call.timeouts = Timeouts::within(Duration::from_secs(10));
        // The one submission that is made for a closed session.
        let caller = Caller {
            closing: Arc::default(),
            ..self.caller.clone()
        };
        let told = self.call_on_io(caller, call).await;
        drop(tasks);
        match told {
            Ok(_) => Ok(()),
            // Not every server has sessions that can be finished, and this one may have ended by now.
            Err(error) if is_nothing_to_finish(error.kind()) => {
                self.caller
                    .recovered_errors
                    .note(RecoveredError::Close, &error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_nothing_to_finish(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::ResultLost | ErrorKind::SessionLost
    )
}
