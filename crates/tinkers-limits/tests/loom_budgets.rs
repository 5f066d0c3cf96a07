//! Loom models of the byte budget, ramp, rate limit and retry budget. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::{Findings, explore};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{ByteBudget, Gcra, Ramp, Rate, RetryBudget, RetryDraw, RetryReason};

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// Runs `task` with `shared` on a new thread.
fn spawn_with<S: Send + Sync + 'static, T: Send + 'static>(
    shared: &Arc<S>,
    task: impl FnOnce(&S) -> T + Send + 'static,
) -> JoinHandle<T> {
    let shared = Arc::clone(shared);
    spawn(move || task(&shared))
}

fn fault_if(is_wrong: bool, what: impl Into<String>) -> Vec<String> {
    is_wrong.then(|| what.into()).into_iter().collect()
}

/// A byte budget to be tested: the real byte budget, or one with a planted fault (negative control).
trait Bytes: Send + Sync + 'static {
    fn new(size: u64) -> Self;
    fn take(&self, bytes: u64) -> bool;
    fn release(&self, bytes: u64);
    fn taken(&self) -> u64;
}

impl Bytes for ByteBudget {
    fn new(size: u64) -> Self {
        Self::new(size)
    }

    fn take(&self, bytes: u64) -> bool {
        self.take(bytes).is_ok()
    }

    fn release(&self, bytes: u64) {
        self.release(bytes);
    }

    fn taken(&self) -> u64 {
        self.taken()
    }
}

/// A byte budget with a planted fault: it checks first whether bytes remain, and takes the bytes in a second step.
struct CheckThenCharge {
    size: u64,
    taken: AtomicU64,
}

impl Bytes for CheckThenCharge {
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

    fn release(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }
}

/// Models three threads that each take more bytes than the whole byte budget, at the same time.
fn concurrent_charges<B: Bytes>() -> Findings {
    explore("concurrent charges", 3, || {
        let bytes = Arc::new(B::new(5));
        let others = [(); 2].map(|()| spawn_with(&bytes, |bytes| bytes.take(10)));
        let ours = u64::from(bytes.take(10));
        let taken = ours + others.map(join).map(u64::from).iter().sum::<u64>();
        let mut faults = fault_if(taken != 1, format!("{taken} admitted"));
        faults.extend(fault_if(bytes.taken() != 10 * taken, "wrong charges"));
        (0..taken).for_each(|_| bytes.release(10));
        faults.extend(fault_if(
            bytes.taken() != 0,
            "not all charges were released",
        ));
        faults
    })
}

#[test]
fn concurrent_charges_exceed_the_byte_budget_by_at_most_one_body() {
    concurrent_charges::<ByteBudget>().assert_none();
}

#[test]
fn negative_control_bytes_checked_before_the_charge_are_detected() {
    let faults = concurrent_charges::<CheckThenCharge>().faults;
    assert!(faults.contains(&"2 admitted".to_owned()), "{faults:?}");
}

#[test]
fn bytes_in_use_stay_charged_when_a_byte_budget_is_resized() {
    let findings = explore("resized byte budget", 3, || {
        let bytes = Arc::new(ByteBudget::new(20));
        assert!(bytes.take(3).is_ok());
        let releases = spawn_with(&bytes, |bytes| bytes.release(3));
        let sizes = spawn_with(&bytes, |bytes| bytes.resize(7));
        bytes.resize(9);
        join(releases);
        join(sizes);
        let mut faults = fault_if(bytes.taken() != 0, "the charges changed");
        // The balance must match the last size, whichever thread set it.
        bytes.resize(7);
        assert!(bytes.take(7).is_ok());
        faults.extend(fault_if(bytes.has_any(), "the balance and the size differ"));
        faults
    });
    findings.assert_none();
}

/// A limit on submissions that increases gradually, to be tested: the real one, or one with a planted fault (negative control).
trait RampUnderTest: Send + Sync + 'static {
    fn new(slots: u32) -> Self;
    fn restart(&self, level: u32);
    fn accepted(&self);
    fn allows(&self) -> u32;
}

