//! The heartbeat: an ordinary loop over the seams, which production runs on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use tinkers_core::contain::contain;
use tinkers_core::session_lost::says_session_lost;
use tinkers_core::{
    Clock, HttpRequest, HttpResponse, RecoveredError, RouteClass, Timeouts, Timestamp, Transport,
    hint,
};
use tinkers_futures::catch_unwind;
use tinkers_wire::{Heartbeat, error_text, routes, to_json};

use crate::events::SessionEvent;
use crate::life::Life;

/// The time limit of one heartbeat, its connection included, where sessions live long enough for it.
const LONGEST: Duration = Duration::from_secs(10);

/// The heart of one session.
#[derive(Debug)]
pub(crate) struct Heart {
    transport: Arc<dyn Transport>,
    time: Arc<dyn Clock>,
    life: Arc<Life>,
    body: Bytes,
    period: Duration,
    /// How long one heartbeat may take.
    limit: Duration,
    expiry: Duration,
    last_success: Timestamp,
    at_risk: bool,
}

/// What came of one heartbeat.
enum Beat {
    /// The server took it.
    Taken,
    /// It did not get through; the server may have said when to come back.
    Missed { why: String, hint: Option<Duration> },
    /// The session is no more.
    Ended,
}

impl Heart {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        time: Arc<dyn Clock>,
        life: Arc<Life>,
        session_id: &str,
        period: Duration,
        expiry: Duration,
    ) -> Self {
        let session_id = session_id.to_owned();
        Self {
            body: to_json(&Heartbeat { session_id }),
            // However long a period was asked for, and even if it hangs: a beat may be lost and another still be in time.
            period: period.min(expiry / 3),
            limit: LONGEST.min(expiry / 6),
            last_success: time.now(),
            expiry,
            transport,
            time,
            life,
            at_risk: false,
        }
    }

    /// Beats until the session ends. One attempt each time: the loop itself is the repeat.
    pub(crate) async fn run(mut self) {
        let mut pause = self.period;
        loop {
            self.time.sleep(pause).await;
            pause = self.period;
            match self.beat().await {
                // A log subscriber is foreign code: when it panics, the heart beats on.
                Beat::Taken => contain(|| self.taken()),
                Beat::Missed { why, hint } => {
                    contain(|| self.missed(&why));
                    // A hint is followed as far as the session survives it.
                    pause = hint.map_or(pause, |hint| hint.clamp(pause, self.expiry / 3));
                }
                Beat::Ended => {
                    self.life.end();
                    contain(|| {
                        tracing::info!("the server has ended the session; the heartbeat stops");
                    });
                    return;
                }
            }
        }
    }

    async fn beat(&self) -> Beat {
        let mut request =
            HttpRequest::new(Method::POST, routes::SESSION_HEARTBEAT, RouteClass::Control);
        request
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.body = self.body.clone();
        request.timeouts = Timeouts::within(self.limit);
        // The transport has the limit, too; a heart must not depend on it.
        let until = self.time.now().after(self.limit);
        // A heart goes on beating after a panic below it.
        let sent = catch_unwind(async { Ok(self.transport.send(request).await?) });
        match self.time.deadline(until, sent).await {
            Some(Ok(answer)) => self.read(&answer),
            Some(Err(error)) => Beat::missed(error.to_string()),
            None => Beat::missed(format!("no answer within {:?}", self.limit)),
        }
    }

    fn read(&self, answer: &HttpResponse) -> Beat {
        if answer.status.is_success() {
            return Beat::Taken;
        }
        let words = error_text(&answer.body).unwrap_or_default();
        match answer.status {
            StatusCode::GONE => Beat::Ended,
            status if says_session_lost(status, &words) => Beat::Ended,
            status => Beat::Missed {
                why: format!("status {}: {words}", status.as_u16()),
                hint: hint::retry_after(answer, self.time.wall()),
            },
        }
    }

    fn taken(&mut self) {
        self.last_success = self.time.now();
        if std::mem::take(&mut self.at_risk) {
            self.life.events.tell(SessionEvent::Recovered);
            tracing::info!("a heartbeat got through again; the session goes on");
        }
    }

    fn missed(&mut self, why: &str) {
        self.life.recovered_errors.count(RecoveredError::Heartbeat);
        let recovered_error = RecoveredError::Heartbeat.name();
        let silence = self.time.now().since(self.last_success);
        if silence < self.expiry / 2 {
            tracing::debug!(recovered_error, why, "a heartbeat did not get through");
            return;
        }
        self.at_risk = true;
        let time_left = self.expiry.saturating_sub(silence);
        self.life.events.tell(SessionEvent::AtRisk { time_left });
        tracing::warn!(
            recovered_error,
            why,
            time_left_s = time_left.as_secs(),
            "no heartbeat gets through; the session is at risk"
        );
    }
}

impl Beat {
    const fn missed(why: String) -> Self {
        Self::Missed { why, hint: None }
    }
}
