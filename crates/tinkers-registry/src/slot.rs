//! The place of one value, which is built once by whoever comes first.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::cell::Optional;
use crate::collisions::Counters;
use crate::sync::{Condvar, Mutex, ThreadId, current, lock, wait};

/// A value, or the turn to build it.
pub(crate) struct Slot<V> {
    value: Optional<V>,
    /// Who is building at the moment. Not held while they do.
    builder: Mutex<Option<ThreadId>>,
    ended: Condvar,
}

/// Why there is no value.
pub(crate) enum Failure<E> {
    /// The builder gave this error.
    Refused(E),
    /// The builder panicked with this.
    Panicked(Box<dyn Any + Send>),
    /// The builder asked for what it was to build.
    Nested,
}

impl<V> Slot<V> {
    pub(crate) fn empty() -> Self {
        Self {
            value: Optional::empty(),
            builder: Mutex::new(None),
            ended: Condvar::new(),
        }
    }

    /// The value, if it is built.
    pub(crate) fn value(&self) -> Option<Arc<V>> {
        self.value.load()
    }

    /// Takes the value out. The caller is the last who knows of this slot.
    pub(crate) fn take(&self) -> Option<Arc<V>> {
        self.value.take()
    }

    /// The value, built by `build` if nobody has built it; waits for another's attempt.
    ///
    /// An attempt that fails is the business of its caller alone: the next who waits makes an attempt of their own. A panic
    /// is caught, so that nothing is cleaned up while unwinding, and is the caller's to go on with.
    pub(crate) fn value_or_build<E>(
        &self,
        build: impl FnOnce() -> Result<V, E>,
        counters: &Counters,
    ) -> Result<Arc<V>, Failure<E>> {
        if let Some(value) = self.value() {
            return Ok(value);
        }
        if let Some(value) = self.value_or_turn(counters)? {
            return Ok(value);
        }
        match catch_unwind(AssertUnwindSafe(build)) {
            Ok(Ok(value)) => {
                let value = Arc::new(value);
                self.value.put(Arc::clone(&value));
                *lock(&self.builder) = None;
                self.ended.notify_all();
                Ok(value)
            }
            Ok(Err(error)) => {
                self.pass_on();
                Err(Failure::Refused(error))
            }
            Err(panic) => {
                self.pass_on();
                Err(Failure::Panicked(panic))
            }
        }
    }

    /// The value once another has built it, or none where it is now the caller's turn to.
    fn value_or_turn<E>(&self, counters: &Counters) -> Result<Option<Arc<V>>, Failure<E>> {
        let me = current().id();
        let mut has_waited = false;
        let mut builder = lock(&self.builder);
        while let Some(other) = *builder {
            if other == me {
                return Err(Failure::Nested);
            }
            if !has_waited {
                has_waited = true;
                counters.waited();
            }
            builder = wait(&self.ended, builder);
        }
        // Whoever built it put it in before giving the turn back under this lock.
        let value = self.value();
        if value.is_none() {
            *builder = Some(me);
        }
        Ok(value)
    }

    /// Gives the turn to one of those who wait.
    fn pass_on(&self) {
        *lock(&self.builder) = None;
        self.ended.notify_one();
    }
}
