//! Models of the registry: loom runs each under every interleaving that it knows of. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "support/explore.rs"]
mod explore;
#[path = "support/probe.rs"]
mod probe;
#[path = "support/subject.rs"]
mod subject;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use explore::{Findings, explore};
use loom::thread::{JoinHandle, spawn};
use probe::{Ledger, Probe};
use subject::{CheckThenInsert, Refused, Subject};
use tinkers_registry::Registry;

const KEY: usize = 0;

type Ours = Registry<usize, Probe>;

/// What the threads of a model share.
struct Scene<S> {
    subject: S,
    ledger: Arc<Ledger>,
}

impl<S: Subject> Scene<S> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            subject: S::default(),
            ledger: Ledger::new(),
        })
    }

    /// A share, noted as held.
    fn take(&self) -> S::Share {
        let built = self
            .subject
            .try_get_or_create(KEY, || Ok(self.ledger.build(KEY)));
        let share = built.expect("the builder does not fail");
        self.ledger.enter(&share);
        share
    }

    fn give_back(&self, share: S::Share) {
        self.ledger.leave(&share);
        drop(share);
    }

    /// A thread that takes a share and gives it back.
    fn visitor(self: &Arc<Self>) -> JoinHandle<()> {
        let scene = Arc::clone(self);
        spawn(move || {
            let share = scene.take();
            scene.give_back(share);
        })
    }

    /// What is wrong when everybody has gone.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.ledger.seen().faults();
        if self.subject.len() > 0 {
            faults.push(format!("{} entries left", self.subject.len()));
        }
        faults
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

/// Two threads ask for a key while its last holder goes.
fn two_that_ask_and_one_that_goes<S: Subject>() -> Findings {
    explore("two that ask and one that goes", 3, || {
        let scene = Scene::<S>::new();
        let last = scene.take();
        let visitors = [scene.visitor(), scene.visitor()];
        scene.give_back(last);
        visitors.into_iter().for_each(join);
        scene.faults()
    })
}

#[test]
fn two_that_ask_while_the_last_goes_never_see_two_values_and_none_is_leaked() {
    let findings = two_that_ask_and_one_that_goes::<Ours>();
    findings.assert_none();
}

#[test]
fn the_same_model_finds_the_fault_of_check_then_insert() {
    let findings = two_that_ask_and_one_that_goes::<CheckThenInsert>();
    let is_two = |fault: &String| fault.contains("two values of a key");
    assert!(findings.faults.iter().any(is_two), "{findings:?}");
}

/// Two threads ask for a key that nobody holds, and both keep what they get.
fn two_that_ask<S: Subject>() -> Findings {
    explore("two that ask", 3, || {
        let scene = Scene::<S>::new();
        let other = {
            let scene = Arc::clone(&scene);
            spawn(move || scene.take())
        };
        let ours = scene.take();
        let theirs = join(other);
        let mut faults = Vec::new();
        if ours.id != theirs.id {
            faults.push("two values".to_owned());
        }
        if scene.ledger.seen().built != 1 {
            faults.push("built twice".to_owned());
        }
        scene.give_back(ours);
        scene.give_back(theirs);
        faults.extend(scene.faults());
        faults
    })
}

#[test]
fn two_that_ask_build_once() {
    two_that_ask::<Ours>().assert_none();
    let found = two_that_ask::<CheckThenInsert>().faults;
    assert!(found.contains(&"built twice".to_owned()), "{found:?}");
}

#[test]
fn a_look_up_finds_a_value_that_stays_or_none() {
    let findings = explore("look-up and last drop", 3, || {
        let scene = Scene::<Ours>::new();
        let last = scene.take();
        let other = {
            let scene = Arc::clone(&scene);
            spawn(move || {
                if let Some(found) = scene.subject.get(&KEY) {
                    scene.ledger.enter(&found);
                    scene.give_back(found);
                }
            })
        };
        scene.give_back(last);
        join(other);
        scene.faults()
    });
    findings.assert_none();
}

#[test]
fn of_clones_that_go_together_one_is_the_last() {
    let findings = explore("clones", 3, || {
        let scene = Scene::<Ours>::new();
        let first = scene.take();
        let others = [(); 2].map(|()| {
            let (scene, share) = (Arc::clone(&scene), first.clone());
            scene.ledger.enter(&share);
            spawn(move || scene.give_back(share))
        });
        scene.give_back(first);
        others.into_iter().for_each(join);
        scene.faults()
    });
    findings.assert_none();
}

#[test]
fn a_new_value_is_not_taken_out_by_the_end_of_the_old_one() {
    let findings = explore("one that comes and stays", 3, || {
        let scene = Scene::<Ours>::new();
        let old = scene.take();
        let stays = {
            let scene = Arc::clone(&scene);
            spawn(move || scene.take())
        };
        scene.give_back(old);
        let stays = join(stays);
        let mut faults = Vec::new();
        match scene.subject.get(&KEY) {
            Some(found) if found.id == stays.id => {}
            other => faults.push(format!("held and not found: {other:?}")),
        }
        scene.give_back(stays);
        faults.extend(scene.faults());
        faults
    });
    findings.assert_none();
}

/// How a builder ends without a value.
#[derive(Clone, Copy)]
enum End {
    Error,
    Panic,
}

/// Two forced switches: with three there are ten times as many interleavings.
fn a_builder_that_fails(name: &'static str, end: End) -> Findings {
    explore(name, 2, move || {
        let scene = Scene::<Ours>::new();
        let failing = {
            let scene = Arc::clone(&scene);
            spawn(move || {
                let build = || match end {
                    End::Error => Err(Refused),
                    End::Panic => resume_unwind(Box::new(Refused)),
                };
                let ask = || scene.subject.try_get_or_create(KEY, build);
                match catch_unwind(AssertUnwindSafe(ask)) {
                    // The other had built it.
                    Ok(Ok(share)) => {
                        scene.ledger.enter(&share);
                        scene.give_back(share);
                    }
                    Ok(Err(Refused)) => {}
                    Err(panic) => assert!(panic.is::<Refused>()),
                }
            })
        };
        let visitor = scene.visitor();
        let share = scene.take();
        scene.give_back(share);
        join(failing);
        join(visitor);
        scene.faults()
    })
}

#[test]
fn a_builder_that_fails_frees_the_place_for_those_who_wait() {
    let findings = a_builder_that_fails("builder with an error", End::Error);
    findings.assert_none();
}

#[test]
fn a_builder_that_panics_frees_the_place_for_those_who_wait() {
    let findings = a_builder_that_fails("builder that panics", End::Panic);
    findings.assert_none();
}

#[test]
fn keys_side_by_side_do_not_lose_each_other() {
    let findings = explore("two keys", 3, || {
        let scene = Scene::<Ours>::new();
        let other = {
            let scene = Arc::clone(&scene);
            spawn(move || {
                let build = || scene.ledger.build(1);
                let share = scene.subject.get_or_create(1, build);
                scene.ledger.enter(&share);
                scene.give_back(share);
            })
        };
        let share = scene.take();
        scene.give_back(share);
        join(other);
        scene.faults()
    });
    findings.assert_none();
}
