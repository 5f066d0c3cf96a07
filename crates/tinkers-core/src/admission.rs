//! The seam to the rate limits: who may send, what that takes, and how it is given back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use crate::closing::Exit;
use crate::error::Error;
use crate::hint::retry_after_header;
use crate::spawn::BoxFuture;
use crate::time::Timestamp;

/// The lanes of the API. Each has its own gate, queue and connections; a 429 closes its own lane alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteClass {
    /// Sampling submissions.
    Sample,
    /// Training submissions, model creation, saves and loads.
    Train,
    /// Polls for results.
    Poll,
    /// Listings and management.
    Rest,
    /// Heartbeat, configuration, cancel, finish. Never gated.
    Control,
}

impl RouteClass {
    /// Every class, in the order of [`RouteClass::index`].
    pub const ALL: [Self; 5] = [
        Self::Sample,
        Self::Train,
        Self::Poll,
        Self::Rest,
        Self::Control,
    ];

    /// A small number for tables: the position in [`RouteClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in spans and errors.
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

/// One client handle among those that share a limiter; each has its own queue there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What a request takes from the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Estimated bytes of the body.
    pub bytes: u64,
}

/// A request to be admitted.
#[derive(Debug)]
pub struct AdmissionRequest {
    /// The lane.
    pub class: RouteClass,
    /// Who asks.
    pub client: ClientId,
    /// What it takes.
    pub cost: Cost,
    /// The wait ends here with an error; `None` waits for as long as it takes.
    pub deadline: Option<Timestamp>,
    /// The flight of an earlier attempt whose outcome is unknown: it was kept, and no second one is taken.
    pub flight: Option<InFlightPermit>,
    /// Where in its client's queue it goes.
    pub reentry: Readmission,
    /// It is made by a request that is under way, such as by a transport layer. It is let through at once or fails: waiting for room
    /// that the request under way holds would never end.
    pub is_nested: bool,
}

/// Where in its client's queue a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readmission {
    /// At the end.
    New,
    /// Where it was: it was admitted before and the server refused it.
    AfterRefusal(Arrival),
}

/// When a request came, among those of its lane. It keeps it through refusals, and so its place before those that came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Arrival(pub u64);

/// What an admitted request holds.
#[derive(Debug)]
pub struct Admitted {
    /// For this attempt.
    pub permit: SubmitPermit,
    /// To the result.
    pub flight: InFlightPermit,
    /// When it came.
    pub arrival: Arrival,
}

impl Admitted {
    /// What a lane without limits gives.
    pub fn free(flight: Option<InFlightPermit>) -> Self {
        Self {
            permit: SubmitPermit::free(),
            flight: flight.unwrap_or(InFlightPermit::free()),
            arrival: Arrival::default(),
        }
    }
}

/// How an attempt ended, as far as the limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The server took it; the flight goes on.
    Accepted,
    /// The server refused it for its rate. The caller drops the flight and asks again.
    Refused {
        /// When the server said to come back, counted from now.
        hint: Option<Duration>,
    },
    /// The server answered, and what it said is not about the rate. The flight is kept through a retry.
    Answered,
    /// Nobody knows: there was no answer. The flight is kept through a retry.
    Unknown,
    /// It was given up before it was over.
    Dropped,
}

/// Decides when a request may leave. The wait is cancel-safe: dropping it gives back all that was taken.
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Waits for its turn. Fails with `RateLimited` and `retry_at` when the server's hint lies beyond the deadline, with
    /// `Timeout` when the deadline passes, with `Closed` after the end of the client.
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>>;

    /// When the server last answered one of `class`, or a result made room, while others waited for their turn. A queue that moves is
    /// news for all who stand in it, however long it is. `None` where nothing is known of that.
    fn moved(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Returns until when no request of `class` may leave, where a refusal holds them back now.
    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        let _ = class;
        None
    }

    /// Completes when a refusal next closes `class` or closes it for longer, or when a request asks for admission while it is closed;
    /// counted from the call of this method.
    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        let _ = class;
        Box::pin(std::future::pending())
    }
}

/// Where permits and flights are given back.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// Whether an attempt that was admitted may still leave. It may not after a refusal that was heard of meanwhile.
    fn may_leave(&self, receipt: Receipt) -> bool {
        let _ = receipt;
        true
    }

    /// Holds requests back for `hint` from now on: an attempt that was settled as refused without a hint had one in its body.
    fn extend(&self, receipt: Receipt, hint: Duration) {
        let _ = (receipt, hint);
    }

    /// Takes back what an attempt took.
    fn settle(&self, receipt: Receipt, outcome: Settlement);

    /// Takes back one unit of the in-flight window.
    fn land(&self);
}

/// What a ledger wrote down when it admitted an attempt, to read it again when the attempt is over. It means nothing to
/// anybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt(pub [u64; 2]);