impl RampUnderTest for Ramp {
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

/// A gradually increasing limit with a planted fault: it reads, increments and stores the number of accepted requests in separate steps.
/// The upper half of the word contains the slots, the lower half the number of accepted requests.
struct LoadThenStore(AtomicU64);

impl RampUnderTest for LoadThenStore {
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
        if is_ended {
            u32::MAX
        } else {
            Ramp::MIN_UNANSWERED
        }
    }
}

/// Models late responses to requests from before a rate-limit pause. They arrive while the gradual increase of the limit restarts after the
/// pause, and must not end it.
fn restarting_ramp<S: RampUnderTest>() -> Findings {
    explore("restarting ramp", 3, || {
        let ramp = Arc::new(S::new(1));
        (0..3).for_each(|_| ramp.accepted());
        let responses = [(); 2].map(|()| spawn_with(&ramp, S::accepted));
        ramp.restart(50);
        responses.into_iter().for_each(join);
        let allows = ramp.allows();
        fault_if(allows != Ramp::MIN_UNANSWERED, format!("allows {allows}"))
    })
}

#[test]
fn late_responses_do_not_end_a_restarted_gradual_increase() {
    restarting_ramp::<Ramp>().assert_none();
}

#[test]
fn negative_control_acceptances_counted_in_two_steps_are_detected() {
    let faults = restarting_ramp::<LoadThenStore>().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn gradual_increase_counts_each_concurrently_accepted_request() {
    let findings = explore("accepted requests of a ramp", 3, || {
        let ramp = Arc::new(Ramp::slow_start(100));
        ramp.restart(10);
        (0..7).for_each(|_| ramp.accepted(1));
        let responses = [(); 2].map(|()| spawn_with(&ramp, |ramp| ramp.accepted(1)));
        let before = ramp.allows();
        responses.into_iter().for_each(join);
        let after = ramp.allows();
        fault_if(
            (after, before > after) != (9, false),
            format!("{before} {after}"),
        )
    });
    findings.assert_none();
}

#[test]
fn rate_limit_admits_the_burst_and_undo_returns_units() {
    let findings = explore("rate limit", 3, || {
        let limit = Arc::new(Gcra::new(Rate {
            interval: Duration::from_secs(1),
            burst: 2,
        }));
        let now = Duration::ZERO;
        let takes = spawn_with(&limit, move |limit| u32::from(limit.take(1, now).is_ok()));
        let undoes = spawn_with(&limit, move |limit| {
            if limit.take(1, now).is_ok() {
                limit.undo(1);
            }
        });
        let mut admitted = u32::from(limit.take(1, now).is_ok());
        admitted += join(takes);
        join(undoes);
        let remaining = (0..3).filter(|_| limit.take(1, now).is_ok()).count() as u32;
        fault_if(
            admitted + remaining != 2,
            format!("{admitted} admitted and {remaining} remaining"),
        )
    });
    findings.assert_none();
}

/// A retry budget to be tested: the real retry budget, or one with a planted fault (negative control).
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
        self.draw(RetryReason::Fault) == RetryDraw::Granted
    }

    fn credit(&self) {
        self.credit();
    }

    fn tokens(&self) -> u64 {
        self.tokens()
    }
}

/// A retry budget with a planted fault: it checks the number of tokens first and takes them in a second step.
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

/// Models two retries and a successful call that use one retry budget at the same time. The tokens suffice for one retry.
fn concurrent_draws<B: Budget>() -> Findings {
    explore("two draws and a credit", 3, || {
        let budget = Arc::new(B::new(9));
        assert!(budget.draw(), "four tokens remain");
        let draws = [(); 2].map(|()| spawn_with(&budget, B::draw));
        budget.credit();
        let granted: u64 = draws.map(join).map(u64::from).iter().sum();
        let tokens = budget.tokens();
        let is_wrong = tokens + 5 * granted != 5;
        fault_if(
            is_wrong,
            format!("{granted} granted and {tokens} remaining"),
        )
    })
}

#[test]
fn no_retry_token_is_lost_in_any_interleaving() {
    concurrent_draws::<RetryBudget>().assert_none();
}

#[test]
fn negative_control_tokens_checked_before_being_taken_are_detected() {
    let faults = concurrent_draws::<CheckThenTake>().faults;
    assert!(!faults.is_empty());
}
