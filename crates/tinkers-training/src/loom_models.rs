//! Loom models of the order of submissions, in all interleavings of concurrent calls, the sender, failures and a dropped sender.
//!
//! Run with `cargo xtask loom tinkers-training`. Each model has a negative control: it must find the fault in a faulty copy of the order.

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
mod order_copy;

use std::sync::{Arc, Mutex, PoisonError};

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use order_copy::{OrderCopy, TestedOrder, fault};
use tinkers_core::{Error, ErrorKind, Sent};

use crate::model_failure::{ModelFailure, Recovery};
use crate::submission_queue::{Order, Queued};

/// The maximum number of times that loom preempts a thread in one execution. This limits the number of thread interleavings that are explored.
const BOUND: usize = 3;

/// A training call in a loom model. It has no real requests. It records in a [`Record`] whether it was sent or has failed.
pub(crate) struct Call {
    name: &'static str,
    first_seq: u64,
    count: u64,
    record: Arc<Record>,
}

impl Queued for Call {
    fn fail(self, error: Error) {
        self.record.failed(self.name, &error);
    }

    fn renumber(&mut self, freed: u64) {
        self.first_seq -= freed;
    }
}

/// A record of the training calls of one loom execution, from which errors of the queue are detected. The record uses a mutex that loom does not
/// see, so recording adds no interleavings.
#[derive(Default)]
struct Record {
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    calls: Vec<&'static str>,
    /// The first sequence number and the number of requests of each sent call, in the order of sending.
    sent: Vec<(u64, u64)>,
    ended: Vec<&'static str>,
    /// The error messages of the failed calls.
    errors: Vec<String>,
    being_sent: usize,
    has_model_failed: bool,
    faults: Vec<String>,
}

impl Record {
    fn write(&self, change: impl FnOnce(&mut Events)) {
        change(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn failed(&self, name: &'static str, error: &Error) {
        self.write(|events| {
            events.ended.push(name);
            events.errors.push(format!("{error:#}"));
        });
    }

    /// Records that the model has failed, so that from now on no call may be sent or queued.
    fn mark_model_failed(&self) {
        self.write(|events| events.has_model_failed = true);
    }

    /// Returns the errors of the queue that this loom execution has shown: a call that was sent out of order, or a call that did not end exactly
    /// once. All threads of the execution must have ended before.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.write(|events| {
            faults.append(&mut events.faults);
            let mut next = 1;
            for (first, count) in &events.sent {
                if *first != next {
                    faults.push("out of order".to_owned());
                }
                next = first + count;
            }
            events.calls.sort_unstable();
            events.ended.sort_unstable();
            if events.calls != events.ended {
                faults.push(format!("{:?} ended as {:?}", events.calls, events.ended));
            }
        });
        faults
    }

    /// Returns the errors of the queue as [`Record::faults`] does. Also returns an error if a training call failed with a message that does not
    /// contain `cause`.
    fn faults_expecting_cause(&self, cause: &str) -> Vec<String> {
        let mut faults = self.faults();
        self.write(|events| {
            if events.errors.iter().any(|error| !error.contains(cause)) {
                faults.push("another cause".to_owned());
            }
        });
        faults
    }
}

pub(crate) fn error(words: &str) -> Error {
    Error::new(ErrorKind::Aborted, Sent::MaybeSent, words)
}

/// A submission queue that is tested with loom, and the record of the calls that were made.
struct Scenario<L> {
    order: Arc<L>,
    record: Arc<Record>,
    /// A counter that is changed while a request is in flight. Changing the counter lets loom switch threads at that point.
    in_flight: Arc<AtomicU64>,
}

impl<L> Clone for Scenario<L> {
    fn clone(&self) -> Self {
        Self {
            order: Arc::clone(&self.order),
            record: Arc::clone(&self.record),
            in_flight: Arc::clone(&self.in_flight),
        }
    }
}

