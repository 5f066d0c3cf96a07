//! The export of the trace of a session.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tinkers_core::{BoxFuture, Error, ErrorKind, Result, Sent};
use tinkers_wire::{SignedUrl, TraceExport, routes};

use crate::RestClient;
use crate::arguments::id;
use crate::connection::{Connection, Request};

const OPERATION: &str = "RestClient.export_session_trace";
/// The time between two questions whether the trace is ready.
const PERIOD: Duration = Duration::from_secs(5);
/// The default time limit.
const LIMIT: Duration = Duration::from_secs(600);

/// The export of the trace of a session; see [`RestClient::export_session_trace`]. Await it to get the signed address of the trace, which
/// is valid for about an hour and needs no credential.
///
/// # Errors
/// `Timeout` if the trace is not ready after the [`deadline`](Self::deadline), `OperationFailed` if the server cannot build it, and the
/// errors of [`RestClient`].
///
/// # Cancel safety
/// Dropping the future ends the wait. The server continues to build the trace, and a later export finds it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before the export is awaited"]
pub struct ExportSessionTrace {
    connection: Arc<Connection>,
    session_id: String,
    limit: Duration,
}

impl ExportSessionTrace {
    pub(crate) fn new(client: &RestClient, session_id: String) -> Self {
        Self {
            connection: Arc::clone(&client.connection),
            session_id,
            limit: LIMIT,
        }
    }

    /// Sets how long to wait for the trace; 10 minutes by default.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn run(self) -> Result<SignedUrl> {
        let path = routes::session_trace(id("session_id", &self.session_id)?);
        let time = Arc::clone(&self.connection.parts.caller.time);
        let until = time.now().after(self.limit);
        let failed = |kind, message: String| {
            Err(Error::new(kind, Sent::Answered, message).with_operation(OPERATION))
        };
        let mut is_first = true;
        loop {
            let route = "/api/v1/sessions/{session_id}/trace_export";
            let request = Request::new(OPERATION, Method::GET, route, &*path).until(until);
            let export: TraceExport = self.connection.get(request.with_signed_urls()).await?;
            match (export.status.as_str(), export.url) {
                ("failed", _) => {
                    let reason = export.error.unwrap_or_else(|| "no reason given".to_owned());
                    let message = format!("the server cannot build the trace: {reason}");
                    return failed(ErrorKind::OperationFailed, message);
                }
                (_, Some(url)) => return Ok(url),
                ("ready", None) => {
                    let message = "the trace is ready, but the server sent no address";
                    return failed(ErrorKind::Protocol, message.to_owned());
                }
                (_, None) => {}
            }
            if std::mem::take(&mut is_first) {
                tracing::info!(session = self.session_id, "the server builds the trace");
            }
            let next = time.now().after(PERIOD);
            if next > until {
                let limit = self.limit;
                let message =
                    format!("the trace is not ready after {limit:?}; export it again later");
                return failed(ErrorKind::Timeout, message);
            }
            self.connection.sleep_until(next).await?;
        }
    }
}

impl IntoFuture for ExportSessionTrace {
    type Output = Result<SignedUrl>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
