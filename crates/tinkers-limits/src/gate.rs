//! The backoff gate, which refusals close. One word contains its deadline, which only moves forward, the first request after a closure, and
//! the epoch.
//!
//! The time in the word never goes back, and each first request has a later time than all others in flight. Therefore the time identifies a
//! first request, and the end of a replaced one has no effect.

use std::time::Duration;

use crate::word::Word;

/// A gate that stops new requests after a refusal (429 response). It is open, closed until a deadline, or waiting for the response to the
/// first request after the deadline. All times are measured from the origin of the caller's clock.
///
/// A deadline is only ever extended: nothing shortens it, and nothing opens the gate before it. It is rounded up to microseconds, so the
/// gate never opens early. After the deadline the gate admits only one request, called the first request. If the server responds to the
/// first request with anything but a refusal, the gate opens. If the first request is refused or fails, the gate is closed again.
#[derive(Debug)]
pub struct BackoffGate {
    word: Word,
}

/// A gate epoch: the number of congestion events (groups of concurrent refusals) that the gate had seen when it admitted a request. The
/// number wraps around at 65536, so epochs can only be compared for equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub(crate) u16);

/// The identity of a request that the gate admitted as the first request after a rate-limit pause. If another request takes its place while
/// it is still in flight, both have different identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstRequest {
    pub(crate) epoch: Epoch,
    /// The time at which the gate admitted this request, in microseconds from the clock's origin.
    pub(crate) since: u64,
}

/// The way in which the gate admitted a request: as any request of an open gate, or as the first request after a rate-limit pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatePass {
    /// The gate was open. Contains the gate epoch, which is the number of congestion events so far.
    Open(Epoch),
    /// The request is the first one after a rate-limit pause: other requests wait for its response. The end of the request must be reported
    /// exactly once, by [`BackoffGate::reopen`], [`BackoffGate::close`], [`BackoffGate::defer_first_request`] or
    /// [`BackoffGate::hand_over_first_request`].
    First(FirstRequest),
}

impl GatePass {
    /// Returns the gate epoch (the number of congestion events) in which the request was admitted. The caller passes this epoch to the gate
    /// with the outcome of the request.
    pub const fn epoch(self) -> Epoch {
        match self {
            Self::Open(epoch) | Self::First(FirstRequest { epoch, .. }) => epoch,
        }
    }

    /// Returns the identity of the request if it is a first request after a rate-limit pause, or `None` if the gate was open.
    pub const fn first_request(self) -> Option<FirstRequest> {
        match self {
            Self::Open(_) => None,
            Self::First(first_request) => Some(first_request),
        }
    }

    /// Returns whether the request is the first request after a rate-limit pause, whose response decides whether the gate opens.
    pub const fn is_first_request(self) -> bool {
        matches!(self, Self::First(_))
    }
}

/// The effect of a refusal (429 response) on the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateClosed {
    /// The deadline before which no request is admitted, measured from the clock's origin.
    pub until: Duration,
    /// Whether the refusal was the first one of a congestion event: a group of refusals of requests that were in flight at the same time.
    pub is_new_event: bool,
}

/// The state of a gate, which stops new requests after a refusal (429 response).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// All requests are admitted.
    Open,
    /// The gate is closed: no request is admitted before this time. Then one request is admitted, and its response decides whether the gate
    /// opens.
    ClosedUntil(Duration),
    /// The gate waits for the response to the first request after a rate-limit pause, which was admitted at this time. After a timeout
    /// another request may take its place.
    FirstRequestSince(Duration),
}

impl BackoffGate {
    /// Creates an open gate.
    pub fn new() -> Self {
        Self { word: Word::new(0) }
    }

    /// Returns the current gate epoch (the number of congestion events so far) if the gate is open, and `None` otherwise. Costs one atomic
    /// load and needs no clock.
    #[inline]
    pub fn open(&self) -> Option<Epoch> {
        let word = Packed(self.word.load());
        (word.kind() == Kind::Open).then(|| word.epoch())
    }

