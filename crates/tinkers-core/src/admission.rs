//! The interface to the rate limits: admission of requests, and the permits that they hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tinkers_limits::Ticket;

use crate::closing::Exit;
use crate::error::Error;
use crate::hint::retry_after_header;
use crate::spawn::BoxFuture;
use crate::time::Timestamp;

/// The classes of requests. Each has its own gate, queue and connections, so a 429 holds back only requests of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteClass {
    /// Sampling submissions.
    Sample,
    /// Training submissions, model creation, saves and loads.
    Train,
    /// Polls for results.
    Poll,
    /// Listings and administration.
    Rest,
    /// Heartbeat, configuration, cancel, finish. Never gated.
    Control,
}

impl RouteClass {
    /// All classes, in the order of [`RouteClass::index`].
    pub const ALL: [Self; 5] = [
        Self::Sample,
        Self::Train,
        Self::Poll,
        Self::Rest,
        Self::Control,
    ];

    /// Returns the position in [`RouteClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the name in spans and errors.
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

/// A client handle of a limiter, with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a request consumes of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Estimated bytes of the body.
    pub bytes: u64,
}

/// A request for admission.
#[derive(Debug)]
pub struct AdmissionRequest {
    /// The class.
    pub class: RouteClass,
    /// The client that sends the request.
    pub client: ClientId,
    /// The cost.
    pub cost: Cost,
    /// When the wait fails; `None` waits without limit.
    pub deadline: Option<Timestamp>,
    /// The in-flight permit of an earlier attempt with an unknown outcome. It is kept, so no second one is taken.
    pub flight: Option<InFlightPermit>,
    /// The position in the queue of the client.
    pub readmission: Readmission,
    /// Whether a request in progress makes it, such as in a transport layer. A nested request is admitted at once or fails, since it could
    /// wait for a permit that the outer request holds.
    pub is_nested: bool,
}

/// The position of a request in the queue of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readmission {
    /// The end of the queue.
    New,
    /// The former position: the request was admitted before, and the server refused it.
    AfterRefusal(Arrival),
}

/// The arrival number of a request in its class. A refused request keeps it, and with it the position before later requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Arrival(pub u64);

/// The permits of an admitted request.
#[derive(Debug)]
pub struct Admitted {
    /// The permit of this attempt.
    pub permit: SubmitPermit,
    /// The in-flight permit, to be held until the result.
    pub flight: InFlightPermit,
    /// The arrival number, for a readmission.
    pub arrival: Arrival,
}

impl Admitted {
    /// Returns the permits of a class without limits.
    pub fn free(flight: Option<InFlightPermit>) -> Self {
        Self {
            permit: SubmitPermit::free(),
            flight: flight.unwrap_or(InFlightPermit::free()),
            arrival: Arrival::default(),
        }
    }
}

/// The outcome of an attempt, as reported to the limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The server accepted the request. The in-flight permit is held until the result.
    Accepted,
    /// The server refused it (429). The caller drops the in-flight permit and asks for admission again.
    Refused {
        /// The time until the server takes requests again, from now.
        hint: Option<Duration>,
    },
    /// Any other response. A retry keeps the in-flight permit.
    Answered,
    /// There was no response. A retry keeps the in-flight permit.
    Unknown,
    /// The attempt was dropped before it ended.
    Dropped,
}

/// Decides when requests may be sent.
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Waits until the request may be sent.
    ///
    /// # Errors
    /// `RateLimited` with `retry_at` when the server's hint ends after the deadline, `Timeout` when the deadline passes, `Closed` after the
    /// client was closed.
    ///
    /// # Cancel safety
    /// Dropping the future returns everything that was taken.
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>>;

    /// Returns when the queue of `class` last moved: when a response or a result made room while requests waited. Waiting requests count as
    /// making progress while their queue moves. `None` if that is unknown.
    fn last_movement(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Returns when the gate of `class` opens, if a refusal has closed it.
    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Waits for the next refusal that closes the gate of `class`, or the next request for admission while it is closed. Counts from the
    /// call of this method.
    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        let _ = class;
        Box::pin(std::future::pending())
    }
}

/// The owner of permits, to which they are returned.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Returns whether an admitted attempt may still be sent: not after a refusal that arrived meanwhile.
    fn may_leave(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        true
    }

    /// Closes the gate for `hint` from now on: the body of a refusal that was settled without a hint contained one.
    fn extend(&self, ticket: Ticket, hint: Duration) {
        let _ = (ticket, hint);
    }

    /// Returns the permit of an attempt, with its outcome.
    fn settle(&self, ticket: Ticket, outcome: AttemptOutcome);

    /// Returns one unit of the in-flight window.
    fn release(&self);
}

