//! Cells whose content is read with one atomic load and replaced as a whole.
//!
//! Only this file uses arc-swap. Loom cannot model arc-swap, so the loom models use the second half of this file: an
//! atomic index into a list of all values that were ever stored. There a load may return any older version that the
//! memory model allows, and old versions stay readable, as arc-swap guarantees for slow readers.

#[cfg(not(tinkers_loom))]
pub(crate) use arc_swap_cells::{OptionCell, SwapCell};
#[cfg(tinkers_loom)]
pub(crate) use loom_cells::{OptionCell, SwapCell};

#[cfg(not(tinkers_loom))]
mod arc_swap_cells {
    use std::ops::Deref;
    use std::sync::Arc;

    use arc_swap::{ArcSwap, ArcSwapOption};

    /// A cell whose content can be read and replaced concurrently. The cell is never empty.
    pub(crate) struct SwapCell<T>(ArcSwap<T>);

    impl<T> SwapCell<T> {
        pub(crate) fn new(content: T) -> Self {
            Self(ArcSwap::from_pointee(content))
        }

        /// Returns the current content. The content stays readable after it is replaced.
        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            self.0.load()
        }

        /// Stores `content` and returns the previous content.
        pub(crate) fn swap(&self, content: Arc<T>) -> Arc<T> {
            self.0.swap(content)
        }
    }

    /// A cell whose content can be read and replaced concurrently. The cell may be empty.
    pub(crate) struct OptionCell<T>(ArcSwapOption<T>);

    impl<T> OptionCell<T> {
        pub(crate) fn empty() -> Self {
            Self(ArcSwapOption::empty())
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.load_full()
        }

        pub(crate) fn store(&self, content: Arc<T>) {
            self.0.store(Some(content));
        }

        /// Removes and returns the content. No other thread may read the cell meanwhile, since a reader could keep the content alive.
        pub(crate) fn take(&self) -> Option<Arc<T>> {
            self.0.swap(None)
        }
    }
}

#[cfg(tinkers_loom)]
mod loom_cells {
    use std::ops::Deref;
    use std::sync::{Arc, Mutex, PoisonError};

    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// A replacement for the cells in loom models: the list of all contents that a cell has had, and the index of the current one. The
    /// mutex of the list is never held where loom may switch threads.
    struct Versions<T> {
        current: AtomicUsize,
        all: Mutex<Vec<Option<Arc<T>>>>,
    }

    impl<T> Versions<T> {
        fn new(content: Option<Arc<T>>) -> Self {
            Self {
                current: AtomicUsize::new(0),
                all: Mutex::new(vec![content]),
            }
        }

        fn with_versions<R>(&self, act: impl FnOnce(&mut Vec<Option<Arc<T>>>) -> R) -> R {
            act(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn load(&self) -> Option<Arc<T>> {
            let at = self.current.load(Ordering::Acquire);
            self.with_versions(|all| all[at].clone())
        }

        /// Adds `content` to the list as the current content. Returns the index of the previous content.
        fn swap(&self, content: Option<Arc<T>>) -> usize {
            let at = self.with_versions(|all| {
                all.push(content);
                all.len() - 1
            });
            self.current.swap(at, Ordering::AcqRel)
        }
    }

    pub(crate) struct SwapCell<T>(Versions<T>);

    struct Loaded<T>(Arc<T>);

    impl<T> Deref for Loaded<T> {
        type Target = Arc<T>;

        fn deref(&self) -> &Arc<T> {
            &self.0
        }
    }

    impl<T> SwapCell<T> {
        pub(crate) fn new(content: T) -> Self {
            Self(Versions::new(Some(Arc::new(content))))
        }

        pub(crate) fn load(&self) -> impl Deref<Target = Arc<T>> + use<T> {
            Loaded(self.0.load().expect("a SwapCell is never empty"))
        }

        pub(crate) fn swap(&self, content: Arc<T>) -> Arc<T> {
            let before = self.0.swap(Some(content));
            self.0
                .with_versions(|all| all[before].clone())
                .expect("a SwapCell is never empty")
        }
    }

    pub(crate) struct OptionCell<T>(Versions<T>);

    impl<T> OptionCell<T> {
        pub(crate) fn empty() -> Self {
            Self(Versions::new(None))
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.0.load()
        }

        pub(crate) fn store(&self, content: Arc<T>) {
            self.0.swap(Some(content));
        }

        pub(crate) fn take(&self) -> Option<Arc<T>> {
            let before = self.0.swap(None);
            self.0.with_versions(|all| all[before].take())
        }
    }
}