/// A slot and bytes of the budgets, for one attempt. Dropped unsettled, it counts as [`Settlement::Dropped`].
#[must_use = "dropped, it counts as given up"]
pub struct SubmitPermit {
    from: PermitSource,
}

enum PermitSource {
    /// It took nothing, or has given it back.
    Nothing,
    Alone(Arc<dyn Ledger>, Receipt),
    Shared(Arc<Attempt>),
}

/// An attempt that its [`Departure`] knows, too.
#[derive(Debug)]
struct Attempt {
    ledger: Arc<dyn Ledger>,
    receipt: Receipt,
    /// [`UNDER_WAY`], then one of the others for good.
    state: AtomicU8,
}

const UNDER_WAY: u8 = 0;
const SETTLED: u8 = 1;
/// Settled as refused without a hint, which may still come with the body.
const REFUSED_WITHOUT_HINT: u8 = 2;

impl Attempt {
    /// Settles it, unless that was done before. Returns the state before.
    fn settle(&self, outcome: Settlement) -> u8 {
        let settled = match outcome {
            Settlement::Refused { hint: None } => REFUSED_WITHOUT_HINT,
            _ => SETTLED,
        };
        let changed =
            (self.state).compare_exchange(UNDER_WAY, settled, Ordering::AcqRel, Ordering::Acquire);
        match changed {
            Ok(before) => {
                self.ledger.settle(self.receipt, outcome);
                before
            }
            Err(before) => before,
        }
    }

    /// Whether it may leave now. Once it is settled, the limits no longer count it, so it may not: its caller has dropped it, or
    /// a layer sends it once more after a refusal.
    fn may_leave(&self) -> bool {
        self.state.load(Ordering::Acquire) == UNDER_WAY && self.ledger.may_leave(self.receipt)
    }
}

impl SubmitPermit {
    /// A permit that reports its end to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>, receipt: Receipt) -> Self {
        Self {
            from: PermitSource::Alone(ledger, receipt),
        }
    }

    /// A permit that took nothing.
    pub const fn free() -> Self {
        Self {
            from: PermitSource::Nothing,
        }
    }

    /// What goes with the request to the socket.
    pub fn departure(&mut self) -> Departure {
        let attempt = match std::mem::replace(&mut self.from, PermitSource::Nothing) {
            PermitSource::Nothing => return Departure::default(),
            PermitSource::Shared(attempt) => attempt,
            PermitSource::Alone(ledger, receipt) => Arc::new(Attempt {
                ledger,
                receipt,
                state: AtomicU8::new(UNDER_WAY),
            }),
        };
        self.from = PermitSource::Shared(Arc::clone(&attempt));
        Departure {
            attempt: Some(attempt),
            exit: None,
        }
    }

    /// Ends the attempt.
    #[inline]
    pub fn settle(mut self, outcome: Settlement) {
        self.end(outcome);
    }

    #[inline]
    fn end(&mut self, outcome: Settlement) {
        match std::mem::replace(&mut self.from, PermitSource::Nothing) {
            PermitSource::Nothing => {}
            PermitSource::Alone(ledger, receipt) => ledger.settle(receipt, outcome),
            PermitSource::Shared(attempt) => {
                let before = attempt.settle(outcome);
                // A refusal is settled when its head arrives. A hint of the head has closed the gate already, from the arrival of
                // the head on; one that came with the body has not.
                if before == REFUSED_WITHOUT_HINT
                    && let Settlement::Refused { hint: Some(hint) } = outcome
                {
                    attempt.ledger.extend(attempt.receipt, hint);
                }
            }
        }
    }
}

impl Drop for SubmitPermit {
    #[inline]
    fn drop(&mut self) {
        self.end(Settlement::Dropped);
    }
}

impl fmt::Debug for SubmitPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitPermit").finish_non_exhaustive()
    }
}

/// The limiter's view of one attempt on its way to the socket. It goes with the [`HttpRequest`](crate::HttpRequest); a transport
/// consults it immediately before the first byte leaves and when the head of the response is there.
///
/// Between admission and the socket a request may wait for a connection, a dial, a TLS handshake or a busy executor, and the server may
/// ask for a pause meanwhile. The default lets everything leave.
#[derive(Debug, Clone, Default)]
pub struct Departure {
    attempt: Option<Arc<Attempt>>,
    /// Of a submission: nothing of it leaves once the client is closed.
    exit: Option<Arc<Exit>>,
}

impl Departure {
    /// Whether the request may leave now. Where it may not, the transport gives the connection back and fails with
    /// [`TransportErrorKind::Held`](crate::TransportErrorKind::Held). A few atomic loads while the client and the gate are open.
    #[inline]
    pub fn may_leave(&self) -> bool {
        let is_admitted = (self.attempt.as_ref()).is_none_or(|attempt| attempt.may_leave());
        is_admitted && self.exit.as_ref().is_none_or(|exit| exit.leave())
    }

