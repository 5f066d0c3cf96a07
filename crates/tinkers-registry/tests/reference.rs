//! A property test that compares the registry with a sequential reference model.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tinkers_registry::{Handle, Registry};

#[derive(Debug, Clone)]
enum Operation {
    Create(u8),
    Fail(u8),
    Panic(u8),
    Get(u8),
    /// Clones the existing handle with this index, taken modulo the number of handles.
    Clone(usize),
    Drop(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0_u8..5;
    prop_oneof![
        3 => key.clone().prop_map(Operation::Create),
        1 => key.clone().prop_map(Operation::Fail),
        1 => key.clone().prop_map(Operation::Panic),
        2 => key.prop_map(Operation::Get),
        1 => any::<usize>().prop_map(Operation::Clone),
        4 => any::<usize>().prop_map(Operation::Drop),
    ]
}

/// A value in the registry under test. Records its id when it is dropped.
#[derive(Debug)]
struct Value {
    id: u64,
    dropped: Arc<Mutex<Vec<u64>>>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.dropped.lock().expect("not poisoned").push(self.id);
    }
}

/// A simple model of a registry: for each key, the id of the value and the number of its handles.
#[derive(Default)]
struct Model {
    live: BTreeMap<u8, (u64, usize)>,
    built: u64,
    dropped: Vec<u64>,
}

impl Model {
    /// Records a call for `key` in the model. Returns the id of the value that the call should return, or `None` if the call should fail.
    fn acquire(&mut self, key: u8, builds: Build) -> Option<u64> {
        if builds == Build::Succeeds && !self.live.contains_key(&key) {
            self.built += 1;
            self.live.insert(key, (self.built, 0));
        }
        let (id, holders) = self.live.get_mut(&key)?;
        *holders += 1;
        Some(*id)
    }

    fn release(&mut self, key: u8) {
        let (id, holders) = self.live.get_mut(&key).expect("it is held");
        *holders -= 1;
        if *holders == 0 {
            self.dropped.push(*id);
            self.live.remove(&key);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Build {
    Succeeds,
    Fails,
}

/// The registry under test and the model with which it is compared.
#[derive(Default)]
struct Comparison {
    registry: Registry<u8, Value>,
    model: Model,
    held: Vec<Handle<u8, Value>>,
    dropped: Arc<Mutex<Vec<u64>>>,
}

impl Comparison {
    fn apply(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Create(key) => {
                let (id, dropped) = (self.model.built + 1, Arc::clone(&self.dropped));
                let handle = self.registry.get_or_create(key, || Value { id, dropped });
                let expected = self.model.acquire(key, Build::Succeeds);
                self.check_handle(Some(handle), expected)
            }
            Operation::Fail(key) => {
                let actual = self.registry.try_get_or_create(key, || Err("failed"));
                let expected = self.model.acquire(key, Build::Fails);
                self.check_handle(actual.ok(), expected)
            }
            Operation::Panic(key) => {
                let has_run = Cell::new(false);
                let build = || {
                    has_run.set(true);
                    // Unlike `panic!`, this prints nothing.
                    resume_unwind(Box::new("on purpose"))
                };
                let create = || self.registry.get_or_create(key, build);
                let actual = catch_unwind(AssertUnwindSafe(create)).ok();
                prop_assert_eq!(has_run.get(), actual.is_none());
                let expected = self.model.acquire(key, Build::Fails);
                self.check_handle(actual, expected)
            }
            Operation::Get(key) => {
                let actual = self.registry.get(&key);
                let expected = self.model.acquire(key, Build::Fails);
                self.check_handle(actual, expected)
            }
            Operation::Clone(at) if !self.held.is_empty() => {
                let handle = self.held[at % self.held.len()].clone();
                let expected = self.model.acquire(*handle.key(), Build::Fails);
                self.check_handle(Some(handle), expected)
            }
            Operation::Drop(at) if !self.held.is_empty() => {
                let handle = self.held.swap_remove(at % self.held.len());
                self.model.release(*handle.key());
                drop(handle);
                Ok(())
            }
            Operation::Clone(_) | Operation::Drop(_) => Ok(()),
        }
    }

    fn check_handle(
        &mut self,
        actual: Option<Handle<u8, Value>>,
        expected: Option<u64>,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(actual.as_ref().map(|handle| handle.id), expected);
        self.held.extend(actual);
        Ok(())
    }

    fn check_state(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.registry.len(), self.model.live.len());
        prop_assert_eq!(self.registry.is_empty(), self.model.live.is_empty());
        prop_assert_eq!(
            &*self.dropped.lock().expect("not poisoned"),
            &self.model.dropped
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_registry_operations_match_the_reference_model(operations in prop::collection::vec(operation(), 0..200)) {
        let mut comparison = Comparison::default();
        for operation in operations {
            comparison.apply(operation)?;
            comparison.check_state()?;
        }
        while !comparison.held.is_empty() {
            comparison.apply(Operation::Drop(0))?;
            comparison.check_state()?;
        }
        prop_assert!(comparison.registry.is_empty());
        // A single thread causes no contention.
        prop_assert_eq!(comparison.registry.contention().total(), 0);
    }
}
