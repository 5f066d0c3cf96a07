//! The refresh of the dynamic configuration of a session, which consists of flags that the server may change at any time.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::json_response::decode;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{Call, CallPolicy, Caller, RecoveredError, RouteClass};
use tinkers_futures::catch_unwind;
use tinkers_wire::{ConfigRequest, DynamicConfig, routes, to_json};

use crate::session_state::SessionState;

/// The minimum interval between two requests for the dynamic configuration. The server may ask for a longer interval, but not for a shorter
/// one.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// The timeout of one request for the dynamic configuration.
const LIMIT: Duration = Duration::from_secs(10);

/// Builds the request for the dynamic configuration, which contains the server's settings that may change during a session.
pub(crate) fn request(policy: CallPolicy) -> Call {
    let body = to_json(&ConfigRequest::default());
    let mut call = Call::post(routes::DYNAMIC_CONFIG, body, RouteClass::Control);
    call.policy = policy;
    call.attempt_limit = Some(LIMIT);
    call
}

/// Requests the dynamic configuration at intervals until the session is closed. If a request fails, the old configuration stays in use. A
/// retry delay (`retry-after`) of the server is followed up to `longest_hint`.
pub(crate) async fn run(caller: Caller, state: Arc<SessionState>, longest_hint: Duration) {
    let mut hint = Duration::ZERO;
    loop {
        let period =
            Duration::from_secs(state.dynamic.load().refresh_interval_sec).max(MIN_INTERVAL);
        caller.time.sleep(period.max(hint.min(longest_hint))).await;
        if state.check_open().is_err() {
            return;
        }
        // A panic in the transport is a failed refresh.
        let outcome = catch_unwind(caller.call(request(CallPolicy::ONCE))).await;
        let flags = outcome.and_then(|accepted| {
            decode::<DynamicConfig>(&accepted.response, "client/dynamic_config")
        });
        if state.check_open().is_err() {
            return;
        }
        hint = Duration::ZERO;
        match flags {
            Ok(config) => state.dynamic.store(Arc::new(config)),
            Err(error) => {
                caller.recovered_errors.count(RecoveredError::Refresh);
                hint = error.retry_after().unwrap_or_default();
                catch_panic(
                    || tracing::debug!(recovered_error = RecoveredError::Refresh.name(), %error, "cannot refresh the dynamic flags; the old ones are kept"),
                );
            }
        }
    }
}
