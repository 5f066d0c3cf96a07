//! A transport that logs outages of the server.

use std::fmt::Display;
use std::sync::Arc;

use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, HttpRequest, HttpResponse, RouteClass, Timestamp, Transport,
    TransportError, TransportErrorKind,
};

use crate::endpoint::Endpoint;
use crate::reachability::Reachability;

/// A transport that passes requests to another transport, and logs when the server becomes unreachable and when it responds again.
#[derive(Debug)]
pub(crate) struct ObservedTransport {
    inner: Arc<dyn Transport>,
    time: Arc<dyn Clock>,
    server: BaseUrl,
    /// The detector of whether the server of the endpoint is reachable. The transport does not hold the endpoint itself, since that would
    /// keep the endpoint alive.
    reachability: Arc<Reachability>,
}

impl ObservedTransport {
    /// Wraps the transport `inner`, so that outages of the server are logged. All sessions of the endpoint must use the same clock.
    pub(crate) fn wrap(
        inner: Arc<dyn Transport>,
        time: &Arc<dyn Clock>,
        endpoint: &Endpoint,
    ) -> Arc<dyn Transport> {
        Arc::new(Self {
            inner,
            time: Arc::clone(time),
            server: endpoint.key().address().clone(),
            reachability: Arc::clone(endpoint.reachability()),
        })
    }

    fn failed(&self, cause: &dyn Display) {
        // Logged without a lock, and with panics contained, since log subscribers are user code.
        if let Some(lasted) = self.reachability.failed(self.time.now()) {
            catch_panic(|| {
                tracing::warn!(
                    server = %self.server,
                    cause = %cause,
                    lasted_s = lasted.as_secs(),
                    "the server does not answer; requests are repeated until it does"
                );
            });
        }
    }

    fn responded(&self, sent_at: Timestamp) {
        if let Some(lasted) = self.reachability.responded(sent_at, self.time.now()) {
            // As a warning, like the reports of the outage.
            catch_panic(|| {
                tracing::warn!(
                    server = %self.server,
                    lasted_s = lasted.as_secs(),
                    "the server answers again"
                );
            });
        }
    }
}

impl Transport for ObservedTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let class = request.class;
        Box::pin(async move {
            let sent_at = self.time.now();
            let outcome = self.inner.send(request).await;
            match &outcome {
                Ok(response) => match response.status.as_u16() {
                    502..=504 | 520..=599 => {
                        self.failed(&format_args!("status {}", response.status))
                    }
                    _ => self.responded(sent_at),
                },
                Err(error) if is_unreachable(error, class) => self.failed(error),
                Err(_) => {}
            }
            outcome
        })
    }
}

/// Returns whether a failed request of `class` shows that the server is not reachable.
fn is_unreachable(error: &TransportError, class: RouteClass) -> bool {
    use TransportErrorKind as K;
    match error.kind {
        K::Connect | K::Tls | K::Broken => true,
        // A server may hold a poll beyond the time limit.
        K::Timeout => class != RouteClass::Poll,
        _ => false,
    }
}
