//! Ends the session of a command.

use std::time::Duration;

use tinkers::prelude::ServiceClient;
use tinkers::{FinishReason, Time, TokioTime};
use tokio::runtime::Handle;

use crate::signals::{Interrupted, Signals};

/// How long the server may take to hear of the end after an interrupt, and after a run of any other end. A server that cannot be
/// told ends the session after its expiry.
const AFTER_INTERRUPT: Duration = Duration::from_millis(300);
const USUAL: Duration = Duration::from_secs(5);

/// Tells the server how the run ended, unless that takes too long or another signal comes.
pub(crate) async fn close_session<T>(
    service: &ServiceClient,
    outcome: &anyhow::Result<T>,
    signals: &mut Signals,
) {
    let (reason, patience) = match outcome {
        Ok(_) => (FinishReason::Success, USUAL),
        Err(error) if error.is::<Interrupted>() => (FinishReason::Interrupted, AFTER_INTERRUPT),
        Err(_) => (FinishReason::Errored, USUAL),
    };
    let time: &dyn Time = &TokioTime::new(Handle::current());
    tokio::select! {
        biased;
        () = signals.next() => {}
        _ = service.close(reason, None) => {}
        () = time.sleep(patience) => {}
    }
}
