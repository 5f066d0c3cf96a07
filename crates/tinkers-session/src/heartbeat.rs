//! The heartbeat loop. In production it runs on a dedicated thread.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use tinkers_core::retry::is_missing_route;
use tinkers_core::session_lost::says_session_lost;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Clock, HttpRequest, HttpResponse, RecoveredError, RouteClass, Timeouts, Timestamp, Transport,
    hint,
};
use tinkers_futures::catch_unwind;
use tinkers_wire::{Heartbeat, error_text, routes, to_json};

use crate::events::SessionEvent;
use crate::session_state::SessionState;

/// The maximum timeout of one heartbeat request, including the time to connect.
const MAX_LIMIT: Duration = Duration::from_secs(10);

/// A loop that sends the heartbeats of one session. It sends an event if heartbeats have failed for so long that the session is at risk.
#[derive(Debug)]
pub(crate) struct HeartbeatLoop {
    transport: Arc<dyn Transport>,
    time: Arc<dyn Clock>,
    state: Arc<SessionState>,
    body: Bytes,
    period: Duration,
    /// The timeout of one heartbeat request: a sixth of the session expiry, and at most [`MAX_LIMIT`].
    limit: Duration,
    expiry: Duration,
    last_success: Timestamp,
    at_risk: bool,
    /// Whether the server seems to have no route for heartbeats. A session on such a server is not at risk.
    is_route_missing: bool,
    /// Whether the server has accepted a heartbeat of this session.
    has_succeeded: bool,
    timeouts: Timeouts,
}

/// The outcome of one heartbeat.
enum Outcome {
    /// The server accepted the heartbeat.
    Accepted,
    /// The heartbeat failed. `hint` is the server's retry delay, if the response contains a `retry-after` header.
    Failed {
        cause: String,
        hint: Option<Duration>,
    },
    /// The server has ended the session.
    Ended,
    /// The server has no route for heartbeats.
    NoRoute,
}

impl HeartbeatLoop {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        time: Arc<dyn Clock>,
        state: Arc<SessionState>,
        session_id: &str,
        period: Duration,
        expiry: Duration,
    ) -> Self {
        let session_id = session_id.to_owned();
        Self {
            body: to_json(&Heartbeat { session_id }),
            // Short enough that a second heartbeat is sent before the expiry if the first one hangs.
            period: period.min(expiry / 3),
            limit: MAX_LIMIT.min(expiry / 6),
            last_success: time.now(),
            expiry,
            transport,
            time,
            state,
            at_risk: false,
            is_route_missing: false,
            has_succeeded: false,
            timeouts: Timeouts::of(RouteClass::Control),
        }
    }

    /// Sets the timeout for opening a connection, which is the `connect` timeout in `timeouts`. The other timeouts of a heartbeat request
    /// are computed from the session expiry.
    pub(crate) fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sends heartbeats until the session ends. A failed heartbeat is not retried, since the next heartbeat follows anyway.
    pub(crate) async fn run(mut self) {
        let mut pause = self.period;
        loop {
            self.time.sleep(pause).await;
            pause = self.period;
            match self.send().await {
                // Log subscribers are user code, and a panic in a subscriber must not end the loop.
                Outcome::Accepted => catch_panic(|| self.accepted()),
                Outcome::Failed { cause, hint } => {
                    catch_panic(|| self.failed(&cause));
                    // The hint is followed for at most a third of the expiry, so that the session survives the pause.
                    pause = hint.map_or(pause, |hint| hint.clamp(pause, self.expiry / 3));
                }
                Outcome::NoRoute => catch_panic(|| self.route_missing()),
                Outcome::Ended => {
                    self.state.end();
                    catch_panic(|| {
                        tracing::info!("the server has ended the session; heartbeats stop");
                    });
                    return;
                }
            }
        }
    }

    async fn send(&self) -> Outcome {
        let mut request =
            HttpRequest::new(Method::POST, routes::SESSION_HEARTBEAT, RouteClass::Control);
        request
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.body = self.body.clone();
        request.timeouts = self.timeouts.limited_to(self.limit);
        // The transport enforces the limit as well, but the loop must not depend on it.
        let until = self.time.now().after(self.limit);
        // A panic in the transport is a failed heartbeat.
        let sent = catch_unwind(async { Ok(self.transport.send(request).await?) });
        match self.time.deadline(until, sent).await {
            Some(Ok(response)) => self.classify(&response),
            Some(Err(error)) => Outcome::failed(error.to_string()),
            None => Outcome::failed(format!("no response within {:?}", self.limit)),
        }
    }

    fn classify(&self, response: &HttpResponse) -> Outcome {
        if response.status.is_success() {
            return Outcome::Accepted;
        }
        let text = error_text(&response.body).unwrap_or_default();
        match response.status {
            StatusCode::GONE => Outcome::Ended,
            status if says_session_lost(status, &text) => Outcome::Ended,
            // A server that has accepted a heartbeat has the route.
            status if !self.has_succeeded && is_missing_route(status.as_u16()) => Outcome::NoRoute,
            status => Outcome::Failed {
                cause: format!("status {}: {text}", status.as_u16()),
                hint: hint::retry_after(response, self.time.wall()),
            },
        }
    }

    /// Logs once that the server has no heartbeats. The loop continues, since a server may get the route, for example after an update.
    fn route_missing(&mut self) {
        self.last_success = self.time.now();
        if !std::mem::replace(&mut self.is_route_missing, true) {
            let recovered_error = RecoveredError::MissingRoute;
            self.state.recovered_errors.count(recovered_error);
            let recovered_error = recovered_error.name();
            tracing::info!(recovered_error, "the server has no heartbeats");
        }
    }

    fn accepted(&mut self) {
        self.has_succeeded = true;
        self.last_success = self.time.now();
        if std::mem::take(&mut self.at_risk) {
            self.state.events.send(SessionEvent::Recovered);
            tracing::info!("a heartbeat got through again; the session continues");
        }
    }

    fn failed(&mut self, cause: &str) {
        self.state.recovered_errors.count(RecoveredError::Heartbeat);
        let recovered_error = RecoveredError::Heartbeat.name();
        let silence = self.time.now().since(self.last_success);
        if silence < self.expiry / 2 {
            tracing::debug!(recovered_error, cause, "a heartbeat failed");
            return;
        }
        self.at_risk = true;
        let time_left = self.expiry.saturating_sub(silence);
        self.state.events.send(SessionEvent::AtRisk { time_left });
        tracing::warn!(
            recovered_error,
            cause,
            time_left_s = time_left.as_secs(),
            "heartbeats fail; the session is at risk"
        );
    }
}

impl Outcome {
    const fn failed(cause: String) -> Self {
        Self::Failed { cause, hint: None }
    }
}
