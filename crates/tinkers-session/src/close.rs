//! The close of a session by the caller.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tinkers_core::{Call, CallPolicy, Caller, Error, ErrorKind, RecoveredError, RouteClass};
use tinkers_futures::{call_on_io, on_io};
use tinkers_wire::{FinishReason, FinishSession, routes, to_json};

use crate::session::Session;

/// The time limit of the request that ends the session on the server, including its retries and pauses. A longer retry delay of the server
/// or a pause because of an unpaid bill (402) must not delay a program that wants to exit.
const FINISH_WINDOW: Duration = Duration::from_secs(60);

/// The time limit for sending the remaining telemetry events.
const TELEMETRY_WINDOW: Duration = Duration::from_secs(5);

impl Session {
    /// Closes the session: reports the reason to the server, then stops the heartbeats.
    ///
    /// All later calls fail at once with `Closed`, and so do calls that the server has not accepted yet. If such an error has
    /// [`Sent::MaybeSent`](tinkers_core::Sent), an attempt of the call may have been applied. The results of accepted requests are still
    /// retrieved, as long as the server delivers them. Heartbeats continue until the server has acknowledged the close.
    ///
    /// If telemetry is on, its last events are sent first, within five seconds. The close itself takes at most one minute. Closing a closed session does nothing.
    ///
    /// # Errors
    /// The error of the server, unless the server does not know the session. If the server asks to retry after more than a minute, the
    /// close fails with `RateLimited`, and [`Error::retry_at`] is the time of that retry. The session counts as closed nevertheless, and
    /// the server ends it after its expiry.
    ///
    /// # Cancel safety
    /// Dropping the future closes the session for its clients, but may leave it open on the server until its expiry.
    pub async fn close(&self, reason: FinishReason, detail: Option<String>) -> Result<(), Error> {
        let was_open = self.state.close();
        // The background tasks stop when this value is dropped, at the end of this future: heartbeats continue during the request.
        let tasks = self
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if !was_open {
            return Ok(());
        }
        self.close_telemetry().await;
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
        let finished = call_on_io(&*self.spawner, caller, call).await;
        drop(tasks);
        match finished {
            Ok(_) => Ok(()),
            // The server has no such route, or the session has already ended.
            Err(error) if is_unknown_session(error.kind()) => {
                self.caller
                    .recovered_errors
                    .record(RecoveredError::Close, &error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Session {
    /// Sends the telemetry events that are not sent yet, within a time limit.
    async fn close_telemetry(&self) {
        let Some(telemetry) = self.telemetry.clone() else {
            return;
        };
        let recovered = self.recovered_errors();
        let deadline = self.caller.time.now().after(TELEMETRY_WINDOW);
        let work = Box::pin(async move {
            telemetry.close(&recovered, deadline).await;
            Ok(())
        });
        // Fails only if the runtime has ended, and the close request reports this.
        let _ = on_io(&*self.spawner, work).await;
    }
}

fn is_unknown_session(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::ResultLost | ErrorKind::SessionLost
    )
}
