//! Loom models of the in-flight window. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{ConcurrencyWindow, SlotRequest};

const ANY: u32 = u32::MAX;

/// A limiter of requests in flight to be tested: the real window, or one with a planted fault (negative control). The method `view` returns
/// the number of requests in flight and the in-flight limit.
trait Window: Send + Sync + 'static {
    fn new(limit: u32) -> Self;
    fn take(&self) -> bool;
    fn release(&self);
    fn set_limit(&self, limit: u32);
    fn view(&self) -> (u32, u32);
}

impl Window for ConcurrencyWindow {
    fn new(limit: u32) -> Self {
        Self::new(limit)
    }

    fn take(&self) -> bool {
        self.take(SlotRequest::SlotAndInFlight, ANY).is_ok()
    }

    fn release(&self) {
        self.release_slot();
        self.release();
    }

    fn set_limit(&self, limit: u32) {
        self.set_limit(limit);
    }

    fn view(&self) -> (u32, u32) {
        let view = self.view();
        assert!(view.unanswered <= view.in_flight, "{view:?}");
        (view.in_flight, view.limit)
    }
}

/// A window with a planted fault: when a request ends, it reads, decreases and stores the number of requests in flight in separate steps.
/// When the limit changes, it stores a number of requests in flight that may be outdated.
struct LoadThenStore(AtomicU64);

impl Window for LoadThenStore {
    fn new(limit: u32) -> Self {
        Self(AtomicU64::new(u64::from(limit) << 32))
    }

    fn take(&self) -> bool {
        let next = |word: u64| ((word as u32) < (word >> 32) as u32).then_some(word + 1);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok()
    }

    fn release(&self) {
        let word = self.0.load(Ordering::Acquire);
        let count = (word as u32).saturating_sub(1);
        let limit = word >> 32 << 32;
        self.0.store(limit | u64::from(count), Ordering::Release);
    }

    fn set_limit(&self, limit: u32) {
        let count = self.0.load(Ordering::Acquire) as u32;
        let word = u64::from(limit) << 32 | u64::from(count);
        self.0.store(word, Ordering::Release);
    }

