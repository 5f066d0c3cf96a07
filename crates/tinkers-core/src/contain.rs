//! Calls of foreign code, such as wakers and log subscribers, with contained panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs `foreign` and discards a panic in it.
///
/// The end of one request wakes other tasks and notifies subscribers. A panic there must neither fail the request nor lose other wake-ups.
pub fn contain(foreign: impl FnOnce()) {
    // The panic hook has reported it already.
    let _panicked = catch_unwind(AssertUnwindSafe(foreign));
}

/// Wakes all of `wakers`, also when some of them panic. Call it without any lock held.
pub fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contain(|| waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn panicking_waker_does_not_stop_other_wake_ups() {
        let count = Arc::new(Count::default());
        let good = || Waker::from(Arc::clone(&count));
        wake_all([good(), Waker::from(Arc::new(Panics)), good()]);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }
}