    /// Returns whether an admitted request may still be sent. Costs one atomic load and needs no clock.
    ///
    /// After a refusal (429 response) has closed the gate, the request may not be sent, even if the gate has opened again: it would
    /// overtake requests that wait for admission, and a refusal of it would count for a congestion event that is over. If the request is
    /// the first one after a pause, it may not be sent after another request has taken its place.
    #[inline]
    pub fn still_admits(&self, pass: GatePass) -> bool {
        let word = Packed(self.word.load());
        match (word.kind(), pass) {
            (Kind::Open, pass) => word.epoch() == pass.epoch(),
            (Kind::FirstRequest, GatePass::First(first_request)) => {
                word == Packed::pending(first_request)
            }
            (Kind::FirstRequest | Kind::Closed, _) => false,
        }
    }

    /// Admits a nested request, which is made during another request. It is also admitted while the gate waits for the response to the
    /// first request after a rate-limit pause, since it may be a part of that request. Returns `None` while the gate is closed.
    pub fn enter_nested(&self) -> Option<GatePass> {
        let word = Packed(self.word.load());
        let epoch = word.epoch();
        match word.kind() {
            Kind::Open => Some(GatePass::Open(epoch)),
            Kind::FirstRequest => Some(GatePass::First(FirstRequest {
                epoch,
                since: word.micros(),
            })),
            Kind::Closed => None,
        }
    }

    /// Admits a request at `now` if the gate is open. If the gate is closed and its deadline has passed, admits the request as the first
    /// request after the pause. If an earlier first request has had no response for `patience` (at least one microsecond), the request
    /// takes its place.
    ///
    /// # Errors
    /// The earliest time at which the gate may admit a request.
    pub fn enter(&self, now: Duration, patience: Duration) -> Result<GatePass, Duration> {
        let (now, patience) = (micros_down(now), micros_up(patience).max(1));
        self.word.change(|word| {
            let (after, pass) = Packed(word).enter(now, patience)?;
            Ok((after.0, pass))
        })
    }

    /// Closes the gate after a refusal (429 response), until `until` or until its current deadline, whichever is later.
    ///
    /// `seen` is the gate epoch in which the refused request was admitted. Of several concurrent refusals only the first one starts a new
    /// epoch: all of the refused requests were admitted in the previous epoch.
    pub fn close(&self, until: Duration, seen: Epoch) -> GateClosed {
        let until = micros_up(until);
        self.word.set(|word| {
            let before = Packed(word);
            let after = before.close(until, seen);
            let closed = GateClosed {
                until: after.time(),
                is_new_event: after.epoch() != before.epoch(),
            };
            (after.0, closed)
        })
    }

    /// Closes the gate until `until`, since `first_request` (the first request after a rate-limit pause) got no response. This starts no
    /// new gate epoch, since no request was refused. Does nothing and returns false if the gate has been closed or opened meanwhile, or
    /// another request has taken the place of `first_request`.
    pub fn defer_first_request(&self, until: Duration, first_request: FirstRequest) -> bool {
        self.end_first_request(first_request, micros_up(until))
    }

    /// Opens the gate, since the server has responded to the first request after a rate-limit pause. `seen` is the gate epoch in which that
    /// request was admitted. Call this method for any response except a refusal, even if another request of the same epoch has taken the
    /// place of that request meanwhile. Does nothing and returns false if the gate has been closed or opened meanwhile.
    pub fn reopen(&self, seen: Epoch) -> bool {
        let opened = self.word.change(|word| {
            let word = Packed(word);
            let is_pending = word.kind() == Kind::FirstRequest && word.epoch() == seen;
            let open = Packed::new(Kind::Open, word.micros(), seen);
            is_pending.then_some((open.0, ())).ok_or(())
        });
        opened.is_ok()
    }

    /// Lets the gate admit another request in place of `first_request` (the first request after a rate-limit pause), which was dropped
    /// without a response at `now`. Does nothing and returns false if the gate has been closed or opened meanwhile, or another request has
    /// already taken that place.
    pub fn hand_over_first_request(&self, now: Duration, first_request: FirstRequest) -> bool {
        // Rounded down, so that the gate admits the next first request at `now`.
        self.end_first_request(first_request, micros_down(now))
    }

    /// Returns the state of the gate.
    pub fn state(&self) -> GateState {
        let word = Packed(self.word.load());
        match word.kind() {
            Kind::Open => GateState::Open,
            Kind::Closed => GateState::ClosedUntil(word.time()),
            Kind::FirstRequest => GateState::FirstRequestSince(word.time()),
        }
    }

    /// Returns the current gate epoch: the number of congestion events (groups of concurrent refusals) so far.
    pub fn epoch(&self) -> Epoch {
        Packed(self.word.load()).epoch()
    }

