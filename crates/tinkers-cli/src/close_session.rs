//! Closing of a command's session.

use std::time::Duration;

use tinkers::prelude::ServiceClient;
use tinkers::{Clock, FinishReason, TokioClock};
use tokio::runtime::Handle;

use crate::signals::{Interrupted, Signals};

/// The time limit for closing the session after an interrupt. The server ends a session that was not closed when the session
/// expires.
const INTERRUPTED_TIMEOUT: Duration = Duration::from_millis(300);
/// The time limit for closing the session in all other cases.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Closes the session and sends the outcome of the command to the server. Stops waiting after a timeout or at another signal.
pub(crate) async fn close_session<T: Sync>(
    service: &ServiceClient,
    outcome: &anyhow::Result<T>,
    signals: &mut Signals,
) {
    let (reason, timeout) = match outcome {
        Ok(_) => (FinishReason::Success, DEFAULT_TIMEOUT),
        Err(error) if error.is::<Interrupted>() => (FinishReason::Interrupted, INTERRUPTED_TIMEOUT),
        Err(_) => (FinishReason::Errored, DEFAULT_TIMEOUT),
    };
    let time: &dyn Clock = &TokioClock::new(Handle::current());
    tokio::select! {
        biased;
        () = signals.next() => {}
        _ = service.close(reason, None) => {}
        () = time.sleep(timeout) => {}
    }
}
