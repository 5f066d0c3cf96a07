//! The interface to the rate limits: admission of requests, and the permits that they hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tinkers_limits::Ticket;

use crate::closing::SendDecision;
use crate::error::Error;
use crate::hint::retry_after_header;
use crate::spawn::BoxFuture;
use crate::time::Timestamp;

/// The route classes of requests. Each class has its own queue, its own connections and its own rate-limit gate, which a 429 response
/// closes. So a 429 response holds back only requests of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteClass {
    /// The route class of sampling submissions.
    Sample,
    /// The route class of training submissions, model creation, saves and loads.
    Train,
    /// The route class of polls for results.
    Poll,
    /// The route class of listings and administration.
    Rest,
    /// The route class of heartbeats, session configuration, cancels and closes. Its requests are never rate limited.
    Control,
}

impl RouteClass {
    /// All route classes, in the order of [`RouteClass::index`].
    pub const ALL: [Self; 5] = [
        Self::Sample,
        Self::Train,
        Self::Poll,
        Self::Rest,
        Self::Control,
    ];

    /// Returns the position of this class in [`RouteClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the name of this class, as used in spans and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Train => "train",
            Self::Poll => "poll",
            Self::Rest => "rest",
            Self::Control => "control",
        }
    }
}

/// The id of one client handle. Each client has its own queue in the limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// The amounts that a request takes from the rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// The estimated size of the request body, in bytes.
    pub bytes: u64,
}

/// A request for admission.
#[derive(Debug)]
pub struct AdmissionRequest {
    /// The route class of the request.
    pub class: RouteClass,
    /// The client that sends the request.
    pub client: ClientId,
    /// The amounts that the request takes from the rate limits.
    pub cost: Cost,
    /// The time at which the request gives up its wait for admission and fails. With `None` the request waits without limit.
    pub deadline: Option<Timestamp>,
    /// The permit that an earlier attempt of this request took from the in-flight limit, if the outcome of that attempt is unknown. The
    /// retry keeps this permit and takes no second permit.
    pub in_flight_permit: Option<InFlightPermit>,
    /// The position at which the request enters the queue of its client: the end, or its position before the server refused it.
    pub readmission: Readmission,
    /// Whether the request is nested: made during another request, for example by a transport layer.
    ///
    /// A nested request is admitted at once or fails, since a wait could depend on a permit that the outer request holds.
    pub is_nested: bool,
}

/// The position at which a request enters the queue of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "admissions handle each position")]
pub enum Readmission {
    /// The end of the queue.
    New,
    /// The earlier position of a request that was admitted before and then refused by the server.
    AfterRefusal(Arrival),
}

/// The arrival number of a request within its route class. A refused request keeps its number, and so its position before later requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Arrival(pub u64);

/// The permits that a request has received with its admission.
#[derive(Debug)]
pub struct Admitted {
    /// The permit to send this attempt.
    pub permit: SubmitPermit,
    /// The in-flight permit, which the caller holds until the result is available.
    pub in_flight_permit: InFlightPermit,
    /// The arrival number of the request. If the server refuses the request, a retry with this number keeps the queue position.
    pub arrival: Arrival,
}

impl Admitted {
    /// Returns the permits for a request of a class without limits. Its submission permit holds nothing; `in_flight_permit` is passed on if
    /// given.
    pub fn free(in_flight_permit: Option<InFlightPermit>) -> Self {
        Self {
            permit: SubmitPermit::free(),
            in_flight_permit: in_flight_permit.unwrap_or(InFlightPermit::free()),
            arrival: Arrival::default(),
        }
    }
}

/// The outcome of an attempt, which the caller reports to the limiter when it returns the permit of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "admissions handle each outcome")]
pub enum AttemptOutcome {
    /// The server accepted the request. The caller holds the in-flight permit until the result is available.
    Accepted,
    /// The server refused the request (429). The caller drops the in-flight permit and asks for admission again.
    Refused {
        /// The server's retry delay, counted from now, if the response contains one.
        hint: Option<Duration>,
    },
    /// The server sent a response that neither accepts nor refuses the request. A retry keeps the in-flight permit.
    Answered,
    /// The request failed without a response. A retry keeps the in-flight permit.
    Unknown,
    /// The attempt was dropped before its outcome was known.
    Dropped,
}

