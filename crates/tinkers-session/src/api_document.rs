//! The request for the OpenAPI document of a server. Sent only if the configuration of the server does not name its software.

use std::time::Duration;

use http::Method;
use tinkers_core::{
    Caller, Document, HttpRequest, ProfileUpdate, RecoveredError, RouteClass, Timestamp,
};
use tinkers_wire::ApiDocument;

use crate::endpoint::Endpoint;

/// The timeout of the requests for the server's OpenAPI document, at both of its possible paths together.
const LIMIT: Duration = Duration::from_secs(5);
/// The maximum size of an OpenAPI document in bytes. The documents of known servers have about 30 kB.
const MAX_BYTES: usize = 4 << 20;

/// Requests the OpenAPI document of an unknown server, and adds the features that the document shows to the server profile of the endpoint.
/// The document is requested once for all sessions of the endpoint. If the server has no document, the session learns the features of the
/// server from its responses.
pub(crate) async fn learn(caller: &Caller, endpoint: &Endpoint, until: Timestamp) {
    let profile = endpoint.profile();
    let is_known = endpoint.key().address().is_hosted_service() || profile.software.is_some();
    if is_known || profile.document != Document::NotAsked {
        return;
    }
    let until = until.min(caller.time.now().after(LIMIT));
    let document = match request(caller, ApiDocument::PATH, until).await {
        Err(_) if caller.time.now() < until => request(caller, ApiDocument::API_PATH, until).await,
        document => document,
    };
    endpoint.learn(match document {
        Ok(document) => ProfileUpdate::Document(Box::new(document)),
        Err(cause) => {
            caller.recovered_errors.count(RecoveredError::Document);
            tracing::debug!(
                recovered_error = RecoveredError::Document.name(),
                cause,
                "the server has no usable OpenAPI document"
            );
            ProfileUpdate::NoDocument
        }
    });
}

/// Requests the OpenAPI document with a single attempt, without the retry policy. The document is not part of the Tinker API, so the
/// response status, such as 402, says nothing about the session.
async fn request(caller: &Caller, path: &str, until: Timestamp) -> Result<ApiDocument, String> {
    let mut request = HttpRequest::new(Method::GET, path, RouteClass::Control);
    let left = until.since(caller.time.now());
    request.timeouts = caller.timeouts.of(request.class).limited_to(left);
    request.max_response_bytes = MAX_BYTES;
    let response = caller
        .time
        .deadline(until, caller.transport.send(request))
        .await;
    let response = response.ok_or("no response in time")?;
    let response = response.map_err(|error| error.to_string())?;
    if !response.status.is_success() {
        return Err(response.status.to_string());
    }
    ApiDocument::read(&response.body).map_err(|error| error.to_string())
}
