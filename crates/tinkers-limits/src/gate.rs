//! The gate that a refusal closes: a deadline that only moves forward, and the epoch, in one word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::backoff::update;

/// A gate that is closed until a deadline. All times are measured from the origin of the caller's clock.
///
/// The deadline is only ever extended: nothing shortens it, and nothing reopens the gate early. It is kept in
/// microseconds and rounded up, so it is never early either.
#[derive(Debug, Default)]
pub struct BackoffGate {
    word: AtomicU64,
}

/// Which congestion event a request was admitted after. It counts modulo 65536, so it is compared for equality alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epoch(u16);

/// What a refusal did to a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// When the gate opens now.
    pub opens_at: Duration,
    /// Whether it is a congestion event of its own, and not one more refusal of an event that is known.
    pub first_of_its_event: bool,
}

impl BackoffGate {
    /// A gate that is open.
    pub const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// Closes the gate until `until`, if that is later than what it is closed until already.
    ///
    /// `seen` is the epoch in which the refused request was admitted: of many refusals of one moment only the first begins
    /// a new epoch, since the others were admitted before it, too.
    pub fn close(&self, until: Duration, seen: Epoch) -> Closed {
        let until = micros_up(until);
        match update(&self.word, |word| {
            let after = Word(word).close(until, seen).0;
            (after != word).then_some(after)
        }) {
            Ok((before, after)) => Closed {
                opens_at: Word(after).opens_at(),
                first_of_its_event: Word(before).epoch() != Word(after).epoch(),
            },
            Err(word) => Closed {
                opens_at: Word(word).opens_at(),
                first_of_its_event: false,
            },
        }
    }

    /// When the gate opens, or opened last; zero when it was never closed.
    pub fn opens_at(&self) -> Duration {
        self.load().opens_at()
    }

    /// Whether a request may go at `now`.
    pub fn is_open(&self, now: Duration) -> bool {
        self.load().is_open(now)
    }

    /// The epoch now. A request that is admitted keeps it for [`BackoffGate::close`].
    pub fn epoch(&self) -> Epoch {
        self.load().epoch()
    }

    /// The epoch when a request may go at `now`, read together with the deadline; else when it may.
    pub fn enter(&self, now: Duration) -> Result<Epoch, Duration> {
        let word = self.load();
        if word.is_open(now) {
            return Ok(word.epoch());
        }
        Err(word.opens_at())
    }

    fn load(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }
}

/// 48 bits of microseconds (nearly nine years), then 16 bits of epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const EPOCH_BITS: u32 = 16;

    /// The transition: the later deadline, and a new epoch if the refused request knew the present one.
    const fn close(self, until_micros: u64, seen: Epoch) -> Self {
        let deadline = if until_micros > self.deadline() {
            until_micros
        } else {
            self.deadline()
        };
        let epoch = if seen.0 == self.epoch().0 {
            seen.0.wrapping_add(1)
        } else {
            self.epoch().0
        };
        Self(deadline << Self::EPOCH_BITS | epoch as u64)
    }

    const fn deadline(self) -> u64 {
        self.0 >> Self::EPOCH_BITS
    }

    const fn epoch(self) -> Epoch {
        Epoch(self.0 as u16)
    }

    const fn opens_at(self) -> Duration {
        Duration::from_micros(self.deadline())
    }

    fn is_open(self, now: Duration) -> bool {
        now >= self.opens_at()
    }
}

/// Rounded up, and at most what 48 bits hold.
fn micros_up(at: Duration) -> u64 {
    const LAST: u64 = (1 << (64 - Word::EPOCH_BITS)) - 1;
    let micros = at.as_nanos().div_ceil(1000);
    u64::try_from(micros).map_or(LAST, |micros| micros.min(LAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_gate_opens_at_its_deadline_and_not_a_nanosecond_before() {
        let gate = BackoffGate::new();
        assert!(gate.is_open(Duration::ZERO));
        for until in [
            secs(1),
            Duration::from_nanos(1_000_000_001),
            secs(40_000_000),
        ] {
            gate.close(until, gate.epoch());
            assert!(!gate.is_open(until - Duration::from_nanos(1)), "{until:?}");
            assert!(gate.opens_at() >= until, "{until:?}");
            assert!(
                gate.opens_at() - until < Duration::from_micros(1),
                "{until:?}"
            );
            assert!(gate.is_open(gate.opens_at()));
        }
    }

    #[test]
    fn a_shorter_hint_does_not_shorten() {
        let gate = BackoffGate::new();
        gate.close(secs(9), gate.epoch());
        let closed = gate.close(secs(3), gate.epoch());
        assert_eq!(closed.opens_at, secs(9));
        assert_eq!(gate.enter(secs(8)), Err(secs(9)));
    }

    #[test]
    fn refusals_of_one_moment_are_one_event() {
        let gate = BackoffGate::new();
        let seen = gate.epoch();
        let first: Vec<bool> = (1..=5)
            .map(|n| gate.close(secs(n), seen).first_of_its_event)
            .collect();
        assert_eq!(first, [true, false, false, false, false]);
        // What was admitted afterwards and is refused is an event of its own.
        let later = gate.enter(secs(5)).expect("open");
        assert!(gate.close(secs(6), later).first_of_its_event);
    }

    #[test]
    fn a_deadline_beyond_the_word_is_the_last_one_and_the_epoch_stays_whole() {
        let gate = BackoffGate::new();
        let before = gate.epoch();
        gate.close(Duration::MAX, before);
        assert_ne!(gate.epoch(), before);
        assert!(gate.opens_at() > secs(200_000_000));
        for _ in 0..70_000 {
            gate.close(Duration::ZERO, gate.epoch());
        }
        assert!(
            gate.opens_at() > secs(200_000_000),
            "the epoch never runs into the deadline"
        );
    }

    #[test]
    fn threads_that_close_it_together_leave_the_latest_deadline_and_exact_epochs() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 2_000;
        let gate = BackoffGate::new();
        let events: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let gate = &gate;
                    scope.spawn(move || {
                        let mut events = 0;
                        let mut last = Duration::ZERO;
                        for round in 0..ROUNDS {
                            let until = Duration::from_micros(round * THREADS + thread);
                            let closed = gate.close(until, gate.epoch());
                            assert!(closed.opens_at >= until && closed.opens_at >= last);
                            last = closed.opens_at;
                            events += u64::from(closed.first_of_its_event);
                        }
                        events
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("no panic"))
                .sum()
        });
        assert_eq!(gate.opens_at(), Duration::from_micros(THREADS * ROUNDS - 1));
        // Each event moved the epoch by one, and nothing else did. Fewer than 65536, so it never wrapped.
        assert_eq!(u64::from(gate.epoch().0), events);
    }
}
