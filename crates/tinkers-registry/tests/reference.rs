//! The registry against a plain model of it: any sequence of calls gives the same values and the same drops.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tinkers_registry::{Handle, Registry};

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Refuse(u8),
    Panic(u8),
    Get(u8),
    /// Of the handles held at that time, modulo their number.
    Clone(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0_u8..5;
    prop_oneof![
        3 => key.clone().prop_map(Step::Create),
        1 => key.clone().prop_map(Step::Refuse),
        1 => key.clone().prop_map(Step::Panic),
        2 => key.prop_map(Step::Get),
        1 => any::<usize>().prop_map(Step::Clone),
        4 => any::<usize>().prop_map(Step::Drop),
    ]
}

/// A value that says when it goes.
#[derive(Debug)]
struct Value {
    id: u64,
    gone: Arc<Mutex<Vec<u64>>>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.gone.lock().expect("no panic under it").push(self.id);
    }
}

/// What the registry should be: by key, the value and its holders.
#[derive(Default)]
struct Model {
    live: BTreeMap<u8, (u64, usize)>,
    built: u64,
    gone: Vec<u64>,
}

impl Model {
    /// The value that a call for `key` gives, where its builder gives one if `builds`.
    fn ask(&mut self, key: u8, builds: Build) -> Option<u64> {
        if builds == Build::Succeeds && !self.live.contains_key(&key) {
            self.built += 1;
            self.live.insert(key, (self.built, 0));
        }
        let (id, holders) = self.live.get_mut(&key)?;
        *holders += 1;
        Some(*id)
    }

    fn give_back(&mut self, key: u8) {
        let (id, holders) = self.live.get_mut(&key).expect("it is held");
        *holders -= 1;
        if *holders == 0 {
            self.gone.push(*id);
            self.live.remove(&key);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Build {
    Succeeds,
    Fails,
}

/// Both sides of the comparison.
#[derive(Default)]
struct Pair {
    registry: Registry<u8, Value>,
    model: Model,
    held: Vec<Handle<u8, Value>>,
    gone: Arc<Mutex<Vec<u64>>>,
}

impl Pair {
    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Create(key) => {
                let (id, gone) = (self.model.built + 1, Arc::clone(&self.gone));
                let handle = self.registry.get_or_create(key, || Value { id, gone });
                let expected = self.model.ask(key, Build::Succeeds);
                self.keep(Some(handle), expected)
            }
            Step::Refuse(key) => {
                let given = self.registry.try_get_or_create(key, || Err("refused"));
                let expected = self.model.ask(key, Build::Fails);
                self.keep(given.ok(), expected)
            }
            Step::Panic(key) => {
                let has_run = Cell::new(false);
                let build = || {
                    has_run.set(true);
                    // Does not print, unlike a panic.
                    resume_unwind(Box::new("on purpose"))
                };
                let ask = || self.registry.get_or_create(key, build);
                let given = catch_unwind(AssertUnwindSafe(ask)).ok();
                prop_assert_eq!(has_run.get(), given.is_none());
                let expected = self.model.ask(key, Build::Fails);
                self.keep(given, expected)
            }
            Step::Get(key) => {
                let given = self.registry.get(&key);
                let expected = self.model.ask(key, Build::Fails);
                self.keep(given, expected)
            }
            Step::Clone(at) if !self.held.is_empty() => {
                let handle = self.held[at % self.held.len()].clone();
                let expected = self.model.ask(*handle.key(), Build::Fails);
                self.keep(Some(handle), expected)
            }
            Step::Drop(at) if !self.held.is_empty() => {
                let handle = self.held.swap_remove(at % self.held.len());
                self.model.give_back(*handle.key());
                drop(handle);
                Ok(())
            }
            Step::Clone(_) | Step::Drop(_) => Ok(()),
        }
    }

    fn keep(
        &mut self,
        given: Option<Handle<u8, Value>>,
        expected: Option<u64>,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(given.as_ref().map(|handle| handle.id), expected);
        self.held.extend(given);
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.registry.len(), self.model.live.len());
        prop_assert_eq!(self.registry.is_empty(), self.model.live.is_empty());
        prop_assert_eq!(&*self.gone.lock().expect("no panic"), &self.model.gone);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_calls_agrees_with_the_model(steps in prop::collection::vec(step(), 0..200)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.apply(step)?;
            pair.compare()?;
        }
        while !pair.held.is_empty() {
            pair.apply(Step::Drop(0))?;
            pair.compare()?;
        }
        prop_assert!(pair.registry.is_empty());
        // One thread never meets another.
        prop_assert_eq!(pair.registry.collisions().total(), 0);
    }
}
