//! The backoff gate, which refusals close: a deadline that only moves forward, a probe before it reopens, and the
//! epoch, in one word.
//!
//! The time in the word never goes back, and each probe has a later time than all other probes in flight. Therefore the
//! time of a probe identifies it, and the end of a replaced probe has no effect.

use std::time::Duration;

use crate::word::Word;

/// A gate that is open, closed until a deadline, or being probed. All times are relative to the origin of the caller's
/// clock.
///
/// The deadline is only ever extended: nothing shortens it, and nothing reopens the gate before it. It is rounded up to
/// microseconds, so it is never early. After the deadline one request is admitted as the probe, whose outcome decides
/// whether the gate reopens.
#[derive(Debug)]
pub struct BackoffGate {
    word: Word,
}

/// The congestion event after which a request was admitted. It wraps around at 65536, so only equality is meaningful.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub(crate) u16);

/// Identifies a probe of a gate. Probes in flight at the same time are distinct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub(crate) epoch: Epoch,
    /// The time of its admission in microseconds.
    pub(crate) since: u64,
}

/// The admission of a request by the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatePass {
    /// Through the open gate.
    Open(Epoch),
    /// As the only request. It must end exactly once in [`BackoffGate::reopen`], [`BackoffGate::close`],
    /// [`BackoffGate::defer_probe`] or [`BackoffGate::hand_over_probe`].
    Probe(Probe),
}

impl GatePass {
    /// Returns the epoch of the admission, to be passed to the gate with the outcome.
    pub const fn epoch(self) -> Epoch {
        match self {
            Self::Open(epoch) | Self::Probe(Probe { epoch, .. }) => epoch,
        }
    }

    /// Returns the probe, if the request is one.
    pub const fn probe(self) -> Option<Probe> {
        match self {
            Self::Open(_) => None,
            Self::Probe(probe) => Some(probe),
        }
    }

    /// Returns whether the request is a probe.
    pub const fn is_probe(self) -> bool {
        matches!(self, Self::Probe(_))
    }
}

/// The effect of a refusal on a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateClosed {
    /// The deadline before which no request is admitted.
    pub until: Duration,
    /// Whether the refusal started a new congestion event.
    pub is_new_event: bool,
}

/// The state of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// All requests are admitted.
    Open,
    /// No request is admitted before this time; then a probe is.
    ClosedUntil(Duration),
    /// A probe was admitted at this time and is in flight. After a timeout another one may replace it.
    ProbingSince(Duration),
}

impl BackoffGate {
    /// Creates an open gate.
    pub fn new() -> Self {
        Self { word: Word::new(0) }
    }

    /// Returns the epoch if the gate is open. One load; no clock is needed.
    #[inline]
    pub fn open(&self) -> Option<Epoch> {
        let word = Packed(self.word.load());
        (word.kind() == Kind::Open).then(|| word.epoch())
    }

    /// Returns whether an admitted request may still be sent. One load; no clock is needed.
    ///
    /// It may not after a refusal has closed the gate, even if the gate has reopened: it would overtake the waiters,
    /// and its own refusal would count for a congestion event that is over. A probe may not be sent after another one
    /// has replaced it.
    #[inline]
    pub fn still_admits(&self, pass: GatePass) -> bool {
        let word = Packed(self.word.load());
        match (word.kind(), pass) {
            (Kind::Open, pass) => word.epoch() == pass.epoch(),
            (Kind::Probing, GatePass::Probe(probe)) => word == Packed::probing(probe),
            (Kind::Probing | Kind::Closed, _) => false,
        }
    }

    /// Admits a nested request, which belongs to a request in flight: through the open gate, or as part of the probe.
    /// `None` while the gate is closed.
    pub fn enter_nested(&self) -> Option<GatePass> {
        let word = Packed(self.word.load());
        let epoch = word.epoch();
        match word.kind() {
            Kind::Open => Some(GatePass::Open(epoch)),
            Kind::Probing => Some(GatePass::Probe(Probe {
                epoch,
                since: word.micros(),
            })),
            Kind::Closed => None,
        }
    }

    /// Admits a request at `now`, as the probe if one is due, or returns the earliest time of admission. A probe
    /// without a response within `patience` (at least one microsecond) can be replaced.
    pub fn enter(&self, now: Duration, patience: Duration) -> Result<GatePass, Duration> {
        let (now, patience) = (micros_down(now), micros_up(patience).max(1));
        self.word.change(|word| {
            let (after, pass) = Packed(word).enter(now, patience)?;
            Ok((after.0, pass))
        })
    }

