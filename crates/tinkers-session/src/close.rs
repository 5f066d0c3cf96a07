//! The close of a session by the caller.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tinkers_core::{Call, CallPolicy, Caller, Error, ErrorKind, RecoveredError, RouteClass};
use tinkers_wire::{FinishReason, FinishSession, routes, to_json};

use crate::session::Session;

/// The time limit of all attempts to finish the session, pauses included. Neither a longer hint nor an unpaid bill may delay a program
/// that wants to end.
const FINISH_WINDOW: Duration = Duration::from_secs(60);

impl Session {
    /// Closes the session: reports the reason to the server, then stops the heartbeats.
    ///
    /// Calls that the server has not accepted yet fail at once with `Closed`, and so do all later calls. An error with
    /// [`Sent::MaybeSent`](tinkers_core::Sent) says that an attempt of the call may have been applied. Results of requests that were
    /// accepted before are still retrieved for their waiters, as far as the server finishes them. Heartbeats continue until the
    /// server knows of the close.
    ///
    /// Closing a closed session does nothing. A close takes up to about a minute. The session counts as closed even when this fails
    /// or is dropped; the server then ends it after its expiry.
    ///
    /// # Errors
    /// The errors of the server, except that it does not know the session. After a hint beyond the time limit the error says when to
    /// try again.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<(), Error> {
        let was_open = self.state.close();
        // Dropped, and so stopped, when this future ends or is dropped: heartbeats continue until the server knows.
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
        call.policy = CallPolicy {
            window: FINISH_WINDOW,
            ..CallPolicy::PATIENT
        };
        call.deadline = Some(self.caller.time.now().after(FINISH_WINDOW));
        call.attempt_limit = Some(Duration::from_secs(10));
        // The only request that a closed session sends.
        let caller = Caller {
            closing: Arc::default(),
            ..self.caller.clone()
        };
        let finished = self.call_on_io(caller, call).await;
        drop(tasks);
        match finished {
            Ok(_) => Ok(()),
            // The server has no such route, or the session has ended already.
            Err(error) if is_unknown_session(error.kind()) => {
                self.caller
                    .recovered_errors
                    .note(RecoveredError::Close, &error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_unknown_session(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::ResultLost | ErrorKind::SessionLost
    )
}
