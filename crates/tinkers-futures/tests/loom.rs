//! The stamp of the queue's warning under every interleaving: of many that see the same pause one warns.
//!
//! Run with `cargo xtask loom tinkers-futures`.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;

use std::time::Duration;

use explore::explore;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use tinkers_core::Moment;
use tinkers_futures::QueueLog;
use tinkers_wire::QueueState;

const BOUND: usize = 3;

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

/// Three at once, of which each says whether it warned, by `warns`.
fn warnings<S: Send + Sync + 'static>(
    shared: S,
    warns: fn(&S, Moment) -> bool,
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

fn observe(log: &QueueLog, now: Moment) -> bool {
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
    fn read_then_write(stamp: &AtomicU64, now: Moment) -> bool {
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
