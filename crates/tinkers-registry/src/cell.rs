//! Cells whose content is read with one atomic load and replaced as a whole.
//!
//! This is the only file that names arc-swap. Loom cannot see into arc-swap, so a model runs on the other half of this
//! file: an index that is an atomic of loom's, into a list of everything that was ever put in. A load may there return
//! an older version wherever the memory model lets it, and an old version stays readable to the end, as it does with
//! arc-swap for a reader that is slow.

#[cfg(tinkers_loom)]
pub(crate) use modelled::{Optional, Shared};
#[cfg(not(tinkers_loom))]
pub(crate) use swapped::{Optional, Shared};

#[cfg(not(tinkers_loom))]
mod swapped {
    use std::ops::Deref;
    use std::sync::Arc;

    use arc_swap::{ArcSwap, ArcSwapOption};

    /// A cell that always holds something.
    pub(crate) struct Shared<T>(ArcSwap<T>);

    impl<T> Shared<T> {
        pub(crate) fn new(content: T) -> Self {
            Self(ArcSwap::from_pointee(content))
        }

        /// What is in it now; it stays readable after it was replaced.
        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            self.0.load()
        }

        /// Puts `content` in and gives out what was there.
        pub(crate) fn swap(&self, content: Arc<T>) -> Arc<T> {
            self.0.swap(content)
        }
    }

    /// A cell that may be empty.
    pub(crate) struct Optional<T>(ArcSwapOption<T>);

    impl<T> Optional<T> {
        pub(crate) fn empty() -> Self {
            Self(ArcSwapOption::empty())
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.load_full()
        }

        pub(crate) fn put(&self, content: Arc<T>) {
            self.0.store(Some(content));
        }

        /// Empties it. For a caller who is alone with it, so that no reader keeps the content alive.
        pub(crate) fn take(&self) -> Option<Arc<T>> {
            self.0.swap(None)
        }
    }
}

#[cfg(tinkers_loom)]
mod modelled {
    use std::ops::Deref;
    use std::sync::{Arc, Mutex, PoisonError};

    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// The list that both cells keep; its own mutex is never held at a point where loom may switch threads.
    struct Versions<T> {
        now: AtomicUsize,
        all: Mutex<Vec<Option<Arc<T>>>>,
    }

    impl<T> Versions<T> {
        fn new(content: Option<Arc<T>>) -> Self {
            Self {
                now: AtomicUsize::new(0),
                all: Mutex::new(vec![content]),
            }
        }

        fn with<R>(&self, act: impl FnOnce(&mut Vec<Option<Arc<T>>>) -> R) -> R {
            act(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn load(&self) -> Option<Arc<T>> {
            let at = self.now.load(Ordering::Acquire);
            self.with(|all| all[at].clone())
        }

        /// The index of what was there before.
        fn swap(&self, content: Option<Arc<T>>) -> usize {
            let at = self.with(|all| {
                all.push(content);
                all.len() - 1
            });
            self.now.swap(at, Ordering::AcqRel)
        }
    }

    pub(crate) struct Shared<T>(Versions<T>);

    struct Loaded<T>(Arc<T>);

    impl<T> Deref for Loaded<T> {
        type Target = Arc<T>;

        fn deref(&self) -> &Arc<T> {
            &self.0
        }
    }

    impl<T> Shared<T> {
        pub(crate) fn new(content: T) -> Self {
            Self(Versions::new(Some(Arc::new(content))))
        }

        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            Loaded(self.0.load().expect("it is never empty"))
        }

        pub(crate) fn swap(&self, content: Arc<T>) -> Arc<T> {
            let before = self.0.swap(Some(content));
            self.0
                .with(|all| all[before].clone())
                .expect("it is never empty")
        }
    }

    pub(crate) struct Optional<T>(Versions<T>);

    impl<T> Optional<T> {
        pub(crate) fn empty() -> Self {
            Self(Versions::new(None))
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.load()
        }

        pub(crate) fn put(&self, content: Arc<T>) {
            self.0.swap(Some(content));
        }

        pub(crate) fn take(&self) -> Option<Arc<T>> {
            let before = self.0.swap(None);
            self.0.with(|all| all[before].take())
        }
    }
}
