//! The request for the configuration of a server, the first request of a client.

use std::time::Duration;

use tinkers_wire::{ClientConfig, ConfigRequest, routes, to_json};

use crate::admission::RouteClass;
use crate::call::{Call, Caller};
use crate::error::Error;
use crate::json_response::decode;
use crate::recovered_error::RecoveredError;
use crate::retry::{CallPolicy, may_lack_route};

/// The timeout of the request.
const LIMIT: Duration = Duration::from_secs(10);

/// Requests the configuration of the server. Returns `None` if the server has no configuration; the defaults of the protocol then apply.
/// The request is not retried, so that a wrong address fails at once.
///
/// # Errors
/// If no server is reachable, if the server does not accept the credential, or if the server is overloaded.
pub async fn client_config(caller: &Caller) -> Result<Option<ClientConfig>, Error> {
    let body = to_json(&ConfigRequest::default());
    let mut call = Call::post(routes::CLIENT_CONFIG, body, RouteClass::Control);
    call.policy = CallPolicy::ONCE;
    call.attempt_limit = Some(LIMIT);
    let answer = caller.call(call).await;
    match answer.and_then(|accepted| decode(&accepted.response, "client/config")) {
        Ok(config) => Ok(Some(config)),
        Err(error) if may_lack_route(&error) => {
            let recovered_errors = &caller.recovered_errors;
            recovered_errors.record(RecoveredError::MissingRoute, &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