    fn view(&self) -> (u32, u32) {
        let word = self.0.load(Ordering::Acquire);
        (word as u32, (word >> 32) as u32)
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// Models three threads that take and release units of a window with two units. The model is limited to two preemptions, since a third
/// preemption multiplies the number of interleavings by ten.
fn concurrent_requests<W: Window>() -> Findings {
    explore("concurrent requests", 2, || {
        let window = Arc::new(W::new(2));
        // A counter of the standard library instead of loom's, since no decision depends on it.
        let admitted = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let run_request = |window: &W, admitted: &std::sync::atomic::AtomicU32| {
            if !window.take() {
                return false;
            }
            let others = admitted.fetch_add(1, Ordering::Relaxed);
            loom::thread::yield_now();
            admitted.fetch_sub(1, Ordering::Relaxed);
            window.release();
            others >= 2
        };
        let others = [(); 2].map(|()| {
            let (window, admitted) = (Arc::clone(&window), admitted.clone());
            spawn(move || run_request(&window, &admitted))
        });
        let mut exceeds_limit = run_request(&window, &admitted);
        for other in others {
            exceeds_limit |= join(other);
        }
        let mut faults = Vec::new();
        if exceeds_limit {
            faults.push("more admitted than the limit".to_owned());
        }
        if window.view().0 != 0 {
            faults.push("not all units were released".to_owned());
        }
        faults
    })
}

#[test]
fn window_never_exceeds_its_limit_and_releases_all_units() {
    concurrent_requests::<ConcurrencyWindow>().assert_none();
}

#[test]
fn negative_control_release_with_separate_load_and_store_is_detected() {
    let faults = concurrent_requests::<LoadThenStore>().faults;
    assert!(
        faults.contains(&"not all units were released".to_owned()),
        "{faults:?}"
    );
}

/// Models a change of the in-flight limit while one request ends and another request is admitted.
fn limit_change<W: Window>() -> Findings {
    explore("limit change", 3, || {
        let window = Arc::new(W::new(3));
        assert!(window.take() && window.take());
        let release = {
            let window = Arc::clone(&window);
            spawn(move || window.release())
        };
        let admission = {
            let window = Arc::clone(&window);
            spawn(move || window.take())
        };
        window.set_limit(1);
        join(release);
        let expected = 1 + u32::from(join(admission));
        let (in_flight, limit) = window.view();
        let mut faults = Vec::new();
        if in_flight != expected {
            faults.push("a unit was lost or added".to_owned());
        }
        if limit != 1 {
            faults.push("the limit was lost".to_owned());
        }
        faults
    })
}

#[test]
fn concurrent_change_of_the_in_flight_limit_loses_no_unit() {
    limit_change::<ConcurrencyWindow>().assert_none();
}

#[test]
fn negative_control_limit_change_that_loses_a_unit_is_detected() {
    let faults = limit_change::<LoadThenStore>().faults;
    assert!(
        faults.contains(&"a unit was lost or added".to_owned()),
        "{faults:?}"
    );
}

/// The order in which a request that starts to wait sets the waiters flag and tries to take units: the flag first, as it must, or last (a
/// planted fault).
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitOrder {
    FlagThenTake,
    TakeThenFlag,
}

/// A limiter of requests in flight, and a queue with at most one waiting request. Only that request, and releases that see the waiters
/// flag, take the lock of the queue.
struct Model {
    window: ConcurrencyWindow,
    is_waiting: Mutex<bool>,
    granted: std::sync::atomic::AtomicU32,
}

impl Model {
    fn wait(&self, order: WaitOrder) {
        let mut is_waiting = self.is_waiting.lock().expect("not poisoned");
        *is_waiting = true;
        if order == WaitOrder::FlagThenTake {
            self.window.set_waiters(true);
        }
        self.grant(&mut is_waiting);
        if order == WaitOrder::TakeThenFlag {
            self.window.set_waiters(*is_waiting);
        }
    }

    /// Releases a slot and an in-flight unit. If the waiters flag is set at the time of the release, admits the waiting request.
    fn release(&self) {
        self.window.release_slot();
        if self.window.release().has_waiters {
            let mut is_waiting = self.is_waiting.lock().expect("not poisoned");
            self.grant(&mut is_waiting);
        }
    }

    fn grant(&self, is_waiting: &mut bool) {
        if *is_waiting
            && self
                .window
                .take_queued(SlotRequest::SlotAndInFlight, ANY)
                .is_ok()
        {
            *is_waiting = false;
            self.granted.fetch_add(1, Ordering::Relaxed);
            self.window.set_waiters(false);
        }
    }
}

/// Models a request that starts to wait while another thread releases the only unit and a third request tries to take that unit.
fn wait_during_a_release(order: WaitOrder) -> Findings {
    explore("wait during a release", 3, move || {
        let model = Arc::new(Model {
            window: ConcurrencyWindow::new(1),
            is_waiting: Mutex::new(false),
            granted: std::sync::atomic::AtomicU32::new(0),
        });
        assert!(Window::take(&model.window));
        let waiter = {
            let model = Arc::clone(&model);
            spawn(move || model.wait(order))
        };
        let other = {
            let model = Arc::clone(&model);
            spawn(move || {
                if Window::take(&model.window) {
                    model.release();
                }
            })
        };
        model.release();
        join(waiter);
        join(other);
        let granted = model.granted.load(Ordering::Relaxed);
        let view = model.window.view();
        let is_right = (granted, view.in_flight, view.has_waiters) == (1, 1, false);
        let fault = (!is_right).then(|| format!("granted {granted} times"));
        fault.into_iter().collect()
    })
}

#[test]
fn waiter_that_sets_the_waiters_flag_first_is_always_admitted() {
    wait_during_a_release(WaitOrder::FlagThenTake).assert_none();
}

#[test]
fn negative_control_waiters_flag_set_after_the_attempt_is_detected() {
    let faults = wait_during_a_release(WaitOrder::TakeThenFlag).faults;
    assert_eq!(faults, ["granted 0 times"]);
}
