//! Loom models of the registry, run under every interleaving up to a number of preemptions. Run with `cargo xtask loom`.
#![cfg(tinkers_loom)]

#[path = "support/explore.rs"]
mod explore;
#[path = "support/subject.rs"]
mod subject;
#[path = "support/tracked.rs"]
mod tracked;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use explore::{Findings, explore};
use loom::thread::{JoinHandle, spawn};
use subject::{BuildError, CheckThenInsert, Subject};
use tinkers_registry::Registry;
use tracked::{Tracked, Tracker};

const KEY: usize = 0;

type TrackedRegistry = Registry<usize, Tracked>;

/// The state that the threads of a loom model share: the registry under test, and a tracker that records its values and handles.
struct Model<S> {
    registry: S,
    tracker: Arc<Tracker>,
}

impl<S: Subject> Model<S> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            registry: S::default(),
            tracker: Tracker::new(),
        })
    }

    /// Acquires a handle of the value of the only key, and records the handle in the tracker.
    fn acquire(&self) -> S::Handle {
        let built = self
            .registry
            .try_get_or_create(KEY, || Ok(self.tracker.build(KEY)));
        let handle = built.expect("the builder does not fail");
        self.tracker.acquired(&handle);
        handle
    }

    fn release(&self, handle: S::Handle) {
        self.tracker.releasing(&handle);
        drop(handle);
    }

    /// Runs `task` on a new thread of the loom model.
    fn spawn<T: 'static>(
        self: &Arc<Self>,
        task: impl FnOnce(&Self) -> T + 'static,
    ) -> JoinHandle<T> {
        let model = Arc::clone(self);
        spawn(move || task(&model))
    }

    /// Starts a thread that acquires and releases a handle.
    fn spawn_user(self: &Arc<Self>) -> JoinHandle<()> {
        self.spawn(|model| model.release(model.acquire()))
    }

    /// Returns descriptions of the faults that the tracker found. Called after all handles have been dropped.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.tracker.observations().faults();
        if self.registry.len() > 0 {
            faults.push(format!("{} entries left", self.registry.len()));
        }
        faults
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no thread panics")
}

mod lookups_during_the_last_drop {
    use super::*;

    /// Checks, with loom, two threads that request a key while another thread drops the last handle of the key. Returns the faults found.
    fn model<S: Subject>() -> Findings {
        explore("two lookups during the last drop", 3, || {
            let model = Model::<S>::new();
            let last = model.acquire();
            let users = [model.spawn_user(), model.spawn_user()];
            model.release(last);
            users.into_iter().for_each(join);
            model.faults()
        })
    }

    #[test]
    fn registry_lookups_during_the_last_handle_drop_share_one_value() {
        model::<TrackedRegistry>().assert_none();
    }

    #[test]
    fn negative_control_two_values_after_the_last_handle_drop_are_detected() {
        let findings = model::<CheckThenInsert>();
        let has_two_values = |fault: &String| fault.contains("two values of a key");
        assert!(findings.faults.iter().any(has_two_values), "{findings:?}");
    }
}

mod concurrent_creation {
    use super::*;

    /// Checks, with loom, two threads that request a key without a value at the same time, and keep their handles. Both must get the same
    /// value. Returns the faults found.
    fn model<S: Subject>() -> Findings {
        explore("concurrent creation", 3, || {
            let model = Model::<S>::new();
            let other = model.spawn(Model::acquire);
            let first = model.acquire();
            let second = join(other);
            let mut faults = Vec::new();
            if first.id != second.id {
                faults.push("two values".to_owned());
            }
            if model.tracker.observations().built != 1 {
                faults.push("built twice".to_owned());
            }
            model.release(first);
            model.release(second);
            faults.extend(model.faults());
            faults
        })
    }

    #[test]
    fn concurrent_get_or_create_calls_build_a_value_once() {
        model::<TrackedRegistry>().assert_none();
    }

    #[test]
    fn negative_control_value_that_is_built_twice_is_detected() {
        let faults = model::<CheckThenInsert>().faults;
        assert!(faults.contains(&"built twice".to_owned()), "{faults:?}");
    }
}

#[test]
fn registry_lookup_finds_a_live_value_or_none() {
    let findings = explore("lookup during the last drop", 3, || {
        let model = Model::<TrackedRegistry>::new();
        let last = model.acquire();
        let lookup = model.spawn(|model| {
            if let Some(found) = model.registry.get(&KEY) {
                model.tracker.acquired(&found);
                model.release(found);
            }
        });
        model.release(last);
        join(lookup);
        model.faults()
    });
    findings.assert_none();
}

#[test]
fn exactly_one_of_several_concurrent_handle_drops_removes_the_entry() {
    let findings = explore("concurrent drops of clones", 3, || {
        let model = Model::<TrackedRegistry>::new();
        let first = model.acquire();
        let others = [(); 2].map(|()| {
            let clone = first.clone();
            model.tracker.acquired(&clone);
            model.spawn(move |model| model.release(clone))
        });
        model.release(first);
        others.into_iter().for_each(join);
        model.faults()
    });
    findings.assert_none();
}

#[test]
fn removal_of_an_old_registry_entry_keeps_the_new_entry() {
    let findings = explore("removal and creation", 3, || {
        let model = Model::<TrackedRegistry>::new();
        let old = model.acquire();
        let creation = model.spawn(Model::acquire);
        model.release(old);
        let new = join(creation);
        let mut faults = Vec::new();
        match model.registry.get(&KEY) {
            Some(found) if found.id == new.id => {}
            other => faults.push(format!("held but not found: {other:?}")),
        }
        model.release(new);
        faults.extend(model.faults());
        faults
    });
    findings.assert_none();
}

#[test]
fn failed_build_lets_a_waiter_build_the_value() {
    /// The way in which a build function fails.
    #[derive(Clone, Copy)]
    enum Failure {
        Error,
        Panic,
    }

    for (name, failure) in [
        ("builder with an error", Failure::Error),
        ("builder that panics", Failure::Panic),
    ] {
        // Two preemptions are enough: three multiply the number of interleavings by ten.
        let findings = explore(name, 2, move || {
            let model = Model::<TrackedRegistry>::new();
            let failing = model.spawn(move |model| {
                let build = || match failure {
                    Failure::Error => Err(BuildError),
                    Failure::Panic => resume_unwind(Box::new(BuildError)),
                };
                let create = || model.registry.try_get_or_create(KEY, build);
                match catch_unwind(AssertUnwindSafe(create)) {
                    // Another thread had built the value.
                    Ok(Ok(handle)) => {
                        model.tracker.acquired(&handle);
                        model.release(handle);
                    }
                    Ok(Err(BuildError)) => {}
                    Err(panic) => assert!(panic.is::<BuildError>()),
                }
            });
            let user = model.spawn_user();
            model.release(model.acquire());
            join(failing);
            join(user);
            model.faults()
        });
        findings.assert_none();
    }
}

#[test]
fn concurrent_registry_changes_of_two_keys_are_not_lost() {
    let findings = explore("two keys", 3, || {
        let model = Model::<TrackedRegistry>::new();
        let other = model.spawn(|model| {
            let build = || model.tracker.build(1);
            let handle = model.registry.get_or_create(1, build);
            model.tracker.acquired(&handle);
            model.release(handle);
        });
        model.release(model.acquire());
        join(other);
        model.faults()
    });
    findings.assert_none();
}
