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

/// A group of API routes that share a queue, connections and a rate-limit gate. A 429 response closes only the gate of its own route class,
/// so it holds back only requests of that class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteClass {
    /// The route class of requests that submit samples.
    Sample,
    /// The route class of requests that submit training calls, create models, or save and load weights.
    Train,
    /// The route class of requests that poll for results.
    Poll,
    /// The route class of all other requests, such as those that create sessions or list objects on the server.
    Rest,
    /// The route class of heartbeats and of requests that configure sessions, cancel operations or close sessions. They are never rate
    /// limited.
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

    /// Returns the position of this route class in [`RouteClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the name of this route class, such as `sample`. Tracing spans and errors contain this name.
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

/// The id of a client, such as a training or sampling client, in the rate limiter. The requests of each client wait in a queue of their
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// The amounts that a request takes from the rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// The estimated size of the request body, in bytes.
    pub bytes: u64,
}

/// The data with which a request asks the rate limiter for admission, that is, for the permission to be sent.
#[derive(Debug)]
pub struct AdmissionRequest {
    /// The route class of the request.
    pub class: RouteClass,
    /// The client that sends the request.
    pub client: ClientId,
    /// The amounts that the request takes from the rate limits.
    pub cost: Cost,
    /// The time at which the request stops waiting for admission and fails. With `None` the request waits without limit.
    pub deadline: Option<Timestamp>,
    /// The permit that an earlier attempt of this request took from the in-flight limit, if the outcome of that attempt is unknown. The
    /// retry keeps this permit and takes no second permit.
    pub in_flight_permit: Option<InFlightPermit>,
    /// The position at which the request enters the queue of its client: the end, or the position that it had before the server refused it
    /// with 429.
    pub readmission: Readmission,
    /// Whether the request is nested: made during another request, for example by a transport layer.
    ///
    /// A nested request is admitted at once or fails, since a wait could depend on a permit that the outer request holds.
    pub is_nested: bool,
}

/// The position at which a request enters the queue of its client in the rate limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "admissions handle each position")]
pub enum Readmission {
    /// At the end of the queue: the request was not admitted before, or starts over after a failure.
    New,
    /// At the position that the request had before. For a request that was admitted, and was then not sent or was refused by the server
    /// with 429.
    AfterRefusal(Arrival),
}

/// The number of a request in the order in which the requests of a route class arrived at the rate limiter. A request that the server
/// refuses with 429 keeps its number, and so its position before later requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Arrival(pub u64);

/// What a request receives when the rate limiter admits it: its permits, and its arrival number.
#[derive(Debug)]
pub struct Admitted {
    /// The permit to send one attempt of the request. The caller returns it with the outcome of the attempt.
    pub permit: SubmitPermit,
    /// The permit that counts the request as in flight. The caller holds it until the result is available.
    pub in_flight_permit: InFlightPermit,
    /// The arrival number of the request. If the server refuses the request with 429, a retry with this number keeps the queue position.
    pub arrival: Arrival,
}

impl Admitted {
    /// Returns the permits for a request of a route class without rate limits. The submission permit holds nothing. The in-flight permit is
    /// `in_flight_permit` if given, otherwise a permit that holds nothing.
    pub fn free(in_flight_permit: Option<InFlightPermit>) -> Self {
        Self {
            permit: SubmitPermit::free(),
            in_flight_permit: in_flight_permit.unwrap_or(InFlightPermit::free()),
            arrival: Arrival::default(),
        }
    }
}

/// The outcome of one attempt to send a request. The caller reports the outcome to the rate limiter when it returns the permit of the
/// attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "admissions handle each outcome")]
pub enum AttemptOutcome {
    /// The server accepted the request. The caller holds the in-flight permit until the result is available.
    Accepted,
    /// The server refused the request (429). The caller drops the in-flight permit and asks for admission again.
    Refused {
        /// The server's retry delay, counted from now. `None` if the response contains none.
        hint: Option<Duration>,
    },
    /// The server sent another response, which neither accepts the request nor is a 429. If the server may have applied the request, a
    /// retry keeps the in-flight permit.
    Answered,
    /// The request failed without a response. If the server may have applied the request, a retry keeps the in-flight permit.
    Unknown,
    /// The permit of the attempt was dropped before the outcome of the attempt was known.
    Dropped,
}

/// The interface to the rate limiter, which decides when a request may be sent.
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Waits until the rate limits allow the request of `ask` to be sent, and returns its permits.
    ///
    /// # Errors
    /// - `RateLimited`, with `retry_at`, if the server's retry delay ends after the deadline of the request.
    /// - `Timeout` if the deadline passes.
    /// - `Closed` if the client is closed.
    ///
    /// # Cancel safety
    /// Dropping the future returns all permits that it had taken.
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>>;

    /// Returns the last time at which a response or a result made room for the requests that wait in the queue of `class`. `None` if
    /// unknown.
    ///
    /// A request that waits in this queue counts as making progress at that time, and so does not fail as stalled.
    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Returns the time at which the rate-limit gate of `class`, which a 429 response closes, opens again. `None` if the gate is open.
    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Waits until the rate-limit gate of `class` holds a request back: until a 429 response closes the gate, or a request asks for
    /// admission while the gate is closed. Ignores everything that happened before the call of this method.
    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        let _ = class;
        Box::pin(std::future::pending())
    }
}

