//! The difference between the server's clock and the local clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};

/// The last `Date` header that the server sent, as a reading of the server's clock.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    last: Mutex<Option<SystemTime>>,
}

impl ServerClock {
    /// Wraps a transport so that the dates of its responses are recorded.
    pub(crate) fn layer(self: Arc<Self>, inner: Arc<dyn Transport>) -> Arc<dyn Transport> {
        Arc::new(DateRecorder { inner, clock: self })
    }

    /// Returns how far the clock of the server is ahead of the local date `local`, in seconds, with a resolution of one second.
    /// Returns `None` if the server sends no dates.
    pub(crate) fn ahead_of(&self, local: SystemTime) -> Option<f64> {
        let remote = (*self.last.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(match remote.duration_since(local) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        })
    }
}

#[derive(Debug)]
struct DateRecorder {
    inner: Arc<dyn Transport>,
    clock: Arc<ServerClock>,
}

impl Transport for DateRecorder {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let response = self.inner.send(request).await?;
            let date = response
                .header("date")
                .and_then(|date| httpdate::parse_http_date(date).ok());
            if date.is_some() {
                *self
                    .clock
                    .last
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = date;
            }
            Ok(response)
        })
    }
}
