//! Loom models of the submission queue's order: calls, the sender, failures and an aborted sender, in every interleaving.
//!
//! Run with `cargo xtask loom tinkers-training`. Each model has a control: a copy of the order with one fault, which it must find.

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
mod twin;

use std::sync::{Arc, Mutex, PoisonError};

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use tinkers_core::{Error, ErrorKind, Sent};
use twin::{TestedOrder, Twin, fault};

use crate::poison::{Poison, Recovery};
use crate::submission_queue::{Order, Queued};

/// Preemptions that loom may force.
const BOUND: usize = 3;

/// A queued call.
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

/// What happened to the calls. It is written between the steps of a model and takes no part in it.
#[derive(Default)]
struct Record {
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    calls: Vec<&'static str>,
    /// First number and how many, in the order in which they were sent.
    sent: Vec<(u64, u64)>,
    ended: Vec<&'static str>,
    /// What each failed with.
    errors: Vec<String>,
    under_way: usize,
    is_poisoned: bool,
    faults: Vec<String>,
}

impl Record {
    fn write(&self, change: impl FnOnce(&mut Events)) {
        change(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn failed(&self, name: &'static str, error: &Error) {
        self.write(|events| {
            events.ended.push(name);
            events.errors.push(error.to_string());
        });
    }

    /// Records that from here on nothing may be sent or queued.
    fn is_poisoned(&self) {
        self.write(|events| events.is_poisoned = true);
    }

    /// Returns what is wrong after all threads have ended.
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

    /// Returns the same, and errors that name another cause.
    fn faults_but_for(&self, cause: &str) -> Vec<String> {
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

/// One tested order and the record of its calls.
struct World<L> {
    order: Arc<L>,
    record: Arc<Record>,
    /// Touched while a request is in flight, so that loom switches threads there.
    in_flight: Arc<AtomicU64>,
}

impl<L> Clone for World<L> {
    fn clone(&self) -> Self {
        Self {
            order: Arc::clone(&self.order),
            record: Arc::clone(&self.record),
            in_flight: Arc::clone(&self.in_flight),
        }
    }
}

impl<L: TestedOrder> World<L> {
    fn new() -> Self {
        Self {
            order: Arc::new(L::new()),
            record: Arc::default(),
            in_flight: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Queues a call. A caller that receives the permit must send.
    fn push(&self, name: &'static str, count: u64) -> Option<L::Permit> {
        let mut is_late = false;
        self.record.write(|events| {
            events.calls.push(name);
            is_late = events.is_poisoned;
        });
        let record = Arc::clone(&self.record);
        let queued = self.order.push(count, |first_seq| Call {
            name,
            first_seq,
            count,
            record,
        });
        if is_late && queued.is_ok() {
            let fault = "queued after the poison".to_owned();
            self.record.write(|events| events.faults.push(fault));
        }
        queued.unwrap_or_else(|error| {
            self.record.failed(name, &error);
            None
        })
    }

    /// Queues a call, and sends until the queue is empty if it receives the permit.
    fn call(&self, name: &'static str, count: u64) {
        if let Some(mut permit) = self.push(name, count) {
            while let Some(call) = L::next(&mut permit) {
                self.send(&call);
            }
        }
    }

    fn send(&self, call: &Call) {
        self.record.write(|events| {
            events.under_way += 1;
            if events.under_way > 1 {
                events.faults.push("two send at once".to_owned());
            }
            if events.is_poisoned {
                events.faults.push("sent after the poison".to_owned());
            }
            events.sent.push((call.first_seq, call.count));
        });
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.record.write(|events| {
            events.under_way -= 1;
            events.ended.push(call.name);
        });
    }

    /// Fails the next call and poisons the order.
    fn fail_next(&self, permit: &mut L::Permit, recovery: Recovery) {
        let call = L::next(permit).expect("its own call at least");
        let cause = error("the first cause");
        self.order.poison(Poison {
            cause: cause.clone(),
            recovery,
        });
        call.fail(cause);
    }

    fn spawn(&self, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || work(&world))
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no thread panics");
    }
}

fn three_calls<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let others = [("b", 2), ("c", 1)]
            .map(|(name, count)| world.spawn(move |world| world.call(name, count)));
        world.call("a", 3);
        join(others);
        world.record.faults()
    })
}

#[test]
fn calls_are_sent_in_number_order_by_one_sender() {
    three_calls::<Order<Call>>("three calls").assert_none();
    three_calls::<Twin<{ fault::NONE }>>("three calls of the twin").assert_none();
}

#[test]
fn numbers_reserved_apart_from_queueing_are_detected() {
    let findings = three_calls::<Twin<{ fault::NUMBERS_APART }>>("control: numbers apart");
    assert!(findings.faults.contains(&"out of order".to_owned()));
}

/// A call arrives while the sender finds the queue empty.
#[test]
fn sender_end_apart_from_the_empty_check_is_detected() {
    let findings = three_calls::<Twin<{ fault::END_APART }>>("control: end apart");
    assert!(
        findings.faults.iter().any(|f| f.contains("ended as")),
        "{:?}",
        findings.faults
    );
}

/// One call fails while two others arrive.
fn failing_call<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut permit = world.push("a", 1).expect("the queue was idle");
        let others = ["b", "c"].map(|name| world.spawn(move |world| world.call(name, 1)));
        world.fail_next(&mut permit, Recovery::Undecided);
        world.record.is_poisoned();
        world.order.settle_recovery(Recovery::Never);
        while let Some(call) = L::next(&mut permit) {
            world.send(&call);
        }
        join(others);
        world.record.faults_but_for("the first cause")
    })
}

