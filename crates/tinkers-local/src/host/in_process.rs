//! The in-process transport. It carries the same requests and responses as a socket.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName};
use http::{HeaderValue, StatusCode};
use tinkers_core::{
    BoxFuture, HttpRequest, HttpResponse, Sent, Transport, TransportError, TransportErrorKind,
};

use super::{Cut, LocalServer};
use crate::http::{Request, Response};

/// A client transport (a [`Transport`]) that passes requests to a server in the same process, without sockets.
///
/// Timeouts of requests are measured on the clock of the server. Dropping the future of a request counts as a disconnect of the
/// client.
#[derive(Clone)]
pub struct InProcess {
    server: LocalServer,
    api_key: Option<HeaderValue>,
}

impl InProcess {
    /// Creates a transport that passes requests to `server` without an API key.
    pub const fn new(server: LocalServer) -> Self {
        Self {
            server,
            api_key: None,
        }
    }

    /// Sends this API key with each request.
    #[must_use]
    pub fn with_api_key(mut self, key: &str) -> Self {
        self.api_key = HeaderValue::from_str(key).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        self
    }

    /// Returns the server to which this transport passes the requests.
    pub const fn server(&self) -> &LocalServer {
        &self.server
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let departure = request.departure;
        if !departure.may_leave() {
            return Err(TransportError::new(
                TransportErrorKind::Held,
                Sent::NotSent,
                "the server asked for a pause before the request left",
            ));
        }
        let mut headers = request.headers;
        if let Some(key) = &self.api_key {
            headers.insert(HeaderName::from_static("x-api-key"), key.clone());
        }
        let sent = Request {
            method: request.method,
            path: request.path,
            headers,
            body: request.body,
        };
        let limit = request.timeouts.first_byte.min(request.timeouts.total);
        let time = self.server.time();
        let result = time
            .deadline(time.now().after(limit), self.server.exchange(sent))
            .await;
        if let Some(Ok(response)) = &result {
            departure.head(response.status, &response.headers, time.wall());
        }
        match result {
            None => Err(TransportError::new(
                TransportErrorKind::Timeout,
                Sent::MaybeSent,
                format!("no response within {limit:?}"),
            )),
            Some(Err(cut)) => Err(broken(cut)),
            Some(Ok(response)) if response.body.len() > request.max_response_bytes => {
                let message = format!(
                    "the response is longer than {} bytes",
                    request.max_response_bytes
                );
                Err(TransportError::new(
                    TransportErrorKind::TooLarge,
                    Sent::Answered,
                    message,
                ))
            }
            Some(Ok(response)) => Ok(delivered(response)),
        }
    }
}

fn delivered(mut response: Response) -> HttpResponse {
    if response.status != StatusCode::NO_CONTENT {
        let length = HeaderValue::from(response.body.len());
        response.headers.insert(CONTENT_LENGTH, length);
    } else {
        response.body = Bytes::new();
    }
    HttpResponse {
        status: response.status,
        headers: response.headers,
        body: response.body,
    }
}

fn broken(cut: Cut) -> TransportError {
    let (kind, sent) = match cut {
        Cut::Refused => (TransportErrorKind::Connect, Sent::NotSent),
        Cut::Broken => (TransportErrorKind::Broken, Sent::MaybeSent),
    };
    TransportError::new(kind, sent, cut.to_string()).with_source(cut)
}

impl Transport for InProcess {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