/// The interface to the rate limits. Decides when a request may be sent.
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Waits until the request may be sent.
    ///
    /// # Errors
    /// - `RateLimited`, with `retry_at`, if the server's retry delay ends after the deadline of the request.
    /// - `Timeout` if the deadline passes.
    /// - `Closed` if the client is closed.
    ///
    /// # Cancel safety
    /// Dropping the future returns all permits that it had taken.
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>>;

    /// Returns the last time at which the queue of `class` moved: a response or a result made room while requests waited. `None` if
    /// unknown.
    ///
    /// While this queue moves, a request that waits in it counts as making progress, and so does not fail as stalled.
    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Returns the time at which the rate-limit gate of `class` opens, or `None` if the gate is open.
    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Waits until the rate-limit gate of `class` holds requests back: until a refusal closes the gate, or a request asks for admission
    /// while the gate is closed. Events before the call of this method do not count.
    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        let _ = class;
        Box::pin(std::future::pending())
    }
}

/// The part of a limiter that issues permits and takes them back. Each permit is returned to its ledger exactly once.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Returns whether an admitted attempt may still be sent. The answer is no if the gate was closed by a refusal of another request after
    /// the admission.
    fn may_leave(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        true
    }

    /// Closes the gate for the retry delay `hint`, counted from now. Called after a refused attempt was settled, if the response body
    /// contains a retry delay and the response headers contain none.
    fn extend(&self, ticket: Ticket, hint: Duration) {
        let _ = (ticket, hint);
    }

    /// Takes back the permit of an attempt and records the outcome of the attempt.
    fn settle(&self, ticket: Ticket, outcome: AttemptOutcome);

    /// Takes back one unit of the in-flight limit.
    fn release(&self);
}

/// The permit to send one attempt. It holds one submission slot and the bytes of the request body. Dropping the permit reports
/// [`AttemptOutcome::Dropped`].
#[must_use = "dropping it ends the attempt"]
pub struct SubmitPermit {
    from: PermitSource,
}

enum PermitSource {
    /// The permit holds nothing: it was issued for a class without limits, or it was returned already.
    Nothing,
    Alone(Arc<dyn Ledger>, Ticket),
    Shared(Arc<Attempt>),
}

/// An attempt that a [`SubmitPermit`] and a [`DepartureCheck`] share.
#[derive(Debug)]
struct Attempt {
    ledger: Arc<dyn Ledger>,
    ticket: Ticket,
    /// [`IN_PROGRESS`] at first, and a final state after the outcome of the attempt was reported.
    state: AtomicU8,
}

const IN_PROGRESS: u8 = 0;
const SETTLED: u8 = 1;
/// The final state of an attempt that was refused with a response head without a retry delay. If the response body contains a retry delay,
/// that delay still extends the closure of the gate.
const REFUSED_WITHOUT_HINT: u8 = 2;

impl Attempt {
    /// Reports the outcome of the attempt, unless an outcome was reported before. Returns the previous state.
    fn settle(&self, outcome: AttemptOutcome) -> u8 {
        let settled = match outcome {
            AttemptOutcome::Refused { hint: None } => REFUSED_WITHOUT_HINT,
            _ => SETTLED,
        };
        let changed = (self.state).compare_exchange(
            IN_PROGRESS,
            settled,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        match changed {
            Ok(before) => {
                self.ledger.settle(self.ticket, outcome);
                before
            }
            Err(before) => before,
        }
    }

    /// Returns whether the attempt may be sent. An attempt with a reported outcome may not be sent, since the limits no longer count that
    /// attempt: the caller has dropped it, or a transport layer sends it again after a refusal.
    fn may_leave(&self) -> bool {
        self.state.load(Ordering::Acquire) == IN_PROGRESS && self.ledger.may_leave(self.ticket)
    }
}

impl SubmitPermit {
    /// Creates a permit that reports its outcome to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>, ticket: Ticket) -> Self {
        Self {
            from: PermitSource::Alone(ledger, ticket),
        }
    }

    /// Creates a permit for a class without limits. It holds nothing.
    pub const fn free() -> Self {
        Self {
            from: PermitSource::Nothing,
        }
    }

    /// Returns the check that the transport makes immediately before it sends the request of this permit.
    pub fn departure(&mut self) -> DepartureCheck {
        let attempt = match std::mem::replace(&mut self.from, PermitSource::Nothing) {
            PermitSource::Nothing => return DepartureCheck::default(),
            PermitSource::Shared(attempt) => attempt,
            PermitSource::Alone(ledger, ticket) => Arc::new(Attempt {
                ledger,
                ticket,
                state: AtomicU8::new(IN_PROGRESS),
            }),
        };
        self.from = PermitSource::Shared(Arc::clone(&attempt));
        DepartureCheck {
            attempt: Some(attempt),
            send_decision: None,
        }
    }

