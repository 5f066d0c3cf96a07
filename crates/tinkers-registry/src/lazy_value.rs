//! A value that is built once, by the first caller.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::cell::OptionCell;
use crate::contention::Counters;
use crate::sync::{Condvar, Mutex, ThreadId, current, lock, wait};

/// A value that the first caller builds while other callers wait for it.
pub(crate) struct LazyValue<V> {
    value: OptionCell<V>,
    /// The thread that is building the value, if any. The mutex is not held during the build.
    builder: Mutex<Option<ThreadId>>,
    build_ended: Condvar,
}

/// The error of a failed build.
pub(crate) enum BuildError<E> {
    /// The build function returned this error.
    Failed(E),
    /// The build function panicked with this payload.
    Panicked(Box<dyn Any + Send>),
    /// The build function requested the same value that it was building, which would wait forever.
    Recursive,
}

impl<V> LazyValue<V> {
    pub(crate) fn empty() -> Self {
        Self {
            value: OptionCell::empty(),
            builder: Mutex::new(None),
            build_ended: Condvar::new(),
        }
    }

    /// Returns the value, or `None` if it has not been built. Never waits.
    pub(crate) fn get(&self) -> Option<Arc<V>> {
        self.value.load()
    }

    /// Removes and returns the value. The caller must hold the last reference to the registry entry that contains the value.
    pub(crate) fn take(&self) -> Option<Arc<V>> {
        self.value.take()
    }

    /// Returns the value, and builds it with `build` if necessary. Waits while another thread builds it.
    ///
    /// A failed build is reported only to the caller that passed the build function; the next waiting caller runs its own build function. A
    /// panic of `build` is caught, so that no cleanup runs during unwinding. It is returned as an error, and the caller must resume it.
    pub(crate) fn get_or_build<E>(
        &self,
        build: impl FnOnce() -> Result<V, E>,
        counters: &Counters,
    ) -> Result<Arc<V>, BuildError<E>> {
        if let Some(value) = self.get() {
            return Ok(value);
        }
        if let Some(value) = self.wait_or_claim(counters)? {
            return Ok(value);
        }
        match catch_unwind(AssertUnwindSafe(build)) {
            Ok(Ok(value)) => {
                let value = Arc::new(value);
                self.value.store(Arc::clone(&value));
                *lock(&self.builder) = None;
                self.build_ended.notify_all();
                Ok(value)
            }
            Ok(Err(error)) => {
                self.release_build();
                Err(BuildError::Failed(error))
            }
            Err(panic) => {
                self.release_build();
                Err(BuildError::Panicked(panic))
            }
        }
    }

    /// Waits while another thread builds the value, and returns the value. If there is neither a value nor another builder, makes this
    /// thread the builder and returns `None`.
    fn wait_or_claim<E>(&self, counters: &Counters) -> Result<Option<Arc<V>>, BuildError<E>> {
        let this_thread = current().id();
        let mut has_waited = false;
        let mut builder = lock(&self.builder);
        while let Some(other) = *builder {
            if other == this_thread {
                return Err(BuildError::Recursive);
            }
            if !has_waited {
                has_waited = true;
                counters.build_waits();
            }
            builder = wait(&self.build_ended, builder);
        }
        // The building thread stores the value before it releases the build under this lock.
        let value = self.get();
        if value.is_none() {
            *builder = Some(this_thread);
        }
        Ok(value)
    }

    /// Ends a failed build, and wakes one of the waiting callers, which then builds the value.
    fn release_build(&self) {
        *lock(&self.builder) = None;
        self.build_ended.notify_one();
    }
}
