//! The stamp of the queue's warning and the board of the shared poll under every interleaving: of many that see the same pause one warns;
//! no waiter is left alone or told of a state that is not there yet.
//!
//! Run with `cargo xtask loom tinkers-futures`.
#![cfg(tinkers_loom)]

#[expect(dead_code, reason = "the task of the poll uses the rest")]
#[path = "../src/poller/board.rs"]
mod board;
#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
#[path = "../src/sync.rs"]
mod sync;

use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use board::{Board, Work};
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

/// Three at once, of which each says whether it warned, by `warns`.
fn warnings<S: Send + Sync + 'static>(
    shared: S,
    warns: fn(&S, Timestamp) -> bool,
    moments: [u64; 3],
) -> usize {
    let shared = Arc::new(shared);
    let [one, two, three] = moments;
    let others: Vec<_> = [one, two]
        .into_iter()
        .map(|moment| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || warns(&shared, at(moment)))
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
fn of_those_that_see_a_pause_together_one_warns() {
    explore("one warning", BOUND, || {
        match warnings(QueueLog::sampling("s"), observe, [10, 10, 10]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        }
    })
    .assert_none();
}

#[test]
fn a_late_look_at_the_clock_warns_no_second_time() {
    explore("clocks out of order", BOUND, || {
        match warnings(QueueLog::sampling("s"), observe, [10, 11, 69]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        }
    })
    .assert_none();
}

/// The fault of an older client: read, warn, write.
#[test]
fn a_stamp_that_is_read_and_written_apart_is_found_out() {
    fn read_then_write(stamp: &AtomicU64, now: Timestamp) -> bool {
        let now = now.since_origin().as_secs();
        let warned = stamp.load(Ordering::SeqCst);
        let due = warned == 0 || now - warned >= 60;
        if due {
            stamp.store(now, Ordering::SeqCst);
        }
        due
    }
    let findings = explore("control: read, then write", BOUND, || {
        match warnings(AtomicU64::new(0), read_then_write, [10, 10, 10]) {
            1 => Vec::new(),
            n => vec![format!("{n} warnings")],
        }
    });
    assert!(!findings.faults.is_empty());
}

/// What a board tells a waiter.
fn told(board: &Board) -> &'static str {
    match board.poll("1", Waker::noop()) {
        Poll::Ready(Ok(announcement)) if announcement.size.is_some() => "its completion",
        Poll::Ready(Ok(_)) => "to poll for itself",
        Poll::Ready(Err(_)) => "the end",
        Poll::Pending => "nothing",
    }
}

/// A waiter that looks at the board as soon as it is woken, whatever the waking thread still has to do.
struct Looks {
    board: std::sync::Arc<Board>,
    seen: std::sync::Mutex<Vec<&'static str>>,
}

impl Wake for Looks {
    fn wake(self: std::sync::Arc<Self>) {
        let seen = told(&self.board);
        self.seen.lock().unwrap().push(seen);
    }
}

/// What is wrong when a waiter comes while `acts` are done, each by a thread of its own: it must end with one of `ends`, and must have been
/// woken for that when it was not there at once.
fn faults_of_a_waiter(acts: &'static [fn(&Board)], ends: &[&'static str]) -> Vec<String> {
    let board = std::sync::Arc::<Board>::default();
    let others: Vec<_> = acts
        .iter()
        .map(|act| {
            let board = std::sync::Arc::clone(&board);
            thread::spawn(move || act(&board))
        })
        .collect();
    let progress = std::sync::Arc::new(ProgressCell::new(at(0)));
    let mut faults = Vec::new();
    let waited = board
        .begin()
        .and_then(|evictions| board.watch(evictions, "1".into(), &progress, at(0)));
    if waited.is_err() {
        // It came after the end.
        others.into_iter().for_each(|other| other.join().unwrap());
        return match board.begin() {
            Ok(_) => vec!["refused without an end".to_owned()],
            Err(_) => Vec::new(),
        };
    }
    let looks = std::sync::Arc::new(Looks {
        board: std::sync::Arc::clone(&board),
        seen: std::sync::Mutex::default(),
    });
    let waker = Waker::from(std::sync::Arc::clone(&looks));
    let first = board.poll("1", &waker);
    others.into_iter().for_each(|other| other.join().unwrap());
    let last = told(&board);
    if !ends.contains(&last) {
        faults.push(format!("it ended with {last}"));
    }
    let seen = std::mem::take(&mut *looks.seen.lock().unwrap());
    if first.is_pending() && seen.is_empty() {
        faults.push("it is never woken".to_owned());
    }
    if seen.contains(&"nothing") {
        faults.push("it was woken before there was anything to see".to_owned());
    }
    if seen.len() > 1 {
        faults.push(format!("it was woken {} times", seen.len()));
    }
    board.leave(&"1".into());
    if board.work() == Work::Wait {
        faults.push("a waiter that has left is still counted".to_owned());
    }
    faults
}

fn complete(board: &Board) {
    let completion = Completion {
        state: CompletionState::Finished,
        request_id: "1".to_owned(),
        response_payload_uncompressed_size: Some(7),
    };
    let answer = Completions {
        completions: vec![completion],
        cursor: 1,
    };
    let report = board.report();
    board.answered(at(1), &report, answer);
}

fn end(board: &Board) {
    board.end(Error::closed());
}

#[test]
fn a_completion_reaches_a_waiter_that_registers_meanwhile() {
    explore("a completion", BOUND, || {
        faults_of_a_waiter(&[complete], &["its completion"])
    })
    .assert_none();
}

#[test]
fn the_end_reaches_a_waiter_that_registers_meanwhile() {
    explore("the end", BOUND, || {
        faults_of_a_waiter(&[end], &["the end"])
    })
    .assert_none();
}

#[test]
fn a_poll_that_rests_leaves_no_waiter_behind() {
    explore("a rest", BOUND, || {
        faults_of_a_waiter(&[Board::suspend], &["to poll for itself"])
    })
    .assert_none();
}

#[test]
fn a_waiter_is_told_once_whatever_comes_first() {
    explore("a completion and a rest", BOUND, || {
        let ends = ["its completion", "to poll for itself"];
        faults_of_a_waiter(&[complete, Board::suspend], &ends)
    })
    .assert_none();
    explore("a completion and the end", BOUND, || {
        faults_of_a_waiter(&[complete, end], &["its completion", "the end"])
    })
    .assert_none();
}

/// A board that looks for what came early apart from registering.
#[test]
fn a_board_that_looks_apart_from_registering_is_found_out() {
    #[derive(Default)]
    struct Apart {
        early: sync::Mutex<bool>,
        waiter: sync::Mutex<Option<Waker>>,
    }

    let findings = explore("control: looked at apart", BOUND, || {
        let board = Arc::new(Apart::default());
        let other = Arc::clone(&board);
        let completes = thread::spawn(move || {
            let waker = other.waiter.lock().unwrap().take();
            match waker {
                Some(waker) => waker.wake(),
                None => *other.early.lock().unwrap() = true,
            }
        });
        let was_early = *board.early.lock().unwrap();
        if !was_early {
            *board.waiter.lock().unwrap() = Some(Waker::noop().clone());
        }
        completes.join().unwrap();
        let is_left = !was_early && board.waiter.lock().unwrap().is_some();
        is_left
            .then(|| "it is never woken".to_owned())
            .into_iter()
            .collect()
    });
    assert!(!findings.faults.is_empty());
}
