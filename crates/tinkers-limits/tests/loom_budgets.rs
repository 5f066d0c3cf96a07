//! Models of bytes, ramp, rate and retry budget. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{ByteBudget, Drawn, Failure, Gcra, Ramp, Rate, RetryBudget};

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// A thread that runs `task` on `shared`.
fn with<S: Send + Sync + 'static, T: Send + 'static>(
    shared: &Arc<S>,
    task: impl FnOnce(&S) -> T + Send + 'static,
) -> JoinHandle<T> {
    let shared = Arc::clone(shared);
    spawn(move || task(&shared))
}

fn fault(is_wrong: bool, what: impl Into<String>) -> Vec<String> {
    is_wrong.then(|| what.into()).into_iter().collect()
}

/// Bytes as the model uses them.
trait Bytes: Send + Sync + 'static {
    fn new(size: u64) -> Self;
    fn take(&self, bytes: u64) -> bool;
    fn give_back(&self, bytes: u64);
    fn taken(&self) -> u64;
}

impl Bytes for ByteBudget {
    fn new(size: u64) -> Self {
        Self::new(size)
    }

    fn take(&self, bytes: u64) -> bool {
        self.take(bytes).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.give_back(bytes);
    }

    fn taken(&self) -> u64 {
        self.taken()
    }
}

/// A faulty one: it looks whether anything is left, and then charges.
struct LooksFirst {
    size: u64,
    taken: AtomicU64,
}

impl Bytes for LooksFirst {
    fn new(size: u64) -> Self {
        let taken = AtomicU64::new(0);
        Self { size, taken }
    }

    fn take(&self, bytes: u64) -> bool {
        let is_left = self.taken.load(Ordering::Acquire) < self.size;
        if is_left {
            self.taken.fetch_add(bytes, Ordering::AcqRel);
        }
        is_left
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }
}

/// Three that each charge more than there is.
fn three_that_charge<B: Bytes>() -> Findings {
    explore("three that charge", 3, || {
        let bytes = Arc::new(B::new(5));
        let others = [(); 2].map(|()| with(&bytes, |bytes| bytes.take(10)));
        let ours = u64::from(bytes.take(10));
        let taken = ours + others.map(join).map(u64::from).iter().sum::<u64>();
        let mut faults = fault(taken != 1, format!("{taken} passed"));
        faults.extend(fault(bytes.taken() != 10 * taken, "charged otherwise"));
        (0..taken).for_each(|_| bytes.give_back(10));
        faults.extend(fault(bytes.taken() != 0, "not all came back"));
        faults
    })
}

#[test]
fn bytes_overshoot_by_one_charge_at_most_and_all_come_back() {
    three_that_charge::<ByteBudget>().assert_none();
}

#[test]
fn the_same_model_finds_bytes_that_look_before_they_charge() {
    let faults = three_that_charge::<LooksFirst>().faults;
    assert!(faults.contains(&"2 passed".to_owned()), "{faults:?}");
}

#[test]
fn a_budget_that_is_resized_keeps_what_is_taken() {
    let findings = explore("bytes of another size", 3, || {
        let bytes = Arc::new(ByteBudget::new(20));
        assert!(bytes.take(3).is_ok());
        let gives_back = with(&bytes, |bytes| bytes.give_back(3));
        let sizes = with(&bytes, |bytes| bytes.resize(7));
        bytes.resize(9);
        join(gives_back);
        join(sizes);
        let mut faults = fault(bytes.taken() != 0, "taken changed");
        // Whichever size came last, the balance is that of it.
        bytes.resize(7);
        assert!(bytes.take(7).is_ok());
        faults.extend(fault(bytes.has_any(), "the balance and the size differ"));
        faults
    });
    findings.assert_none();
}

/// A ramp as the model uses it.
trait Slope: Send + Sync + 'static {
    fn new(slots: u32) -> Self;
    fn restart(&self, level: u32);
    fn accepted(&self);
    fn allows(&self) -> u32;
}

impl Slope for Ramp {
    fn new(slots: u32) -> Self {
        Self::slow_start(slots)
    }

    fn restart(&self, level: u32) {
        self.restart(level);
    }

    fn accepted(&self) {
        Ramp::accepted(self, 1);
    }

    fn allows(&self) -> u32 {
        self.allows()
    }
}

/// A faulty one: what was accepted is read, raised and stored. Slots above, accepted below.
struct Stored(AtomicU64);

impl Slope for Stored {
    fn new(slots: u32) -> Self {
        Self(AtomicU64::new(u64::from(slots) << 32))
    }

    fn restart(&self, level: u32) {
        self.0.store(u64::from(level) << 32, Ordering::Release);
    }

