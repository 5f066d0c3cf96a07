//! The refresh of the flags that may change while a session lives.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::contain::contain;
use tinkers_core::{Call, Caller, Policy, RecoveredError, RouteClass, Timeouts};
use tinkers_futures::catch_unwind;
use tinkers_wire::{ConfigRequest, DynamicConfig, routes, to_json};

use crate::answer;
use crate::life::Life;

/// However often a server wants it.
const SHORTEST: Duration = Duration::from_secs(10);

/// The time limit of one request for dynamic flags.
const LIMIT: Duration = Duration::from_secs(10);

/// The request for dynamic flags.
pub(crate) fn request(policy: Policy) -> Call {
    let body = to_json(&ConfigRequest::default());
    let mut call = Call::post(routes::DYNAMIC_CONFIG, body, RouteClass::Control);
    call.policy = policy;
    call.timeouts = Timeouts::within(LIMIT);
    call
}

/// Fetches the flags again and again, one attempt each time; what cannot be fetched stays as it was. A hint is followed for
/// `longest_hint` at most.
pub(crate) async fn run(caller: Caller, life: Arc<Life>, longest_hint: Duration) {
    let mut hint = Duration::ZERO;
    loop {
        let period = Duration::from_secs(life.dynamic.load().refresh_interval_sec).max(SHORTEST);
        caller.time.sleep(period.max(hint.min(longest_hint))).await;
        if life.check_open().is_err() {
            return;
        }
        // A panic below, such as in a layer of the caller's, is a fetch that failed; the next one may not.
        let fetched = catch_unwind(caller.call(request(Policy::ONCE))).await;
        let read = fetched.and_then(|accepted| {
            answer::read::<DynamicConfig>(&accepted.response, "client/dynamic_config")
        });
        if life.check_open().is_err() {
            return;
        }
        hint = Duration::ZERO;
        match read {
            Ok(config) => life.dynamic.store(Arc::new(config)),
            Err(error) => {
                caller.recovered_errors.count(RecoveredError::Refresh);
                hint = error.retry_after().unwrap_or_default();
                contain(
                    || tracing::debug!(recovered_error = RecoveredError::Refresh.name(), %error, "the dynamic configuration stays as it was"),
                );
            }
        }
    }
}
