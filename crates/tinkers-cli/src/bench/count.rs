//! Counting what goes over the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};

const TOO_MANY_REQUESTS: u16 = 429;

/// HTTP exchanges so far, heartbeats left out.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    sent: AtomicU64,
    rejected: AtomicU64,
}

impl Exchanges {
    /// Requests that were sent, and the 429s among their answers.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.rejected))
    }

    /// Counts what goes over `below`.
    pub(crate) fn over(self: Arc<Self>, below: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Counting {
            below,
            exchanges: self,
        })
    }
}

#[derive(Debug)]
struct Counting {
    below: Arc<dyn Transport>,
    exchanges: Arc<Exchanges>,
}

impl Transport for Counting {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.exchanges.sent.fetch_add(1, Ordering::Relaxed);
        let answer = self.below.send(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer
                && response.status == TOO_MANY_REQUESTS
            {
                self.exchanges.rejected.fetch_add(1, Ordering::Relaxed);
            }
            answer
        })
    }
}