    /// Reports the outcome of the attempt and returns the permit.
    #[inline]
    pub fn settle(mut self, outcome: AttemptOutcome) {
        self.end(outcome);
    }

    #[inline]
    fn end(&mut self, outcome: AttemptOutcome) {
        match std::mem::replace(&mut self.from, PermitSource::Nothing) {
            PermitSource::Nothing => {}
            PermitSource::Alone(ledger, ticket) => ledger.settle(ticket, outcome),
            PermitSource::Shared(attempt) => {
                let before = attempt.settle(outcome);
                // The outcome of a refusal is reported when the response head arrives, which closes the gate for the retry
                // delay of the headers. A retry delay in the body then extends the closure.
                if before == REFUSED_WITHOUT_HINT
                    && let AttemptOutcome::Refused { hint: Some(hint) } = outcome
                {
                    attempt.ledger.extend(attempt.ticket, hint);
                }
            }
        }
    }
}

impl Drop for SubmitPermit {
    #[inline]
    fn drop(&mut self) {
        self.end(AttemptOutcome::Dropped);
    }
}

impl fmt::Debug for SubmitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitPermit").finish_non_exhaustive()
    }
}

/// A check that an admitted request may still be sent, made immediately before it is sent. The check is a field of the
/// [`HttpRequest`](crate::HttpRequest). A transport calls [`DepartureCheck::may_leave`] before it writes the first byte, and
/// [`DepartureCheck::head`] when the head of the response has arrived.
///
/// Between admission and the socket a request may wait for a connection, a TLS handshake or a busy executor. Meanwhile a refusal of another
/// request may close the gate. The default check lets every request pass.
#[derive(Debug, Clone, Default)]
pub struct DepartureCheck {
    attempt: Option<Arc<Attempt>>,
    /// The decision that prevents a submission from being sent after its caller gave up or its client was closed. `None` for requests that
    /// are not submissions.
    send_decision: Option<Arc<SendDecision>>,
}

impl DepartureCheck {
    /// Returns whether the request may be sent now. If not, the transport returns the connection to its pool and fails with
    /// [`TransportErrorKind::Held`](crate::TransportErrorKind::Held). Costs a few atomic loads while the client and the gate are open.
    #[inline]
    pub fn may_leave(&self) -> bool {
        let is_admitted = (self.attempt.as_ref()).is_none_or(|attempt| attempt.may_leave());
        is_admitted
            && self
                .send_decision
                .as_ref()
                .is_none_or(|send_decision| send_decision.mark_sent())
    }

    /// Adds the send decision of a submission, which prevents the submission from being sent after its caller gave up or its client was
    /// closed.
    pub(crate) fn with_send_decision(mut self, send_decision: &Arc<SendDecision>) -> Self {
        self.send_decision = Some(Arc::clone(send_decision));
        self
    }

    /// Reports the head of a response. A 429 closes the gate at once, without waiting for the response body, which may be slow. The retry
    /// delay of a `Retry-After` date is counted from the `Date` of the response, or from `wall` if the response has no date.
    pub fn head(&self, status: StatusCode, headers: &HeaderMap, wall: SystemTime) {
        if let Some(attempt) = &self.attempt
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            let hint = retry_after_header(headers, wall);
            attempt.settle(AttemptOutcome::Refused { hint });
        }
    }
}

/// One unit of the in-flight limit, held from admission until the result is available. Dropping it returns the unit.
#[must_use = "dropping it returns its unit"]
pub struct InFlightPermit {
    from: Option<Arc<dyn Ledger>>,
}

impl InFlightPermit {
    /// Creates a permit that returns its unit to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { from: Some(ledger) }
    }

    /// Creates a permit for a class without an in-flight limit.
    pub const fn free() -> Self {
        Self { from: None }
    }

    /// Returns whether this permit holds a unit of an in-flight limit.
    pub const fn is_counted(&self) -> bool {
        self.from.is_some()
    }
}

impl Drop for InFlightPermit {
    #[inline]
    fn drop(&mut self) {
        if let Some(ledger) = self.from.take() {
            ledger.release();
        }
    }
}

