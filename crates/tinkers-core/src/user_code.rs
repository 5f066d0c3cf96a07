//! Calls of user code, such as wakers and log subscribers. Panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Runs `user_code` and discards a panic in it. User code is code that the program provides, such as wakers and log subscribers.
///
/// The end of one request wakes other tasks and notifies log subscribers. A panic there must neither fail the request nor lose the wake-ups
/// of other tasks.
pub fn catch_panic(user_code: impl FnOnce()) {
    // The panic hook has reported the panic already.
    let _panicked = catch_unwind(AssertUnwindSafe(user_code));
}

/// Wakes all of `wakers`, even if some of them panic. Call it without holding a lock.
pub fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        catch_panic(|| waker.wake());
    }
}

#[cfg(test)]
pub(crate) mod tests {
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

    /// A waker that counts how often it is woken.
    #[derive(Default)]
    pub(crate) struct Count(pub(crate) AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wake_all_continues_after_a_waker_panics() {
        let count = Arc::new(Count::default());
        let good = || Waker::from(Arc::clone(&count));
        wake_all([good(), Waker::from(Arc::new(Panics)), good()]);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }
}