    fn accepted(&self) {
        let word = self.0.load(Ordering::Acquire);
        self.0.store(word + 1, Ordering::Release);
    }

    fn allows(&self) -> u32 {
        let word = self.0.load(Ordering::Acquire);
        let is_ended = word as u32 >= 4 * (word >> 32) as u32;
        if is_ended { u32::MAX } else { Ramp::LEAST }
    }
}

/// Answers from before a pause arrive while the ramp begins again: they must not end it.
fn a_ramp_that_restarts<S: Slope>() -> Findings {
    explore("a ramp that restarts", 3, || {
        let ramp = Arc::new(S::new(1));
        (0..3).for_each(|_| ramp.accepted());
        let answers = [(); 2].map(|()| with(&ramp, S::accepted));
        ramp.restart(50);
        answers.into_iter().for_each(join);
        let allows = ramp.allows();
        fault(allows != Ramp::LEAST, format!("allows {allows}"))
    })
}

#[test]
fn answers_that_come_late_do_not_end_the_ramp() {
    a_ramp_that_restarts::<Ramp>().assert_none();
}

#[test]
fn the_same_model_finds_answers_that_are_stored() {
    let faults = a_ramp_that_restarts::<Stored>().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn no_answer_is_lost_on_the_way_up() {
    let findings = explore("answers of a ramp", 3, || {
        let ramp = Arc::new(Ramp::slow_start(100));
        ramp.restart(10);
        (0..7).for_each(|_| ramp.accepted(1));
        let answers = [(); 2].map(|()| with(&ramp, |ramp| ramp.accepted(1)));
        let before = ramp.allows();
        answers.into_iter().for_each(join);
        let after = ramp.allows();
        fault(
            (after, before > after) != (9, false),
            format!("{before} {after}"),
        )
    });
    findings.assert_none();
}

#[test]
fn a_rate_lets_through_what_it_says_and_takes_back_what_did_not_go() {
    let findings = explore("a rate", 3, || {
        let limit = Arc::new(Gcra::new(Rate {
            interval: Duration::from_secs(1),
            burst: 2,
        }));
        let now = Duration::ZERO;
        let takes = with(&limit, move |limit| u32::from(limit.take(1, now).is_ok()));
        let undoes = with(&limit, move |limit| {
            if limit.take(1, now).is_ok() {
                limit.undo(1);
            }
        });
        let mut went = u32::from(limit.take(1, now).is_ok());
        went += join(takes);
        join(undoes);
        let left = (0..3).filter(|_| limit.take(1, now).is_ok()).count() as u32;
        fault(went + left != 2, format!("{went} went and {left} are left"))
    });
    findings.assert_none();
}

/// A retry budget as the model uses it.
trait Budget: Send + Sync + 'static {
    fn new(capacity: u64) -> Self;
    fn draw(&self) -> bool;
    fn credit(&self);
    fn tokens(&self) -> u64;
}

impl Budget for RetryBudget {
    fn new(capacity: u64) -> Self {
        Self::new(capacity)
    }

    fn draw(&self) -> bool {
        self.draw(Failure::Fault) == Drawn::Granted
    }

    fn credit(&self) {
        self.credit();
    }

    fn tokens(&self) -> u64 {
        self.tokens()
    }
}

/// A faulty one: it looks whether there is enough, and then takes it.
struct CheckThenTake(AtomicU64);

impl Budget for CheckThenTake {
    fn new(capacity: u64) -> Self {
        Self(AtomicU64::new(capacity))
    }

    fn draw(&self) -> bool {
        let is_enough = self.0.load(Ordering::Acquire) >= 5;
        if is_enough {
            let left = self.0.load(Ordering::Acquire).saturating_sub(5);
            self.0.store(left, Ordering::Release);
        }
        is_enough
    }

    fn credit(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn tokens(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Two that draw and one that pays back, of a budget that has enough for one.
fn two_that_draw<B: Budget>() -> Findings {
    explore("two that draw and one that pays", 3, || {
        let budget = Arc::new(B::new(9));
        assert!(budget.draw(), "four are left");
        let draws = [(); 2].map(|()| with(&budget, B::draw));
        budget.credit();
        let granted: u64 = draws.map(join).map(u64::from).iter().sum();
        let tokens = budget.tokens();
        let is_wrong = tokens + 5 * granted != 5;
        fault(is_wrong, format!("{granted} granted and {tokens} left"))
    })
}

#[test]
fn draws_and_credits_balance() {
    two_that_draw::<RetryBudget>().assert_none();
}

#[test]
fn the_same_model_finds_a_budget_that_looks_before_it_takes() {
    let faults = two_that_draw::<CheckThenTake>().faults;
    assert!(!faults.is_empty());
}
