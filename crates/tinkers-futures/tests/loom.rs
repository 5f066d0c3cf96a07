//! Loom models of the queue log and of the completion table: a pause is logged once, and no waiter is lost or woken early.
//!
//! Run with `cargo xtask loom tinkers-futures`.
#![cfg(tinkers_loom)]

#[expect(dead_code, reason = "the polling task uses the rest")]
#[path = "../src/poller/completion_table.rs"]
mod completion_table;
#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
#[path = "../src/sync.rs"]
mod sync;

use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use completion_table::{CompletionTable, Work};
use explore::explore;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use tinkers_core::{Error, ProgressCell, Timestamp};
use tinkers_futures::QueueLog;
use tinkers_wire::{Completion, CompletionState, Completions, QueueState};

const BOUND: usize = 3;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_origin(Duration::from_secs(seconds))
}

/// Calls `warns` concurrently in three threads. Returns how many of the calls returned true, which means that they logged a warning.
fn warnings<S: Send + Sync + 'static>(
    shared: S,
    warns: fn(&S, Timestamp) -> bool,
    seconds: [u64; 3],
) -> usize {
    let shared = Arc::new(shared);
    let [one, two, three] = seconds;
    let others: Vec<_> = [one, two]
        .into_iter()
        .map(|second| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || warns(&shared, at(second)))
        })
        .collect();
    let mine = warns(&shared, at(three));
    let theirs = others.into_iter().map(|other| other.join().unwrap());
    theirs.chain([mine]).filter(|warned| *warned).count()
}

fn observe(log: &QueueLog, now: Timestamp) -> bool {
    log.observe(now, &QueueState::PausedCapacity, None)
}

#[test]
fn concurrent_reports_of_a_paused_queue_log_one_warning() {
    explore("one warning", BOUND, || {
        match warnings(QueueLog::sampling("s"), observe, [10, 10, 10]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        }
    })
    .assert_none();
}

#[test]
fn paused_queue_reports_with_unordered_timestamps_log_one_warning() {
    explore("clocks out of order", BOUND, || {
        match warnings(QueueLog::sampling("s"), observe, [10, 11, 69]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        }
    })
    .assert_none();
}

/// Checks that loom can detect a race: a faulty log, which reads and writes the time of its last warning in separate steps, must log two
/// warnings.
#[test]
fn negative_control_loom_detects_a_faulty_log_that_warns_twice() {
    fn read_then_write(stamp: &AtomicU64, now: Timestamp) -> bool {
        let now = now.since_origin().as_secs();
        let warned = stamp.load(Ordering::SeqCst);
        let due = warned == 0 || now - warned >= 60;
        if due {
            stamp.store(now, Ordering::SeqCst);
        }
        due
    }
    let findings = explore(
        "negative control: read, then write",
        BOUND,
        || match warnings(AtomicU64::new(0), read_then_write, [10, 10, 10]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        },
    );
    assert!(!findings.faults.is_empty());
}

/// Returns what the table reports to the request under test, which waits for its completion: `completed`, `released` (it must poll
/// individually), `ended` or `pending`.
fn outcome(table: &CompletionTable) -> &'static str {
    match table.poll("1", Waker::noop()) {
        Poll::Ready(Ok(notice)) if notice.size.is_some() => "completed",
        Poll::Ready(Ok(_)) => "released",
        Poll::Ready(Err(_)) => "ended",
        Poll::Pending => "pending",
    }
}

/// A waker that reads the state of the table as soon as it is called, while the thread that calls the waker may still change the table.
struct StateRecorder {
    table: std::sync::Arc<CompletionTable>,
    seen: std::sync::Mutex<Vec<&'static str>>,
}

impl Wake for StateRecorder {
    fn wake(self: std::sync::Arc<Self>) {
        let seen = outcome(&self.table);
        self.seen.lock().unwrap().push(seen);
    }
}

