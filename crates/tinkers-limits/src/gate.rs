//! The gate that a refusal closes: a deadline that only moves forward, a probe before it opens, and the epoch, in one word.
//!
//! The word's time never goes back, and every probe goes later than those that are under way. So the time at which a probe went says
//! which one it is, and one that was overtaken by another has no more say in a closure.

use std::time::Duration;

use crate::word::Word;

/// A gate that is open, closed until a deadline, or being probed. All times are measured from the origin of the caller's clock.
///
/// The deadline is only ever extended: nothing shortens it, and nothing reopens the gate before it. It is kept in
/// microseconds and rounded up, so it is never early either. Once it has passed, one request goes as the probe; what becomes of
/// that decides whether the gate opens.
#[derive(Debug)]
pub struct BackoffGate {
    word: Word,
}

/// Which congestion event a request was admitted after. It counts modulo 65536, so it is compared for equality alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(pub(crate) u16);

/// Which probe of a gate: no two that are under way at once are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub(crate) epoch: Epoch,
    /// When it went, in microseconds.
    pub(crate) since: u64,
}

/// How a request went through the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// With everybody else.
    Open(Epoch),
    /// Alone: it must end in [`BackoffGate::reopen`], [`BackoffGate::close`], [`BackoffGate::defer`] or
    /// [`BackoffGate::pass_on`], once.
    Probe(Probe),
}

impl Entry {
    /// To be told to the gate when the answer is there.
    pub const fn epoch(self) -> Epoch {
        match self {
            Self::Open(epoch) | Self::Probe(Probe { epoch, .. }) => epoch,
        }
    }

    /// Which probe it is, where it goes alone.
    pub const fn probe(self) -> Option<Probe> {
        match self {
            Self::Open(_) => None,
            Self::Probe(probe) => Some(probe),
        }
    }

    /// Whether it goes alone.
    pub const fn is_probe(self) -> bool {
        matches!(self, Self::Probe(_))
    }
}

/// What a refusal did to a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// No request goes before this.
    pub until: Duration,
    /// Whether it is a congestion event of its own, and not one more refusal of an event that is known.
    pub first_of_its_event: bool,
}

/// What a gate is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// Everything goes.
    Open,
    /// Nothing goes before this; then a probe does.
    ClosedUntil(Duration),
    /// A probe went at this time and is under way. Another may go once it has not been answered for too long.
    ProbingSince(Duration),
}

impl BackoffGate {
    /// A gate that is open.
    pub fn new() -> Self {
        Self { word: Word::new(0) }
    }

    /// The epoch, when the gate is open. One load; no clock is needed.
    #[inline]
    pub fn open(&self) -> Option<Epoch> {
        let word = Packed(self.word.load());
        (word.kind() == Kind::Open).then(|| word.epoch())
    }

    /// Whether a request that went through as `entry` may still leave. One load; no clock is needed.
    ///
    /// It may not once a refusal has closed the gate, nor after the gate has opened again: then it would pass those that wait for
    /// their turn, and its own refusal would count for a congestion event that is over. A probe may not once another one has taken
    /// its place.
    #[inline]
    pub fn admits_still(&self, entry: Entry) -> bool {
        let word = Packed(self.word.load());
        match (word.kind(), entry) {
            (Kind::Open, entry) => word.epoch() == entry.epoch(),
            (Kind::Probing, Entry::Probe(probe)) => word == Packed::probing(probe),
            (Kind::Probing | Kind::Closed, _) => false,
        }
    }

    /// Goes through along with a request that is under way already: with everybody else while the gate is open, as part of the
    /// probe while it is being probed. `None` while it is closed.
    pub fn enter_nested(&self) -> Option<Entry> {
        let word = Packed(self.word.load());
        let epoch = word.epoch();
        match word.kind() {
            Kind::Open => Some(Entry::Open(epoch)),
            Kind::Probing => Some(Entry::Probe(Probe {
                epoch,
                since: word.micros(),
            })),
            Kind::Closed => None,
        }
    }

    /// Goes through at `now`, as the probe where one is due, or says when it may. A probe that is not answered within
    /// `patience` (at least a microsecond) lets another one go.
    pub fn enter(&self, now: Duration, patience: Duration) -> Result<Entry, Duration> {
        let (now, patience) = (micros_down(now), micros_up(patience).max(1));
        self.word.change(|word| {
            let (after, entry) = Packed(word).enter(now, patience)?;
            Ok((after.0, entry))
        })
    }

