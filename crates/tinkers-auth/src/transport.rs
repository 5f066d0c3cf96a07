//! The transport layer that authenticates requests.

use std::sync::Arc;

use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use tinkers_core::{
    BoxFuture, HttpRequest, HttpResponse, Sent, Transport, TransportError, TransportErrorKind,
};
use tinkers_wire::routes;

use crate::auth::{Auth, AuthHeader};

/// A transport layer that adds the credential of a client, or the token for which it was exchanged, to each request. If the server rejects
/// a token from an exchange as invalid, the layer sends the request once more with a new token.
///
/// The header is marked as sensitive. The inner transport must not send it to another origin than that of the base URL, and must mask its
/// value in responses and errors. `HttpTransport` does both.
#[derive(Debug, Clone)]
pub struct AuthTransport {
    inner: Arc<dyn Transport>,
    auth: Arc<Auth>,
}

impl AuthTransport {
    /// Wraps `inner`, and authenticates its requests with `auth`.
    pub fn new(inner: Arc<dyn Transport>, auth: Arc<Auth>) -> Self {
        Self { inner, auth }
    }

    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        // The wait for a token counts towards the time limit of the request.
        let limit = request.timeouts.total;
        // The server describes and revokes the key of the request, and does so only for keys.
        let is_about_key = path(&request) == routes::API_KEY;
        let header = self.within(limit, self.auth.header(is_about_key)).await?;
        let Some(AuthHeader {
            name,
            value,
            is_exchanged,
        }) = header
        else {
            return self.inner.send(request).await;
        };
        // Bodies are in memory, so any request can be sent again.
        let mut again = is_exchanged.then(|| request.clone());
        request.headers.insert(name.clone(), value.clone());
        let response = self.inner.send(request).await?;
        match again.take().filter(|_| is_invalid_token(&response)) {
            None => Ok(response),
            Some(mut request) => {
                tracing::debug!(path = %path(&request), "the server rejects the token; sending the request again with a new one");
                let value = self.within(limit, self.auth.replacement(&value)).await?;
                request.headers.insert(name, value);
                self.inner.send(request).await
            }
        }
    }

    async fn within<T: Send>(
        &self,
        limit: std::time::Duration,
        work: impl Future<Output = Result<T, TransportError>> + Send,
    ) -> Result<T, TransportError> {
        let clock = self.auth.clock();
        let done = clock.deadline(clock.now().after(limit), work).await;
        done.unwrap_or_else(|| {
            let message = format!("no token within {limit:?}");
            Err(TransportError::new(
                TransportErrorKind::Timeout,
                Sent::NotSent,
                message,
            ))
        })
    }
}

/// Returns the path of a request without the query, which may contain a secret.
fn path(request: &HttpRequest) -> &str {
    request.path.split('?').next().unwrap_or_default()
}

/// Returns whether a response says that the token of the request is invalid. Other responses with status 401 are final.
fn is_invalid_token(response: &HttpResponse) -> bool {
    response.status == StatusCode::UNAUTHORIZED
        && response
            .headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .any(|value| {
                value
                    .to_str()
                    .is_ok_and(|text| text.contains("error=\"invalid_token\""))
            })
}

impl Transport for AuthTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(self.exchange(request))
    }
}