    /// The same, for a submission that leaves by `exit`.
    pub(crate) fn by(mut self, exit: &Arc<Exit>) -> Self {
        self.exit = Some(Arc::clone(exit));
        self
    }

    /// Takes note of the head of a response: a 429 closes the gate at once, since its body may be slow. `wall` is the time that a
    /// `Retry-After` date is compared with where the response has no `Date`.
    pub fn head(&self, status: StatusCode, headers: &HeaderMap, wall: SystemTime) {
        if let Some(attempt) = &self.attempt
            && status == StatusCode::TOO_MANY_REQUESTS
        {
            let hint = retry_after_header(headers, wall);
            attempt.settle(Settlement::Refused { hint });
        }
    }
}

/// One unit of the in-flight window, from admission to the result, a terminal error or the drop.
#[must_use = "dropped, it gives its unit back"]
pub struct InFlightPermit {
    from: Option<Arc<dyn Ledger>>,
}

impl InFlightPermit {
    /// A flight that gives its unit back to `ledger`, exactly once.
    #[inline]
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { from: Some(ledger) }
    }

    /// A flight that took nothing, for lanes without a window.
    pub const fn free() -> Self {
        Self { from: None }
    }

    /// Whether it is a unit of a window.
    pub const fn is_counted(&self) -> bool {
        self.from.is_some()
    }
}

impl Drop for InFlightPermit {
    #[inline]
    fn drop(&mut self) {
        if let Some(ledger) = self.from.take() {
            ledger.land();
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

    #[derive(Debug, Default)]
    struct Book(
        Mutex<Vec<Option<(Receipt, Settlement)>>>,
        Mutex<Option<Duration>>,
    );

    impl Ledger for Book {
        fn extend(&self, _: Receipt, hint: Duration) {
            *self.1.lock().unwrap() = Some(hint);
        }

        fn settle(&self, receipt: Receipt, outcome: Settlement) {
            self.0.lock().unwrap().push(Some((receipt, outcome)));
        }

        fn land(&self) {
            self.0.lock().unwrap().push(None);
        }
    }

    #[test]
    fn a_permit_settles_exactly_once_also_when_dropped() {
        let book = Arc::new(Book::default());
        let permit = |n| SubmitPermit::new(Arc::<Book>::clone(&book), Receipt([n, 0]));
        permit(1).settle(Settlement::Accepted);
        drop(permit(2));
        drop(InFlightPermit::new(Arc::<Book>::clone(&book)));
        SubmitPermit::free().settle(Settlement::Accepted);
        drop(InFlightPermit::free());
        assert_eq!(
            *book.0.lock().unwrap(),
            [
                Some((Receipt([1, 0]), Settlement::Accepted)),
                Some((Receipt([2, 0]), Settlement::Dropped)),
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
            let book = Arc::new(Book::default());
            let mut permit = SubmitPermit::new(Arc::<Book>::clone(&book), Receipt::default());
            let (status, headers) = refusal(head);
            let departure = permit.departure();
            departure.head(status, &headers, SystemTime::UNIX_EPOCH);
            permit.settle(Settlement::Refused { hint: later });
            assert_eq!(book.0.lock().unwrap().len(), 1, "settled once");
            assert_eq!(*book.1.lock().unwrap(), extended, "{head:?} {later:?}");
        }
    }

    #[test]
    fn a_settled_attempt_may_not_leave() {
        let book = Arc::new(Book::default());
        let permit = || SubmitPermit::new(Arc::<Book>::clone(&book), Receipt::default());
        let mut dropped = permit();
        let departure = dropped.departure();
        assert!(departure.may_leave());
        drop(dropped);
        assert!(!departure.may_leave(), "its caller is gone");
        let mut refused = permit();
        let departure = refused.departure();
        let (status, headers) = refusal(None);
        departure.head(status, &headers, SystemTime::UNIX_EPOCH);
        assert!(!departure.may_leave(), "it was refused");
    }

    #[test]
    fn dropped_admission_gives_the_permit_back_before_the_flight() {
        let book = Arc::new(Book::default());
        drop(Admitted {
            flight: InFlightPermit::new(Arc::<Book>::clone(&book)),
            permit: SubmitPermit::new(Arc::<Book>::clone(&book), Receipt::default()),
            arrival: Arrival::default(),
        });
        let dropped = (Receipt::default(), Settlement::Dropped);
        assert_eq!(*book.0.lock().unwrap(), [Some(dropped), None]);
    }

    #[test]
    fn the_index_of_a_class_is_its_place_in_the_list() {
        for (i, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), i);
        }
    }
}