    /// Returns how many compare-and-swap attempts have failed so far because another thread changed the value first.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }

    /// Ends the wait for the response to `first_request` (the first request after a rate-limit pause): closes the gate until `until`, but
    /// not before the admission time of that request. Does nothing and returns false if the gate does not wait for `first_request`.
    fn end_first_request(&self, first_request: FirstRequest, until: u64) -> bool {
        let pending = Packed::pending(first_request);
        let closed = Packed::new(
            Kind::Closed,
            until.max(first_request.since),
            first_request.epoch,
        );
        let changed = self.word.change(|word| {
            let is_in_flight = Packed(word) == pending;
            is_in_flight.then_some((closed.0, ())).ok_or(())
        });
        changed.is_ok()
    }
}

impl Default for BackoffGate {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Closed,
    FirstRequest,
}

/// The state of the gate in one word: 46 bits of time in microseconds (more than two years), 2 bits for open, closed or waiting, and 16
/// bits of gate epoch. The time is the deadline of a closed gate, and otherwise the time at which the latest first request after a pause
/// was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const KIND_AT: u32 = 16;
    const TIME_AT: u32 = 18;
    /// The latest time that fits in the word, in microseconds from the clock's origin.
    const LAST: u64 = (1 << (64 - Self::TIME_AT)) - 1;

    const fn new(kind: Kind, micros: u64, epoch: Epoch) -> Self {
        Self(micros << Self::TIME_AT | (kind as u64) << Self::KIND_AT | epoch.0 as u64)
    }

    /// Returns the state of a gate that waits for the response to `first_request`, the first request after a rate-limit pause.
    const fn pending(first_request: FirstRequest) -> Self {
        Self::new(Kind::FirstRequest, first_request.since, first_request.epoch)
    }

    /// Returns the result of [`BackoffGate::enter`] in this state: the next state of the gate, and the pass of the admitted request. The
    /// error is the earliest time of an admission.
    fn enter(self, now: u64, patience: u64) -> Result<(Self, GatePass), Duration> {
        let epoch = self.epoch();
        let deadline = match self.kind() {
            Kind::Open => return Ok((self, GatePass::Open(epoch))),
            Kind::Closed => self.micros(),
            Kind::FirstRequest => self.micros().saturating_add(patience).min(Self::LAST),
        };
        if now < deadline {
            return Err(Duration::from_micros(deadline));
        }
        let pending = Self::new(Kind::FirstRequest, now, epoch);
        Ok((pending, GatePass::First(FirstRequest { epoch, since: now })))
    }

    /// Returns the state after [`BackoffGate::close`]: closed until the later of the old and the new deadline, and with a new gate epoch if
    /// the refused request was admitted in the current epoch. If the gate is not closed now, its old deadline has passed and does not
    /// count.
    ///
    /// The new deadline is always later than the time in this state. So each request that is admitted as the first one after a pause has a
    /// different admission time, by which it is identified.
    fn close(self, until: u64, seen: Epoch) -> Self {
        let deadline = match self.kind() {
            Kind::Closed => until.max(self.micros()),
            Kind::Open | Kind::FirstRequest => until.max(self.micros() + 1).min(Self::LAST),
        };
        let epoch = if seen == self.epoch() {
            Epoch(seen.0.wrapping_add(1))
        } else {
            self.epoch()
        };
        Self::new(Kind::Closed, deadline, epoch)
    }

    const fn kind(self) -> Kind {
        match (self.0 >> Self::KIND_AT) & 0b11 {
            0 => Kind::Open,
            1 => Kind::Closed,
            _ => Kind::FirstRequest,
        }
    }

    const fn micros(self) -> u64 {
        self.0 >> Self::TIME_AT
    }

    const fn time(self) -> Duration {
        Duration::from_micros(self.micros())
    }

    const fn epoch(self) -> Epoch {
        Epoch(self.0 as u16)
    }
}

/// Converts a time to microseconds, rounded up and limited to [`Packed::LAST`].
fn micros_up(at: Duration) -> u64 {
    let micros = at.as_nanos().div_ceil(1000);
    u64::try_from(micros).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

/// Converts a time to microseconds, rounded down and limited to [`Packed::LAST`].
fn micros_down(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "gate_tests.rs"]
mod tests;
