//! The order of a model's turns under every interleaving: calls, the one that sends, failures, and a sender that goes.
//!
//! Run with `cargo xtask loom tinkers-training`. Each model is shown to find the faults of a twin.
#![cfg(tinkers_loom)]

#[path = "../../tinkers-registry/tests/support/explore.rs"]
mod explore;
#[path = "../src/order.rs"]
mod order;
#[path = "../src/poison.rs"]
mod poison;
#[path = "../src/sync.rs"]
mod sync;
#[path = "support/twin.rs"]
mod twin;

use std::sync::{Arc, Mutex, PoisonError};

use explore::{Findings, explore};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use order::{Order, Waiting};
use poison::{Poison, Recovery};
use tinkers_core::{Error, ErrorKind, Sent};
use twin::{Line, Twin, fault};

/// Forced switches.
const BOUND: usize = 3;

/// A call in the queue.
pub(crate) struct Call {
    name: &'static str,
    first_seq: u64,
    count: u64,
    book: Arc<Book>,
}

impl Waiting for Call {
    fn fail(self, error: Error) {
        self.book.failed(self.name, &error);
    }

    fn move_up(&mut self, count: u64) {
        self.first_seq -= count;
    }
}

/// What became of the calls. The models do not look into it: it is written between their steps.
#[derive(Default)]
struct Book {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
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

impl Book {
    fn write(&self, change: impl FnOnce(&mut Pages)) {
        change(&mut self.pages.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn failed(&self, name: &'static str, error: &Error) {
        self.write(|pages| {
            pages.ended.push(name);
            pages.errors.push(error.to_string());
        });
    }

    /// From here on nothing may be sent or queued.
    fn is_poisoned(&self) {
        self.write(|pages| pages.is_poisoned = true);
    }

    /// What is wrong when all threads have ended.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.write(|pages| {
            faults.append(&mut pages.faults);
            let mut next = 1;
            for (first, count) in &pages.sent {
                if *first != next {
                    faults.push("out of order".to_owned());
                }
                next = first + count;
            }
            pages.calls.sort_unstable();
            pages.ended.sort_unstable();
            if pages.calls != pages.ended {
                faults.push(format!("{:?} ended as {:?}", pages.calls, pages.ended));
            }
        });
        faults
    }

    /// Those, and errors that speak of another cause.
    fn faults_but_for(&self, cause: &str) -> Vec<String> {
        let mut faults = self.faults();
        self.write(|pages| {
            if pages.errors.iter().any(|error| !error.contains(cause)) {
                faults.push("another cause".to_owned());
            }
        });
        faults
    }
}

pub(crate) fn error(words: &str) -> Error {
    Error::new(ErrorKind::Aborted, Sent::MaybeSent, words)
}

/// One model's line, and what is known of it.
struct World<L> {
    line: Arc<L>,
    book: Arc<Book>,
    /// What is touched while a request is under way, so that anything may happen meanwhile.
    wire: Arc<AtomicU64>,
}

impl<L> Clone for World<L> {
    fn clone(&self) -> Self {
        Self {
            line: Arc::clone(&self.line),
            book: Arc::clone(&self.book),
            wire: Arc::clone(&self.wire),
        }
    }
}

impl<L: Line> World<L> {
    fn new() -> Self {
        Self {
            line: Arc::new(L::new()),
            book: Arc::default(),
            wire: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Takes a place. Who is given the right to send has to send.
    fn take(&self, name: &'static str, count: u64) -> Option<L::Right> {
        let mut is_late = false;
        self.book.write(|pages| {
            pages.calls.push(name);
            is_late = pages.is_poisoned;
        });
        let book = Arc::clone(&self.book);
        let taken = self.line.take(count, |first_seq| Call {
            name,
            first_seq,
            count,
            book,
        });
        if is_late && taken.is_ok() {
            let fault = "queued after the poison".to_owned();
            self.book.write(|pages| pages.faults.push(fault));
        }
        taken.unwrap_or_else(|error| {
            self.book.failed(name, &error);
            None
        })
    }

    /// Takes a place, and sends to the end where nobody does.
    fn call(&self, name: &'static str, count: u64) {
        if let Some(mut right) = self.take(name, count) {
            while let Some(call) = L::next(&mut right) {
                self.send(&call);
            }
        }
    }

    fn send(&self, call: &Call) {
        self.book.write(|pages| {
            pages.under_way += 1;
            if pages.under_way > 1 {
                pages.faults.push("two send at once".to_owned());
            }
            if pages.is_poisoned {
                pages.faults.push("sent after the poison".to_owned());
            }
            pages.sent.push((call.first_seq, call.count));
        });
        self.wire.fetch_add(1, Ordering::AcqRel);
        self.book.write(|pages| {
            pages.under_way -= 1;
            pages.ended.push(call.name);
        });
    }

    /// The next call fails and poisons the line.
    fn fail_next(&self, right: &mut L::Right, recovery: Recovery) {
        let call = L::next(right).expect("its own call at least");
        let cause = error("the first cause");
        self.line.poison(Poison {
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

fn three_calls<L: Line>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let others = [("b", 2), ("c", 1)]
            .map(|(name, count)| world.spawn(move |world| world.call(name, count)));
        world.call("a", 3);
        join(others);
        world.book.faults()
    })
}

#[test]
fn what_is_sent_has_the_order_of_its_numbers_and_one_at_a_time_sends() {
    three_calls::<Order<Call>>("three calls").assert_none();
    three_calls::<Twin<{ fault::NONE }>>("three calls of the twin").assert_none();
}

#[test]
fn numbers_that_are_taken_apart_from_their_places_are_found_out() {
    let findings = three_calls::<Twin<{ fault::NUMBERS_APART }>>("control: numbers apart");
    assert!(findings.faults.contains(&"out of order".to_owned()));
}

/// The call comes at the moment in which the sender finds the queue empty.
#[test]
fn an_end_of_sending_apart_from_the_look_into_the_queue_is_found_out() {
    let findings = three_calls::<Twin<{ fault::END_APART }>>("control: end apart");
    assert!(
        findings.faults.iter().any(|f| f.contains("ended as")),
        "{:?}",
        findings.faults
    );
}

/// One call fails while two others come.
fn a_call_that_fails<L: Line>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut right = world.take("a", 1).expect("nobody sends");
        let others = ["b", "c"].map(|name| world.spawn(move |world| world.call(name, 1)));
        world.fail_next(&mut right, Recovery::Undecided);
        world.book.is_poisoned();
        world.line.decide(Recovery::Never);
        while let Some(call) = L::next(&mut right) {
            world.send(&call);
        }
        join(others);
        world.book.faults_but_for("the first cause")
    })
}