impl<L: TestedOrder> Scenario<L> {
    fn new() -> Self {
        Self {
            order: Arc::new(L::new()),
            record: Arc::default(),
            in_flight: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Queues a call of `count` requests. If this returns a permit, the caller must send all queued calls, since no other thread sends them.
    fn push(&self, name: &'static str, count: u64) -> Option<L::Permit> {
        let mut is_late = false;
        self.record.write(|events| {
            events.calls.push(name);
            is_late = events.has_model_failed;
        });
        let record = Arc::clone(&self.record);
        let queued = self.order.push(count, |first_seq| Call {
            name,
            first_seq,
            count,
            record,
        });
        if is_late && queued.is_ok() {
            let fault = "queued after the failure".to_owned();
            self.record.write(|events| events.faults.push(fault));
        }
        queued.unwrap_or_else(|error| {
            self.record.failed(name, &error);
            None
        })
    }

    /// Queues a call of `count` requests. If no other thread sends the queued calls, sends them until the queue is empty.
    fn call(&self, name: &'static str, count: u64) {
        if let Some(mut permit) = self.push(name, count) {
            while let Some(call) = L::next(&mut permit) {
                self.send(&call);
            }
        }
    }

    fn send(&self, call: &Call) {
        self.record.write(|events| {
            events.being_sent += 1;
            if events.being_sent > 1 {
                events.faults.push("two calls are sent at once".to_owned());
            }
            if events.has_model_failed {
                events.faults.push("sent after the failure".to_owned());
            }
            events.sent.push((call.first_seq, call.count));
        });
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.record.write(|events| {
            events.being_sent -= 1;
            events.ended.push(call.name);
        });
    }

    /// Takes the next call from the queue, and lets it fail. The failure also fails all queued and later calls of the model. `recovery` says
    /// whether the model may accept calls again.
    fn fail_next(&self, permit: &mut L::Permit, recovery: Recovery) {
        let call = L::next(permit).expect("its own call at least");
        let cause = error("the first cause");
        self.order.fail_model(ModelFailure {
            cause: cause.clone(),
            recovery,
        });
        call.fail(cause);
    }

    fn spawn(&self, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let scenario = self.clone();
        thread::spawn(move || work(&scenario))
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no thread panics");
    }
}

fn three_calls<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let scenario = Scenario::<L>::new();
        let others = [("b", 2), ("c", 1)]
            .map(|(name, count)| scenario.spawn(move |scenario| scenario.call(name, count)));
        scenario.call("a", 3);
        join(others);
        scenario.record.faults()
    })
}

#[test]
fn training_calls_are_sent_in_sequence_order_by_one_sender() {
    three_calls::<Order<Call>>("three calls").assert_none();
    three_calls::<OrderCopy<{ fault::NONE }>>("three calls, copy of the order").assert_none();
}

#[test]
fn negative_control_separate_locks_for_numbering_and_queue_are_detected() {
    let findings = three_calls::<OrderCopy<{ fault::SEPARATE_NUMBERING }>>(
        "negative control: separate numbering",
    );
    assert!(findings.faults.contains(&"out of order".to_owned()));
}

/// Checks that loom detects a planted fault: the sender finds the queue empty under one lock, and gives its permit back under another. A call
/// that is queued in between is never sent.
#[test]
fn negative_control_call_lost_when_the_sender_ends_is_detected() {
    let findings = three_calls::<OrderCopy<{ fault::SEPARATE_SENDER_END }>>(
        "negative control: separate sender end",
    );
    assert!(
        findings.faults.iter().any(|f| f.contains("ended as")),
        "{:?}",
        findings.faults
    );
}

/// Explores with loom the thread interleavings of a training call that fails, and of two calls that other threads make meanwhile. Returns the
/// errors of the queue that were found.
fn failing_call<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let scenario = Scenario::<L>::new();
        let mut permit = scenario.push("a", 1).expect("the queue was idle");
        let others = ["b", "c"].map(|name| scenario.spawn(move |scenario| scenario.call(name, 1)));
        scenario.fail_next(&mut permit, Recovery::Undecided);
        scenario.record.mark_model_failed();
        scenario.order.decide_recovery(Recovery::Never);
        while let Some(call) = L::next(&mut permit) {
            scenario.send(&call);
        }
        join(others);
        scenario.record.faults_expecting_cause("the first cause")
    })
}

