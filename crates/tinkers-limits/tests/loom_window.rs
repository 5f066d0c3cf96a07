//! Models of the window. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread::{JoinHandle, spawn};
use tinkers_limits::{ConcurrencyWindow, Take};

const ANY: u32 = u32::MAX;

/// A window as the models use it: in flight and limit.
trait Window: Send + Sync + 'static {
    fn new(limit: u32) -> Self;
    fn take(&self) -> bool;
    fn give_back(&self);
    fn set_limit(&self, limit: u32);
    fn view(&self) -> (u32, u32);
}

impl Window for ConcurrencyWindow {
    fn new(limit: u32) -> Self {
        Self::new(limit)
    }

    fn take(&self) -> bool {
        self.take(Take::SlotAndFlight, ANY).is_ok()
    }

    fn give_back(&self) {
        self.end_attempt();
        self.land();
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

/// The fault of older clients: a count that is read, lowered to no less than zero, and stored; a limit that brings a new count
/// table with it.
struct ByCount(AtomicU64);

impl Window for ByCount {
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

    fn give_back(&self) {
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

/// Three that go in and out of a window of two. Two forced switches: with three there are ten times as many interleavings.
fn three_that_come_and_go<W: Window>() -> Findings {
    explore("three that come and go", 2, || {
        let window = Arc::new(W::new(2));
        // Not loom's: it decides nothing.
        let inside = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let visit = |window: &W, inside: &std::sync::atomic::AtomicU32| {
            if !window.take() {
                return false;
            }
            let others = inside.fetch_add(1, Ordering::Relaxed);
            loom::thread::yield_now();
            inside.fetch_sub(1, Ordering::Relaxed);
            window.give_back();
            others >= 2
        };
        let others = [(); 2].map(|()| {
            let (window, inside) = (Arc::clone(&window), inside.clone());
            spawn(move || visit(&window, &inside))
        });
        let mut is_over = visit(&window, &inside);
        for other in others {
            is_over |= join(other);
        }
        let mut faults = Vec::new();
        if is_over {
            faults.push("more inside than the limit".to_owned());
        }
        if window.view().0 != 0 {
            faults.push("not all came back".to_owned());
        }
        faults
    })
}

#[test]
fn what_was_taken_comes_back_and_never_more_than_the_limit_is_inside() {
    three_that_come_and_go::<ConcurrencyWindow>().assert_none();
}

#[test]
fn the_same_model_finds_the_fault_of_release_by_count() {
    let faults = three_that_come_and_go::<ByCount>().faults;
    assert!(
        faults.contains(&"not all came back".to_owned()),
        "{faults:?}"
    );
}

/// The limit changes while one lands and another one wants to go.
fn another_limit<W: Window>() -> Findings {
    explore("another limit", 3, || {
        let window = Arc::new(W::new(3));
        assert!(window.take() && window.take());
        let lands = {
            let window = Arc::clone(&window);
            spawn(move || window.give_back())
        };
        let goes = {
            let window = Arc::clone(&window);
            spawn(move || window.take())
        };
        window.set_limit(1);
        join(lands);
        let expected = 1 + u32::from(join(goes));
        let (in_flight, limit) = window.view();
        let mut faults = Vec::new();
        if in_flight != expected {
            faults.push("a unit was lost or won".to_owned());
        }
        if limit != 1 {
            faults.push("the limit was lost".to_owned());
        }
        faults
    })
}

#[test]
fn a_limit_that_changes_at_run_time_loses_no_unit() {
    another_limit::<ConcurrencyWindow>().assert_none();
}

#[test]
fn the_same_model_finds_a_limit_that_brings_its_own_count() {
    let faults = another_limit::<ByCount>().faults;
    assert!(
        faults.contains(&"a unit was lost or won".to_owned()),
        "{faults:?}"
    );
}

/// In which order one that finds the window full begins to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    SaysSoAndLooksAgain,
    LooksAndSaysSo,
}

/// One who waits, in a queue whose lock is taken by those alone who wait or hand over.
struct Scene {
    window: ConcurrencyWindow,
    is_waiting: Mutex<bool>,
    granted: std::sync::atomic::AtomicU32,
}

impl Scene {
    fn wait(&self, waits: Waits) {
        let mut is_waiting = self.is_waiting.lock().expect("no panic under it");
        *is_waiting = true;
        if waits == Waits::SaysSoAndLooksAgain {
            self.window.set_waiters(true);
        }
        self.grant(&mut is_waiting);
        if waits == Waits::LooksAndSaysSo {
            self.window.set_waiters(*is_waiting);
        }
    }

    /// Whoever gives something back sees whether somebody waits.
    fn give_back(&self) {
        self.window.end_attempt();
        if self.window.land().has_waiters {
            let mut is_waiting = self.is_waiting.lock().expect("no panic under it");
            self.grant(&mut is_waiting);
        }
    }

    fn grant(&self, is_waiting: &mut bool) {
        if *is_waiting && self.window.take_turn(Take::SlotAndFlight, ANY).is_ok() {
            *is_waiting = false;
            self.granted.fetch_add(1, Ordering::Relaxed);
            self.window.set_waiters(false);
        }
    }
}

/// Somebody waits while the place is given back, and a third one would like to have it.
fn one_that_waits(waits: Waits) -> Findings {
    explore("one that waits", 3, move || {
        let scene = Arc::new(Scene {
            window: ConcurrencyWindow::new(1),
            is_waiting: Mutex::new(false),
            granted: std::sync::atomic::AtomicU32::new(0),
        });
        assert!(Window::take(&scene.window));
        let waiter = {
            let scene = Arc::clone(&scene);
            spawn(move || scene.wait(waits))
        };
        let passer = {
            let scene = Arc::clone(&scene);
            spawn(move || {
                if Window::take(&scene.window) {
                    scene.give_back();
                }
            })
        };
        scene.give_back();
        join(waiter);
        join(passer);
        let granted = scene.granted.load(Ordering::Relaxed);
        let view = scene.window.view();
        let is_right = (granted, view.in_flight, view.has_waiters) == (1, 1, false);
        let fault = (!is_right).then(|| format!("granted {granted} times"));
        fault.into_iter().collect()
    })
}

#[test]
fn who_says_that_it_waits_and_looks_again_is_never_forgotten() {
    one_that_waits(Waits::SaysSoAndLooksAgain).assert_none();
}

#[test]
fn the_same_model_finds_the_wake_up_that_is_lost_by_looking_first() {
    let faults = one_that_waits(Waits::LooksAndSaysSo).faults;
    assert_eq!(faults, ["granted 0 times"]);
}