impl fmt::Debug for InFlightPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightPermit")
            .field("counted", &self.is_counted())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tinkers_limits::{Bounds, Charge, Constraints, InitialLimit, SlotRequest};

    #[derive(Debug, Default)]
    struct TestLedger(
        Mutex<Vec<Option<(Ticket, AttemptOutcome)>>>,
        Mutex<Option<Duration>>,
    );

    impl Ledger for TestLedger {
        fn extend(&self, _: Ticket, hint: Duration) {
            *self.1.lock().unwrap() = Some(hint);
        }

        fn settle(&self, ticket: Ticket, outcome: AttemptOutcome) {
            self.0.lock().unwrap().push(Some((ticket, outcome)));
        }

        fn release(&self) {
            self.0.lock().unwrap().push(None);
        }
    }

    /// Returns the ticket of an attempt with a body of `bytes` bytes.
    fn ticket(bytes: u64) -> Ticket {
        let bounds = Bounds {
            slots: 8,
            bytes: 1000,
            max_in_flight: 8,
            rate: None,
            start: InitialLimit::Open,
        };
        let charge = Charge {
            take: SlotRequest::Slot,
            bytes,
        };
        let taken = Constraints::new(bounds).take(charge, || Duration::ZERO);
        taken.expect("the limits are free")
    }

    #[test]
    fn submit_permit_reports_exactly_one_outcome_even_if_dropped() {
        let ledger = Arc::new(TestLedger::default());
        let permit = |n| SubmitPermit::new(Arc::<TestLedger>::clone(&ledger), ticket(n));
        permit(1).settle(AttemptOutcome::Accepted);
        drop(permit(2));
        drop(InFlightPermit::new(Arc::<TestLedger>::clone(&ledger)));
        SubmitPermit::free().settle(AttemptOutcome::Accepted);
        drop(InFlightPermit::free());
        assert_eq!(
            *ledger.0.lock().unwrap(),
            [
                Some((ticket(1), AttemptOutcome::Accepted)),
                Some((ticket(2), AttemptOutcome::Dropped)),
                None
            ]
        );
    }

    fn refusal(hint: Option<&str>) -> (StatusCode, HeaderMap) {
        let hint = hint.map(|hint| (http::header::RETRY_AFTER, hint.parse().unwrap()));
        (StatusCode::TOO_MANY_REQUESTS, hint.into_iter().collect())
    }

    #[test]
    fn retry_delay_in_a_429_body_applies_only_without_retry_after_header() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (head, later, extended) in [
            (Some("5"), seconds(5), None),
            (None, seconds(5), seconds(5)),
            (None, None, None),
        ] {
            let ledger = Arc::new(TestLedger::default());
            let mut permit =
                SubmitPermit::new(Arc::<TestLedger>::clone(&ledger), Ticket::default());
            let (status, headers) = refusal(head);
            let departure = permit.departure();
            departure.head(status, &headers, SystemTime::UNIX_EPOCH);
            permit.settle(AttemptOutcome::Refused { hint: later });
            assert_eq!(
                ledger.0.lock().unwrap().len(),
                1,
                "the outcome is reported once"
            );
            assert_eq!(*ledger.1.lock().unwrap(), extended, "{head:?} {later:?}");
        }
    }

    #[test]
    fn attempt_with_a_reported_outcome_may_not_be_sent() {
        let ledger = Arc::new(TestLedger::default());
        let permit = || SubmitPermit::new(Arc::<TestLedger>::clone(&ledger), Ticket::default());
        let mut dropped = permit();
        let departure = dropped.departure();
        assert!(departure.may_leave());
        drop(dropped);
        assert!(!departure.may_leave(), "the permit was dropped");
        let mut refused = permit();
        let departure = refused.departure();
        let (status, headers) = refusal(None);
        departure.head(status, &headers, SystemTime::UNIX_EPOCH);
        assert!(!departure.may_leave(), "the attempt was refused");
    }

    #[test]
    fn dropped_permits_are_returned_with_the_submit_permit_first() {
        let ledger = Arc::new(TestLedger::default());
        drop(Admitted {
            in_flight_permit: InFlightPermit::new(Arc::<TestLedger>::clone(&ledger)),
            permit: SubmitPermit::new(Arc::<TestLedger>::clone(&ledger), Ticket::default()),
            arrival: Arrival::default(),
        });
        let dropped = (Ticket::default(), AttemptOutcome::Dropped);
        assert_eq!(*ledger.0.lock().unwrap(), [Some(dropped), None]);
    }

    #[test]
    fn route_class_index_is_its_position_in_the_constant_all() {
        for (i, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), i);
        }
    }
}