#[test]
fn failure_reaches_queued_and_later_calls() {
    failing_call::<Order<Call>>("a call that fails").assert_none();
    failing_call::<Twin<{ fault::NONE }>>("a call of the twin that fails").assert_none();
}

#[test]
fn poison_check_apart_from_queueing_is_detected() {
    let findings = failing_call::<Twin<{ fault::POISON_APART }>>("control: poison apart");
    let late = "sent after the poison".to_owned();
    assert!(findings.faults.contains(&late), "{:?}", findings.faults);
}

/// A sender is dropped after its first call, while two others arrive.
fn dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut permit = world.push("a", 1).expect("the queue was idle");
        let others = ["b", "c"].map(|name| world.spawn(move |world| world.call(name, 1)));
        let call = L::next(&mut permit).expect("its own call");
        world.send(&call);
        drop(permit);
        world.record.is_poisoned();
        join(others);
        world.record.faults()
    })
}

#[test]
fn dropped_sender_fails_queued_and_later_calls() {
    dropped_sender::<Order<Call>>("a sender that goes").assert_none();
    dropped_sender::<Twin<{ fault::NONE }>>("a sender of the twin that goes").assert_none();
}

#[test]
fn dropped_sender_without_poison_is_detected() {
    let findings =
        dropped_sender::<Twin<{ fault::DROPPED_WITHOUT_POISON }>>("control: gone in silence");
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
    assert!(faults.contains(&"queued after the poison".to_owned()));
}

/// The sender of a failed call is dropped before it reads the queue again, while another call arrives.
fn failure_and_dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut permit = world.push("a", 1).expect("the queue was idle");
        let other = world.spawn(|world| world.call("b", 1));
        world.fail_next(&mut permit, Recovery::Never);
        world.record.is_poisoned();
        drop(permit);
        world.call("c", 1);
        join([other]);
        world.record.faults_but_for("the first cause")
    })
}

#[test]
fn first_cause_is_reported() {
    failure_and_dropped_sender::<Order<Call>>("failed, then gone").assert_none();
}

#[test]
fn report_of_the_last_cause_is_detected() {
    let findings = failure_and_dropped_sender::<Twin<{ fault::LAST_CAUSE }>>(
        "control: the last cause is told",
    );
    assert_eq!(findings.faults, ["another cause"]);
}

/// The sender of a refused call is dropped, while another thread recovers and calls.
fn recovery_and_dropped_sender<L: TestedOrder>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut permit = world.push("a", 1).expect("the queue was idle");
        world.fail_next(&mut permit, Recovery::From(1));
        let other = world.spawn(|world| {
            if world.order.recover().is_ok() {
                world.call("b", 1);
            }
        });
        drop(permit);
        join([other]);
        world.record.faults()
    })
}

#[test]
fn call_after_recovery_is_sent_or_failed() {
    recovery_and_dropped_sender::<Order<Call>>("recovered and gone").assert_none();
}

#[test]
fn sender_dropped_in_two_steps_is_detected() {
    let findings = recovery_and_dropped_sender::<Twin<{ fault::DROPPED_IN_TWO_STEPS }>>(
        "control: gone in two steps",
    );
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
}