/// Registers a request while each of `actions` changes the table in its own thread. Returns an error text if the outcome of the request is
/// not one of `expected`, or if its waker is not called exactly once after it was pending.
fn waiter_faults(
    actions: &'static [fn(&CompletionTable)],
    expected: &[&'static str],
) -> Vec<String> {
    let table = std::sync::Arc::<CompletionTable>::default();
    let others: Vec<_> = actions
        .iter()
        .map(|action| {
            let table = std::sync::Arc::clone(&table);
            thread::spawn(move || action(&table))
        })
        .collect();
    let progress = std::sync::Arc::new(ProgressCell::new(at(0)));
    let mut faults = Vec::new();
    let registered = table
        .begin()
        .and_then(|evictions| table.register(evictions, "1".into(), &progress, at(0)));
    if registered.is_err() {
        // The poller ended before the registration.
        others.into_iter().for_each(|other| other.join().unwrap());
        return match table.begin() {
            Ok(_) => vec!["registration failed before the end".to_owned()],
            Err(_) => Vec::new(),
        };
    }
    let recorder = std::sync::Arc::new(StateRecorder {
        table: std::sync::Arc::clone(&table),
        seen: std::sync::Mutex::default(),
    });
    let waker = Waker::from(std::sync::Arc::clone(&recorder));
    let first = table.poll("1", &waker);
    others.into_iter().for_each(|other| other.join().unwrap());
    let last = outcome(&table);
    if !expected.contains(&last) {
        faults.push(format!("unexpected outcome: {last}"));
    }
    let seen = std::mem::take(&mut *recorder.seen.lock().unwrap());
    if first.is_pending() && seen.is_empty() {
        faults.push("the waiter is never woken".to_owned());
    }
    if seen.contains(&"pending") {
        faults.push("the waiter was woken while still pending".to_owned());
    }
    if seen.len() > 1 {
        faults.push(format!("the waiter was woken {} times", seen.len()));
    }
    table.deregister(&"1".into());
    if table.work() == Work::Wait {
        faults.push("a deregistered waiter is still counted".to_owned());
    }
    faults
}

fn complete(table: &CompletionTable) {
    let completion = Completion {
        state: CompletionState::Finished,
        request_id: "1".to_owned(),
        response_payload_uncompressed_size: Some(7),
    };
    let response = Completions {
        completions: vec![completion],
        cursor: 1,
    };
    let acknowledgement = table.acknowledgement();
    table.apply(at(1), &acknowledgement, response);
}

fn end(table: &CompletionTable) {
    table.end(Error::closed());
}

#[test]
fn completion_reaches_a_concurrently_registered_waiter() {
    explore("completion", BOUND, || {
        waiter_faults(&[complete], &["completed"])
    })
    .assert_none();
}

#[test]
fn poller_end_fails_a_concurrently_registered_waiter() {
    explore("end", BOUND, || waiter_faults(&[end], &["ended"])).assert_none();
}

#[test]
fn suspended_poll_wakes_a_concurrently_registered_waiter() {
    explore("suspension", BOUND, || {
        waiter_faults(&[CompletionTable::suspend], &["released"])
    })
    .assert_none();
}

#[test]
fn completion_and_concurrent_suspension_or_end_wake_a_waiter_once() {
    explore("completion and suspension", BOUND, || {
        let expected = ["completed", "released"];
        waiter_faults(&[complete, CompletionTable::suspend], &expected)
    })
    .assert_none();
    explore("completion and end", BOUND, || {
        waiter_faults(&[complete, end], &["completed", "ended"])
    })
    .assert_none();
}

/// Checks that loom can detect a lost wake-up: in a faulty table, which looks up early completions and registers the request in separate
/// steps, a completion in between must get lost.
#[test]
fn negative_control_loom_detects_a_lost_completion() {
    #[derive(Default)]
    struct SeparateSteps {
        early: sync::Mutex<bool>,
        waiter: sync::Mutex<Option<Waker>>,
    }

    let findings = explore("negative control: lookup, then registration", BOUND, || {
        let table = Arc::new(SeparateSteps::default());
        let other = Arc::clone(&table);
        let completes = thread::spawn(move || {
            let waker = other.waiter.lock().unwrap().take();
            match waker {
                Some(waker) => waker.wake(),
                None => *other.early.lock().unwrap() = true,
            }
        });
        let was_early = *table.early.lock().unwrap();
        if !was_early {
            *table.waiter.lock().unwrap() = Some(Waker::noop().clone());
        }
        completes.join().unwrap();
        let is_lost = !was_early && table.waiter.lock().unwrap().is_some();
        is_lost
            .then(|| "the waiter is never woken".to_owned())
            .into_iter()
            .collect()
    });
    assert!(!findings.faults.is_empty());
}