/// The permit to send one attempt: a slot and bytes. Dropping it settles it as [`AttemptOutcome::Dropped`].
#[must_use = "dropping it ends the attempt"]
pub struct SubmitPermit {
    from: PermitSource,
}

enum PermitSource {
    /// Nothing was taken, or it was returned.
    Nothing,
    Alone(Arc<dyn Ledger>, Ticket),
    Shared(Arc<Attempt>),
}

/// An attempt that is shared with its [`DepartureCheck`].
#[derive(Debug)]
struct Attempt {
    ledger: Arc<dyn Ledger>,
    ticket: Ticket,
    /// First [`IN_PROGRESS`], then one of the other states for good.
    state: AtomicU8,
}

const IN_PROGRESS: u8 = 0;
const SETTLED: u8 = 1;
/// Settled as refused without a hint; the body may still contain one.
const REFUSED_WITHOUT_HINT: u8 = 2;

impl Attempt {
    /// Settles the attempt unless it is settled. Returns the previous state.
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

    /// Returns whether the attempt may be sent. A settled attempt may not, since the limits no longer count it: its caller has dropped it, or
    /// a layer sends it again after a refusal.
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

    /// Creates a permit without limits.
    pub const fn free() -> Self {
        Self {
            from: PermitSource::Nothing,
        }
    }

    /// Returns the check that accompanies the request to the socket.
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
            exit: None,
        }
    }

    /// Settles the attempt.
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
                // A refusal is settled when its head arrives, which closes the gate for the hint of the head. A hint of the body
                // extends that.
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

/// A check of the limits at the socket. It accompanies the [`HttpRequest`](crate::HttpRequest); a transport consults it immediately before
/// the first byte is sent and when the head of the response has arrived.
///
/// Between admission and the socket a request may wait for a connection, a TLS handshake or a busy executor, and the server may ask for a
/// pause meanwhile. The default lets every request pass.
#[derive(Debug, Clone, Default)]
pub struct DepartureCheck {
    attempt: Option<Arc<Attempt>>,
    /// For submissions, which are not sent once the client is closed.
    exit: Option<Arc<Exit>>,
}

impl DepartureCheck {
    /// Returns whether the request may be sent now. Otherwise the transport returns the connection and fails with
    /// [`TransportErrorKind::Held`](crate::TransportErrorKind::Held). Costs a few atomic loads while the client and the gate are open.
    #[inline]
    pub fn may_leave(&self) -> bool {
        let is_admitted = (self.attempt.as_ref()).is_none_or(|attempt| attempt.may_leave());
        is_admitted && self.exit.as_ref().is_none_or(|exit| exit.leave())
    }

    /// Adds the exit of a submission.
    pub(crate) fn with_exit(mut self, exit: &Arc<Exit>) -> Self {
        self.exit = Some(Arc::clone(exit));
        self
    }

    /// Reports the head of a response: a 429 closes the gate at once, since its body may be slow. `wall` is the time that a
    /// `Retry-After` date is compared with if the response has no `Date`.
    pub fn head(&self, status: StatusCode, headers: &HeaderMap, wall: SystemTime) {
        if let Some(attempt) = &self.attempt
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            let hint = retry_after_header(headers, wall);
            attempt.settle(AttemptOutcome::Refused { hint });
        }
    }
}

/// A unit of the in-flight window, held from admission to the result. Dropping it returns the unit.
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

    /// Creates a permit of a class without a window.
    pub const fn free() -> Self {
        Self { from: None }
    }

    /// Returns whether it is a unit of a window.
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

    /// Returns a ticket for `bytes`.
    fn ticket(bytes: u64) -> Ticket {
        let bounds = Bounds {
            slots: 8,
            bytes: 1000,
            flights: 8,
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
    fn permit_settles_exactly_once_also_when_dropped() {
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
    fn hint_of_a_refusal_counts_once() {
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
            assert_eq!(ledger.0.lock().unwrap().len(), 1, "settled once");
            assert_eq!(*ledger.1.lock().unwrap(), extended, "{head:?} {later:?}");
        }
    }

    #[test]
    fn settled_attempt_may_not_be_sent() {
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
        assert!(!departure.may_leave(), "it was refused");
    }

    #[test]
    fn dropped_admission_returns_the_submit_permit_first() {
        let ledger = Arc::new(TestLedger::default());
        drop(Admitted {
            flight: InFlightPermit::new(Arc::<TestLedger>::clone(&ledger)),
            permit: SubmitPermit::new(Arc::<TestLedger>::clone(&ledger), Ticket::default()),
            arrival: Arrival::default(),
        });
        let dropped = (Ticket::default(), AttemptOutcome::Dropped);
        assert_eq!(*ledger.0.lock().unwrap(), [Some(dropped), None]);
    }

    #[test]
    fn class_index_is_the_position_in_all() {
        for (i, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), i);
        }
    }
}
