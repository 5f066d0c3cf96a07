//! Counters of HTTP exchanges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};

const TOO_MANY_REQUESTS: u16 = 429;

/// Counters of all HTTP exchanges except heartbeats.
#[derive(Debug, Default)]
pub(crate) struct ExchangeCounters {
    sent: AtomicU64,
    rejected: AtomicU64,
}

impl ExchangeCounters {
    /// Returns the number of requests that were sent and the number of 429 responses.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.rejected))
    }

    /// Wraps a transport so that its exchanges are counted.
    pub(crate) fn layer(self: Arc<Self>, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(CountingTransport {
            inner,
            counters: self,
        })
    }
}

#[derive(Debug)]
struct CountingTransport {
    inner: Arc<dyn Transport>,
    counters: Arc<ExchangeCounters>,
}

impl Transport for CountingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.counters.sent.fetch_add(1, Ordering::Relaxed);
        let exchange = self.inner.send(request);
        Box::pin(async move {
            let outcome = exchange.await;
            if let Ok(response) = &outcome
                && response.status == TOO_MANY_REQUESTS
            {
                self.counters.rejected.fetch_add(1, Ordering::Relaxed);
            }
            outcome
        })
    }
}
