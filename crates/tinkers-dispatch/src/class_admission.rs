//! The admission of the requests of one client to one route class: a class limiter with the client's clock and jitter.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Admitted, Arrival, AttemptOutcome, Backoff, Clock, Error, ErrorKind, InFlightPermit, Jitter,
    Ledger, Sent, SubmitPermit, Timestamp,
};
use tinkers_limits::{GateState, SlotRequest, Ticket, TicketOutcome};
use tokio::sync::Notify;

use crate::class_limiter::ClassLimiter;
use crate::limit_request::MaxHint;

/// The interface through which one client gets permits for the requests of one route class (kind of request). It also records the end of
/// these requests.
#[derive(Debug)]
pub(crate) struct ClassAdmission {
    pub(crate) limiter: Arc<ClassLimiter>,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) jitter: Arc<dyn Jitter>,
    /// The maximum time for which one refusal (429 response) closes the gate, and so stops new requests. All clients of the limiter share
    /// it.
    pub(crate) max_hint: Arc<MaxHint>,
    /// The notifier that wakes tasks when a refusal (429 response) closes the gate of the route class.
    pub(crate) closures: Arc<Notify>,
}

impl ClassAdmission {
    /// The time for which a refusal (429 response) stops new requests if the server sends no retry delay.
    const PAUSE_WITHOUT_HINT: Duration = Duration::from_secs(1);
    /// The maximum random time that is added to a pause after a refusal, as a fraction of the pause. [`Self::MAX_SPREAD`] is a further
    /// limit.
    const SPREAD: f64 = 0.05;
    /// The maximum random time that is added to a pause after a refusal. [`Self::SPREAD`] is a further limit.
    const MAX_SPREAD: Duration = Duration::from_millis(10);
    /// The minimum pause after a refusal (429 response). It grows each time the first request after a pause is refused again or gets no
    /// response.
    const PAUSE_AFTER_REFUSED: Backoff =
        Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    /// The length of the next pause if the first request after a rate-limit pause gets no response. It grows each time the first request
    /// fails again.
    const PAUSE_AFTER_UNANSWERED: Backoff =
        Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

    /// Wakes the tasks that wait for the gate to close, which happens when the server refuses a request (429 response).
    pub(crate) fn notify_closure(&self) {
        catch_panic(|| self.closures.notify_waiters());
    }

    /// Returns the permits of an admitted request: one until the response, and one until the result (the in-flight permit). A retry keeps
    /// the in-flight permit `kept` of an earlier attempt and gets no second one.
    #[inline]
    pub(crate) fn admitted(
        self: Arc<Self>,
        ticket: Ticket,
        kept: Option<InFlightPermit>,
        arrival: Arrival,
    ) -> Admitted {
        let (in_flight_permit, ledger) = match (kept, ticket.charge().take) {
            (Some(kept), _) => (kept, self),
            (None, SlotRequest::SlotAndInFlight) => {
                (InFlightPermit::new(Arc::<Self>::clone(&self)), self)
            }
            (None, SlotRequest::Slot) => (InFlightPermit::free(), self),
        };
        Admitted {
            permit: SubmitPermit::new(ledger, ticket),
            in_flight_permit,
            arrival,
        }
    }

    /// Admits a nested request, which is made during another request. If the gate is closed after a refusal (429 response), fails at once
    /// instead of waiting.
    pub(crate) fn admit_nested(
        self: Arc<Self>,
        kept: Option<InFlightPermit>,
    ) -> Result<Admitted, Error> {
        let Some(ticket) = self.limiter.try_nested() else {
            let now = self.time.now();
            let message = format!(
                "the server's rate limit holds {} requests back, and a nested request cannot wait; try again later",
                self.limiter.class.name()
            );
            let error = Error::new(ErrorKind::RateLimited, Sent::NotSent, message);
            return Err(match self.limiter.constraints.gate().state() {
                GateState::ClosedUntil(at) => error.with_retry_at(now, Timestamp::from_origin(at)),
                GateState::Open | GateState::FirstRequestSince(_) => error,
            });
        };
        Ok(self.admitted(ticket, kept, Arrival::default()))
    }

    /// Returns the time for which a refusal (429 response) closes the gate. `hint` is the server's retry delay. Jitter is only added, so
    /// the gate does not open before this delay (at most `max_hint`) has passed.
    fn refusal_pause(&self, hint: Option<Duration>) -> Duration {
        let pause = hint
            .unwrap_or(Self::PAUSE_WITHOUT_HINT)
            .min(self.max_hint.get());
        let least = Self::PAUSE_AFTER_REFUSED.pause(self.limiter.failed_first_requests());
        self.with_jitter(pause.max(least))
    }

    fn with_jitter(&self, pause: Duration) -> Duration {
        let most = pause.mul_f64(Self::SPREAD).min(Self::MAX_SPREAD);
        pause.saturating_add(most.mul_f64(self.jitter.unit()))
    }

    fn ticket_outcome(&self, outcome: AttemptOutcome) -> TicketOutcome {
        let until = |pause| self.time.now().after(pause).since_origin();
        match outcome {
            AttemptOutcome::Accepted => TicketOutcome::Accepted,
            AttemptOutcome::Refused { hint } => TicketOutcome::Refused {
                until: until(self.refusal_pause(hint)),
            },
            AttemptOutcome::Answered => TicketOutcome::Answered,
            AttemptOutcome::Unknown => {
                let pause =
                    Self::PAUSE_AFTER_UNANSWERED.pause(self.limiter.failed_first_requests());
                TicketOutcome::Unanswered {
                    until: until(self.with_jitter(pause)),
                }
            }
            AttemptOutcome::Dropped => TicketOutcome::Dropped,
        }
    }
}

impl Ledger for ClassAdmission {
    fn may_leave(&self, ticket: Ticket) -> bool {
        self.limiter.may_leave(&ticket)
    }

    fn extend(&self, ticket: Ticket, hint: Duration) {
        let now = self.time.now();
        let until = now.after(self.refusal_pause(Some(hint)));
        self.limiter.extend(&ticket, until, now);
        self.notify_closure();
    }

    fn settle(&self, ticket: Ticket, outcome: AttemptOutcome) {
        let is_hinted = matches!(outcome, AttemptOutcome::Refused { hint: Some(_) });
        let outcome = self.ticket_outcome(outcome);
        self.limiter
            .settle(ticket, outcome, is_hinted, || self.time.now());
        if matches!(outcome, TicketOutcome::Refused { .. }) {
            self.notify_closure();
        }
    }

    fn release(&self) {
        self.limiter.release(|| self.time.now());
    }
}
