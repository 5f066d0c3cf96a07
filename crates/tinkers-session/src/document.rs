//! What a server's OpenAPI document tells of it, where its configuration does not say who it is.

use std::time::Duration;

use http::Method;
use tinkers_core::{Caller, Document, Fact, HttpRequest, RecoveredError, RouteClass, Timeouts};
use tinkers_wire::ApiDocument;

use crate::endpoint::Endpoint;

/// The time limit of the one request for it.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest document that is read, in bytes; those of known servers have some 30 thousand.
const LONGEST: usize = 4 << 20;

/// Reads the document of an unknown server, once for all sessions of the endpoint. Whatever comes of it, the session goes on: a server
/// without one is found out about as it answers.
pub(crate) async fn learn(caller: &Caller, endpoint: &Endpoint) {
    let profile = endpoint.profile();
    let is_known = endpoint.key().address().is_hosted_service() || profile.software.is_some();
    if is_known || profile.document != Document::NotAsked {
        return;
    }
    endpoint.learn(match ask(caller).await {
        Ok(document) => Fact::Document(Box::new(document)),
        Err(why) => {
            caller.recovered_errors.count(RecoveredError::Document);
            tracing::debug!(
                recovered_error = RecoveredError::Document.name(),
                why,
                "the server has no OpenAPI document to tell"
            );
            Fact::NoDocument
        }
    });
}

/// Asks for it once and without the care for answers that calls of the API have: it is no part of it, and nothing that is said to
/// this request, be it that the bill is unpaid, is about the session.
async fn ask(caller: &Caller) -> Result<ApiDocument, String> {
    let mut request = HttpRequest::new(Method::GET, ApiDocument::PATH, RouteClass::Control);
    request.timeouts = Timeouts::within(LIMIT);
    request.max_response_bytes = LONGEST;
    let at = caller.time.now().after(LIMIT);
    let answer = caller
        .time
        .deadline(at, caller.transport.send(request))
        .await;
    let answer = answer.ok_or("no answer in time")?;
    let answer = answer.map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(answer.status.to_string());
    }
    ApiDocument::read(&answer.body).map_err(|error| error.to_string())
}