    /// Closes the gate until `until` or until its current deadline, whichever is later.
    ///
    /// `seen` is the epoch in which the refused request was admitted. Of several concurrent refusals only the first
    /// starts a new epoch, since all of them were admitted in the epoch before it.
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

    /// Closes the gate until `until` after a probe without a response. It starts no new epoch, since nothing was
    /// refused. Returns false without effect if the gate has been closed or opened meanwhile or another probe has
    /// replaced this one.
    pub fn defer_probe(&self, until: Duration, probe: Probe) -> bool {
        self.end_probe(probe, micros_up(until))
    }

    /// Opens the gate after the response to a probe of the epoch `seen` that was not a refusal, even if another probe
    /// of that epoch has replaced it. Returns false without effect if the gate has been closed or opened meanwhile.
    pub fn reopen(&self, seen: Epoch) -> bool {
        let opened = self.word.change(|word| {
            let word = Packed(word);
            let is_probed = word.kind() == Kind::Probing && word.epoch() == seen;
            let open = Packed::new(Kind::Open, word.micros(), seen);
            is_probed.then_some((open.0, ())).ok_or(())
        });
        opened.is_ok()
    }

    /// Lets the next probe enter at once after a probe was dropped at `now`. Returns false without effect if the gate
    /// has been closed or opened meanwhile or another probe has replaced this one.
    pub fn hand_over_probe(&self, now: Duration, probe: Probe) -> bool {
        // Round down, so that the next probe can enter at `now`.
        self.end_probe(probe, micros_down(now))
    }

    /// Returns the state.
    pub fn state(&self) -> GateState {
        let word = Packed(self.word.load());
        match word.kind() {
            Kind::Open => GateState::Open,
            Kind::Closed => GateState::ClosedUntil(word.time()),
            Kind::Probing => GateState::ProbingSince(word.time()),
        }
    }

    /// Returns the current epoch.
    pub fn epoch(&self) -> Epoch {
        Packed(self.word.load()).epoch()
    }

    /// Returns the number of exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }

    /// Closes the gate until `until` if `probe` is the one in flight. The deadline is not before the admission of the
    /// probe.
    fn end_probe(&self, probe: Probe, until: u64) -> bool {
        let probing = Packed::probing(probe);
        let closed = Packed::new(Kind::Closed, until.max(probe.since), probe.epoch);
        let changed = self.word.change(|word| {
            let is_in_flight = Packed(word) == probing;
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
    Probing,
}

/// The state in one word: 46 bits of microseconds (more than two years), 2 of kind, 16 of epoch. The time is the
/// deadline of a closed gate, otherwise the time of the last probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const KIND_AT: u32 = 16;
    const TIME_AT: u32 = 18;
    /// The maximum time in microseconds.
    const LAST: u64 = (1 << (64 - Self::TIME_AT)) - 1;

    const fn new(kind: Kind, micros: u64, epoch: Epoch) -> Self {
        Self(micros << Self::TIME_AT | (kind as u64) << Self::KIND_AT | epoch.0 as u64)
    }

    /// Returns the state while `probe` is in flight.
    const fn probing(probe: Probe) -> Self {
        Self::new(Kind::Probing, probe.since, probe.epoch)
    }

    /// The transition of [`BackoffGate::enter`].
    fn enter(self, now: u64, patience: u64) -> Result<(Self, GatePass), Duration> {
        let epoch = self.epoch();
        let deadline = match self.kind() {
            Kind::Open => return Ok((self, GatePass::Open(epoch))),
            Kind::Closed => self.micros(),
            Kind::Probing => self.micros().saturating_add(patience).min(Self::LAST),
        };
        if now < deadline {
            return Err(Duration::from_micros(deadline));
        }
        let probing = Self::new(Kind::Probing, now, epoch);
        Ok((probing, GatePass::Probe(Probe { epoch, since: now })))
    }

    /// The transition of [`BackoffGate::close`]: the later deadline, and a new epoch if the refused request was
    /// admitted in the current one. The deadline of an open or probed gate has passed, so the new one applies; it is
    /// later than the last probe, so that the next probe gets a later time.
    fn close(self, until: u64, seen: Epoch) -> Self {
        let deadline = match self.kind() {
            Kind::Closed => until.max(self.micros()),
            Kind::Open | Kind::Probing => until.max(self.micros() + 1).min(Self::LAST),
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
            _ => Kind::Probing,
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

/// Converts a time to microseconds, rounded up and limited to the maximum.
fn micros_up(at: Duration) -> u64 {
    let micros = at.as_nanos().div_ceil(1000);
    u64::try_from(micros).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

/// Converts a time to microseconds, rounded down and limited to the maximum.
fn micros_down(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "gate_tests.rs"]
mod tests;