#[test]
fn failed_training_call_fails_queued_and_later_calls() {
    failing_call::<Order<Call>>("a call fails").assert_none();
    failing_call::<OrderCopy<{ fault::NONE }>>("a call fails, copy of the order").assert_none();
}

#[test]
fn negative_control_separate_locks_for_failure_and_queue_are_detected() {
    let findings = failing_call::<OrderCopy<{ fault::SEPARATE_FAILURE_CHECK }>>(
        "negative control: separate failure check",
    );
    let late = "sent after the failure".to_owned();
    assert!(findings.faults.contains(&late), "{:?}", findings.faults);
}

/// Explores with loom the thread interleavings of a sender (the task that sends queued calls) that is dropped after it has sent one call, and of
/// two calls that other threads make meanwhile. Returns the errors of the queue that were found.
fn dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let scenario = Scenario::<L>::new();
        let mut permit = scenario.push("a", 1).expect("the queue was idle");
        let others = ["b", "c"].map(|name| scenario.spawn(move |scenario| scenario.call(name, 1)));
        let call = L::next(&mut permit).expect("its own call");
        scenario.send(&call);
        drop(permit);
        scenario.record.mark_model_failed();
        join(others);
        scenario.record.faults()
    })
}

#[test]
fn dropped_send_task_fails_queued_and_later_training_calls() {
    dropped_sender::<Order<Call>>("a dropped sender").assert_none();
    dropped_sender::<OrderCopy<{ fault::NONE }>>("a dropped sender, copy of the order")
        .assert_none();
}

#[test]
fn negative_control_dropped_sender_that_fails_no_call_is_detected() {
    let findings = dropped_sender::<OrderCopy<{ fault::DROP_WITHOUT_FAILURE }>>(
        "negative control: drop without failure",
    );
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
    assert!(faults.contains(&"queued after the failure".to_owned()));
}

/// Explores with loom the thread interleavings of a sender (the task that sends queued calls) that fails a call and is dropped before it reads
/// the queue again, and of a call that another thread makes meanwhile. Returns the errors of the queue that were found.
fn failure_and_dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let scenario = Scenario::<L>::new();
        let mut permit = scenario.push("a", 1).expect("the queue was idle");
        let other = scenario.spawn(|scenario| scenario.call("b", 1));
        scenario.fail_next(&mut permit, Recovery::Never);
        scenario.record.mark_model_failed();
        drop(permit);
        scenario.call("c", 1);
        join([other]);
        scenario.record.faults_expecting_cause("the first cause")
    })
}

#[test]
fn later_training_calls_report_the_first_failure() {
    failure_and_dropped_sender::<Order<Call>>("a failed call and a dropped sender").assert_none();
}

#[test]
fn negative_control_report_of_the_last_failure_is_detected() {
    let findings = failure_and_dropped_sender::<OrderCopy<{ fault::LAST_FAILURE_REPORTED }>>(
        "negative control: last failure reported",
    );
    assert_eq!(findings.faults, ["another cause"]);
}

/// Explores with loom the thread interleavings of a sender (the task that sends queued calls) that fails a rejected call and is dropped, and of
/// another thread that calls `recover` and then makes a call. Returns the errors of the queue that were found.
fn recovery_and_dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let scenario = Scenario::<L>::new();
        let mut permit = scenario.push("a", 1).expect("the queue was idle");
        scenario.fail_next(&mut permit, Recovery::From(1));
        let other = scenario.spawn(|scenario| {
            if scenario.order.recover().is_ok() {
                scenario.call("b", 1);
            }
        });
        drop(permit);
        join([other]);
        scenario.record.faults()
    })
}

#[test]
fn training_call_after_recover_never_hangs_if_the_sender_is_dropped() {
    recovery_and_dropped_sender::<Order<Call>>("a recovery and a dropped sender").assert_none();
}

#[test]
fn negative_control_two_locks_for_a_sender_drop_are_detected() {
    let findings = recovery_and_dropped_sender::<OrderCopy<{ fault::DROP_IN_TWO_STEPS }>>(
        "negative control: drop in two steps",
    );
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
}
