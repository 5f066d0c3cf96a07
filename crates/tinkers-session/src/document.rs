//! What a server's OpenAPI document tells of it, where its configuration does not say who it is.

use std::time::Duration;

use tinkers_core::{Call, Caller, Document, Fact, Policy, RouteClass, Timeouts};
use tinkers_wire::ApiDocument;

use crate::endpoint::Endpoint;

/// The time limit of the one request for it.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads the document of an unknown server, once for all sessions of the endpoint. Whatever comes of it, the session goes on: a server
/// without one is found out about as it answers.
pub(crate) async fn learn(caller: &Caller, endpoint: &Endpoint) {
    let profile = endpoint.profile();
    let is_known = endpoint.key().address().is_hosted_service() || profile.software.is_some();
    if is_known || profile.document != Document::NotAsked {
        return;
    }
    let mut call = Call::get(ApiDocument::PATH, RouteClass::Control);
    call.policy = Policy::ONCE;
    call.timeouts = Timeouts::within(LIMIT);
    let fact = match caller.call(call).await {
        Ok(accepted) => match ApiDocument::read(&accepted.response.body) {
            Ok(document) => Fact::Document(Box::new(document)),
            Err(error) => {
                tracing::debug!(%error, "the server's OpenAPI document cannot be read");
                Fact::NoDocument
            }
        },
        Err(error) => {
            tracing::debug!(%error, "the server has no OpenAPI document to tell");
            Fact::NoDocument
        }
    };
    endpoint.learn(fact);
}