/// The part of a rate limiter that takes back permits and records the outcomes of attempts. Each permit is returned exactly once.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Returns whether an admitted attempt may still be sent. It may not if a 429 response to another request has closed the rate-limit
    /// gate since the admission.
    fn may_leave(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        true
    }

    /// Closes the rate-limit gate for the retry delay `hint`, counted from now. Called after [`Ledger::settle`] has recorded a 429
    /// response, if the body of this response contains a retry delay and its headers contain none.
    fn extend(&self, ticket: Ticket, hint: Duration) {
        let _ = (ticket, hint);
    }

    /// Takes back the permit of an attempt, with the amounts in `ticket`, and records the outcome of the attempt.
    fn settle(&self, ticket: Ticket, outcome: AttemptOutcome);

    /// Takes back one unit of the in-flight limit, since one request is no longer in flight.
    fn release(&self);
}

/// The permit to send one attempt of a request. Until the outcome of the attempt is reported, the permit takes one submission slot and the
/// bytes of the request body from the rate limits. Dropping the permit reports [`AttemptOutcome::Dropped`].
#[must_use = "dropping it ends the attempt"]
pub struct SubmitPermit {
    from: PermitSource,
}

enum PermitSource {
    /// The permit holds nothing: it was issued for a route class without rate limits, or it was returned already.
    Nothing,
    Alone(Arc<dyn Ledger>, Ticket),
    Shared(Arc<Attempt>),
}

/// The state of one attempt. A [`SubmitPermit`] and a [`DepartureCheck`] share it, so that the outcome of the attempt is reported only
/// once.
#[derive(Debug)]
struct Attempt {
    ledger: Arc<dyn Ledger>,
    ticket: Ticket,
    /// [`IN_PROGRESS`] until the outcome of the attempt is reported, then [`SETTLED`] or [`REFUSED_WITHOUT_HINT`].
    state: AtomicU8,
}

const IN_PROGRESS: u8 = 0;
const SETTLED: u8 = 1;
/// The state of an attempt that got a 429 response without a retry delay in its headers. If the response body contains a retry delay, the
/// rate-limit gate then stays closed for that delay.
const REFUSED_WITHOUT_HINT: u8 = 2;

impl Attempt {
    /// Reports the outcome of the attempt to the limiter, unless an outcome was reported before. Returns the previous value of `state`.
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

    /// Returns whether the attempt may be sent. An attempt with a reported outcome may not be sent, since the limits no longer count it:
    /// its caller has dropped it, or a transport layer tries to send it again after a 429 response.
    fn may_leave(&self) -> bool {
        self.state.load(Ordering::Acquire) == IN_PROGRESS && self.ledger.may_leave(self.ticket)
    }
}

impl SubmitPermit {
    /// Creates a permit that reports the outcome of its attempt to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>, ticket: Ticket) -> Self {
        Self {
            from: PermitSource::Alone(ledger, ticket),
        }
    }

    /// Creates a permit that holds nothing, for a route class without rate limits.
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

    /// Reports the outcome of the attempt to the limiter, which takes the permit back.
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
/// Between admission and the socket a request may wait for a connection, a TLS handshake or a busy executor. Meanwhile a 429 response to
/// another request may close the rate-limit gate. The default check lets every request pass.
#[derive(Debug, Clone, Default)]
pub struct DepartureCheck {
    attempt: Option<Arc<Attempt>>,
    /// The decision that prevents a submission from being sent after its caller has given it up or its client was closed. `None` for
    /// requests that are not submissions.
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

    /// Adds the decision that prevents a submission from being sent after its caller has given it up or its client was closed.
    pub(crate) fn with_send_decision(mut self, send_decision: &Arc<SendDecision>) -> Self {
        self.send_decision = Some(Arc::clone(send_decision));
        self
    }

    /// Reports the head of a response to the limiter. A 429 closes the rate-limit gate at once, without waiting for the response body,
    /// which may be slow. The retry delay of a `Retry-After` date is counted from the `Date` of the response, or from `wall` if the
    /// response has no date.
    pub fn head(&self, status: StatusCode, headers: &HeaderMap, wall: SystemTime) {
        if let Some(attempt) = &self.attempt
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            let hint = retry_after_header(headers, wall);
            attempt.settle(AttemptOutcome::Refused { hint });
        }
    }
}

/// The permit that counts one request as in flight, from admission until its result is available. It holds one unit of the in-flight limit.
/// Dropping the permit returns the unit.
#[must_use = "dropping it returns its unit"]
pub struct InFlightPermit {
    from: Option<Arc<dyn Ledger>>,
}

impl InFlightPermit {
    /// Creates a permit for one unit of the in-flight limit. Dropping the permit returns the unit to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { from: Some(ledger) }
    }

    /// Creates a permit that holds nothing, for a route class without an in-flight limit.
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

    /// Returns a ticket, which records what an attempt took from the limits, for an attempt with a body of `bytes` bytes.
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
