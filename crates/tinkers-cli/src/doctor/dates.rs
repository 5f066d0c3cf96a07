//! What the server says of the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};

/// The date of the last answer.
#[derive(Debug, Default)]
pub(crate) struct Dates {
    last: Mutex<Option<SystemTime>>,
}

impl Dates {
    /// Reads the dates of what comes over `below`.
    pub(crate) fn over(self: Arc<Self>, below: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(Dating { below, dates: self })
    }

    /// How far the server's clock is ahead, in seconds; its dates have no fractions. `None` when it tells none.
    pub(crate) fn ahead_of(&self, here: SystemTime) -> Option<f64> {
        let there = (*self.last.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(match there.duration_since(here) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        })
    }
}

#[derive(Debug)]
struct Dating {
    below: Arc<dyn Transport>,
    dates: Arc<Dates>,
}

impl Transport for Dating {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let answer = self.below.send(request).await?;
            let date = answer
                .header("date")
                .and_then(|date| httpdate::parse_http_date(date).ok());
            if date.is_some() {
                *self
                    .dates
                    .last
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = date;
            }
            Ok(answer)
        })
    }
}