    /// Closes the gate until `until`, if that is later than what it is closed until already.
    ///
    /// `seen` is the epoch in which the refused request was admitted: of many refusals of one moment only the first begins
    /// a new epoch, since the others were admitted before it, too.
    pub fn close(&self, until: Duration, seen: Epoch) -> Closed {
        let until = micros_up(until);
        self.word.set(|word| {
            let before = Packed(word);
            let after = before.close(until, seen);
            let closed = Closed {
                until: after.time(),
                first_of_its_event: after.epoch() != before.epoch(),
            };
            (after.0, closed)
        })
    }

    /// A probe got no answer: the gate closes until `until` without a new epoch, since nobody refused anything. Does nothing
    /// when the gate was closed or opened meanwhile, or another probe goes by now.
    pub fn defer(&self, until: Duration, probe: Probe) -> bool {
        self.end_probe(probe, micros_up(until))
    }

    /// A probe of the epoch `seen` was answered, and not by a refusal: the gate opens, also when another one of that epoch goes
    /// by now. Does nothing when a refusal closed it meanwhile.
    pub fn reopen(&self, seen: Epoch) -> bool {
        let opened = self.word.change(|word| {
            let word = Packed(word);
            let is_probed = word.kind() == Kind::Probing && word.epoch() == seen;
            let open = Packed::new(Kind::Open, word.micros(), seen);
            is_probed.then_some((open.0, ())).ok_or(())
        });
        opened.is_ok()
    }

    /// A probe was given up at `now`: the next one may go at once. Does nothing when the gate was closed or opened meanwhile, or
    /// another probe goes by now.
    pub fn pass_on(&self, now: Duration, probe: Probe) -> bool {
        // Rounded down, so that `now` itself is not before it.
        self.end_probe(probe, micros_down(now))
    }

    /// What it is doing.
    pub fn state(&self) -> GateState {
        let word = Packed(self.word.load());
        match word.kind() {
            Kind::Open => GateState::Open,
            Kind::Closed => GateState::ClosedUntil(word.time()),
            Kind::Probing => GateState::ProbingSince(word.time()),
        }
    }

    /// The epoch now.
    pub fn epoch(&self) -> Epoch {
        Packed(self.word.load()).epoch()
    }

    /// How many exchanges lost to another thread.
    #[cfg(feature = "contention")]
    pub fn contention(&self) -> u64 {
        self.word.lost()
    }

    /// The gate is closed until `until` by the end of `probe`, where it is the one under way. A probe never goes before the deadline,
    /// so neither does what follows it.
    fn end_probe(&self, probe: Probe, until: u64) -> bool {
        let probing = Packed::probing(probe);
        let closed = Packed::new(Kind::Closed, until.max(probe.since), probe.epoch);
        let changed = self.word.change(|word| {
            let is_under_way = Packed(word) == probing;
            is_under_way.then_some((closed.0, ())).ok_or(())
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

/// 46 bits of microseconds (more than two years), 2 of what it is doing, 16 of epoch. The time is the deadline of a closed gate, and
/// when the last probe went otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const KIND_AT: u32 = 16;
    const TIME_AT: u32 = 18;
    /// The last time that the word holds, in microseconds.
    const LAST: u64 = (1 << (64 - Self::TIME_AT)) - 1;

    const fn new(kind: Kind, micros: u64, epoch: Epoch) -> Self {
        Self(micros << Self::TIME_AT | (kind as u64) << Self::KIND_AT | epoch.0 as u64)
    }

    /// The word while `probe` is the one under way.
    const fn probing(probe: Probe) -> Self {
        Self::new(Kind::Probing, probe.since, probe.epoch)
    }

    /// The transition of [`BackoffGate::enter`].
    fn enter(self, now: u64, patience: u64) -> Result<(Self, Entry), Duration> {
        let epoch = self.epoch();
        let due = match self.kind() {
            Kind::Open => return Ok((self, Entry::Open(epoch))),
            Kind::Closed => self.micros(),
            Kind::Probing => self.micros().saturating_add(patience).min(Self::LAST),
        };
        if now < due {
            return Err(Duration::from_micros(due));
        }
        let probing = Self::new(Kind::Probing, now, epoch);
        Ok((probing, Entry::Probe(Probe { epoch, since: now })))
    }

    /// The transition of [`BackoffGate::close`]: the later deadline, and a new epoch if the refused request knew the present one.
    /// What an open or probed gate was closed until has passed, so there the new deadline is the later one; it is after the last
    /// probe, so that the next one goes later than that.
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

/// Rounded up, and at most what the word holds.
fn micros_up(at: Duration) -> u64 {
    let micros = at.as_nanos().div_ceil(1000);
    u64::try_from(micros).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

/// Rounded down, and at most what the word holds.
fn micros_down(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).map_or(Packed::LAST, |micros| micros.min(Packed::LAST))
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "gate_tests.rs"]
mod tests;