#[test]
fn a_failure_reaches_those_who_wait_and_those_who_come_with_its_cause() {
    a_call_that_fails::<Order<Call>>("a call that fails").assert_none();
    a_call_that_fails::<Twin<{ fault::NONE }>>("a call of the twin that fails").assert_none();
}

#[test]
fn a_look_for_the_poison_apart_from_taking_a_place_is_found_out() {
    let findings = a_call_that_fails::<Twin<{ fault::POISON_APART }>>("control: poison apart");
    let late = "sent after the poison".to_owned();
    assert!(findings.faults.contains(&late), "{:?}", findings.faults);
}

/// A sender goes after its first call, while two others come.
fn a_sender_that_goes<L: Line>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut right = world.take("a", 1).expect("nobody sends");
        let others = ["b", "c"].map(|name| world.spawn(move |world| world.call(name, 1)));
        let call = L::next(&mut right).expect("its own call");
        world.send(&call);
        drop(right);
        world.book.is_poisoned();
        join(others);
        world.book.faults()
    })
}

#[test]
fn a_sender_that_goes_fails_those_who_wait_and_those_who_come() {
    a_sender_that_goes::<Order<Call>>("a sender that goes").assert_none();
    a_sender_that_goes::<Twin<{ fault::NONE }>>("a sender of the twin that goes").assert_none();
}

#[test]
fn a_sender_that_goes_in_silence_is_found_out() {
    let findings =
        a_sender_that_goes::<Twin<{ fault::GIVEN_UP_IN_SILENCE }>>("control: gone in silence");
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
    assert!(faults.contains(&"queued after the poison".to_owned()));
}

/// The sender of a call that failed goes before it has looked into the queue again, while another one comes.
fn a_failure_and_a_sender_that_goes<L: Line>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut right = world.take("a", 1).expect("nobody sends");
        let other = world.spawn(|world| world.call("b", 1));
        world.fail_next(&mut right, Recovery::Never);
        world.book.is_poisoned();
        drop(right);
        world.call("c", 1);
        join([other]);
        world.book.faults_but_for("the first cause")
    })
}

#[test]
fn the_first_cause_is_the_one_that_is_told() {
    a_failure_and_a_sender_that_goes::<Order<Call>>("failed, then gone").assert_none();
}

#[test]
fn a_later_cause_that_is_told_is_found_out() {
    let findings = a_failure_and_a_sender_that_goes::<Twin<{ fault::LAST_CAUSE }>>(
        "control: the last cause is told",
    );
    assert_eq!(findings.faults, ["another cause"]);
}

/// The sender of a call that was refused goes, while somebody recovers and calls.
fn a_way_back_and_a_sender_that_goes<L: Line>(name: &str) -> Findings {
    explore(name, BOUND, || {
        let world = World::<L>::new();
        let mut right = world.take("a", 1).expect("nobody sends");
        world.fail_next(&mut right, Recovery::From(1));
        let other = world.spawn(|world| {
            if world.line.recover().is_ok() {
                world.call("b", 1);
            }
        });
        drop(right);
        join([other]);
        world.book.faults()
    })
}

#[test]
fn whoever_goes_the_way_back_while_a_sender_goes_is_sent_or_told() {
    a_way_back_and_a_sender_that_goes::<Order<Call>>("recovered and gone").assert_none();
}

#[test]
fn a_sender_that_goes_in_two_steps_is_found_out() {
    let findings = a_way_back_and_a_sender_that_goes::<Twin<{ fault::GIVEN_UP_APART }>>(
        "control: gone in two steps",
    );
    let faults = &findings.faults;
    assert!(faults.iter().any(|f| f.contains("ended as")), "{faults:?}");
}
