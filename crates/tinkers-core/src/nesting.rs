//! Detection of nested calls: calls that a transport layer makes while it handles a request.
//!
//! A nested call must not wait for a permit that the outer request holds. While a request is polled, a thread-local flag is set, which
//! detects a nested call. A layer that spawns work can pass the flag on as a [`NestedMark`].

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;

use crate::spawn::BoxFuture;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A flag that tells whether code runs inside another request, for example in a transport layer. Requests that such code makes are nested
/// requests: they must not wait for permits of the rate limiter that the outer request may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NestedMark(bool);

impl NestedMark {
    const INSIDE: Self = Self(true);
    /// The flag for code that does not run inside a request.
    pub const OUTSIDE: Self = Self(false);

    /// Returns a flag that tells whether the current thread runs code inside a request.
    pub fn here() -> Self {
        // A thread that is exiting has no thread-locals, and polls no request.
        Self(INSIDE.try_with(Cell::get).unwrap_or(false))
    }

    /// Returns whether the code with this flag runs inside a request.
    pub const fn is_inside(self) -> bool {
        self.0
    }

    /// Runs `work`. Meanwhile the thread counts as running inside or outside a request, as this flag says. Restores the previous flag of
    /// the thread afterwards, even after a panic.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        let _restored = Restore(Self::here());
        self.set();
        work()
    }

    /// Runs the future `work`. Each thread that polls the future counts as running inside or outside a request during the poll, as this
    /// flag says.
    pub async fn carry<T>(self, work: impl Future<Output = T> + Send) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.during(|| work.as_mut().poll(cx))).await
    }

    fn set(self) {
        // As above: an exiting thread needs no mark.
        let _ending = INSIDE.try_with(|inside| inside.set(self.0));
    }
}

struct Restore(NestedMark);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Creates a request with `begin` and awaits it, with the flag of the thread set to "inside a request". The flag is already set while
/// `begin` runs, since a transport layer may call the API before its future is polled.
pub(crate) async fn inside<'a, T>(begin: impl FnOnce() -> BoxFuture<'a, T>) -> T {
    let request = NestedMark::INSIDE.during(begin);
    NestedMark::INSIDE.carry(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::task::{Context, Poll, Waker};

    fn poll<T>(work: impl Future<Output = T>) -> Poll<T> {
        pin!(work).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_calls_made_inside_a_request_are_flagged_as_nested() {
        assert!(!NestedMark::here().is_inside());
        let marked = poll(inside(|| {
            let begun = NestedMark::here().is_inside();
            Box::pin(async move { (begun, NestedMark::here().is_inside()) })
        }));
        assert_eq!(marked, Poll::Ready((true, true)));
        assert!(!NestedMark::here().is_inside());
    }

    #[test]
    fn spawned_future_can_inherit_the_nested_request_flag() {
        let Poll::Ready(mark) = poll(inside(|| Box::pin(async { NestedMark::here() }))) else {
            panic!("the future is ready");
        };
        assert!(mark.during(|| NestedMark::here().is_inside()));
        let carried = mark.carry(async { NestedMark::here().is_inside() });
        assert_eq!(poll(carried), Poll::Ready(true));
        let outside = NestedMark::here();
        let within = async move { outside.during(|| NestedMark::here().is_inside()) };
        assert_eq!(poll(inside(|| Box::pin(within))), Poll::Ready(false));
    }

    #[test]
    fn nested_request_flag_is_restored_after_a_panic() {
        let panics = inside(|| Box::pin(async { panic!("a layer that breaks") }));
        assert!(catch_unwind(AssertUnwindSafe(|| poll::<()>(panics))).is_err());
        assert!(!NestedMark::here().is_inside());
    }
}
