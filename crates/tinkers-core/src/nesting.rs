//! Tells calls that are made by a request under way: by a transport layer that calls the API before it passes a request on.
//!
//! Such a call must not wait for room that the request under way holds. It is recognised by a mark on the thread that is polling the
//! request, so it is seen through any number of layers. Work that is spawned elsewhere takes the mark along as a [`Mark`].

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;

use crate::spawn::BoxFuture;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether work is done for a request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(bool);

impl Mark {
    const INSIDE: Self = Self(true);

    /// The mark of whatever runs on this thread now.
    pub fn here() -> Self {
        // A thread that is ending has no marks left, and polls no request.
        Self(INSIDE.try_with(Cell::get).unwrap_or(false))
    }

    /// Whether a request is being polled.
    pub const fn is_inside(self) -> bool {
        self.0
    }

    /// Runs `work` with this mark on the thread, and restores the one before, also when `work` panics.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        let _restored = Restore(Self::here());
        self.set();
        work()
    }

    /// Runs `work` with this mark on whatever thread polls it.
    pub async fn carry<T>(self, work: impl Future<Output = T> + Send) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.during(|| work.as_mut().poll(cx))).await
    }

    fn set(self) {
        // As above: without the thread's marks there is nothing to tell.
        let _ending = INSIDE.try_with(|inside| inside.set(self.0));
    }
}

struct Restore(Mark);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Begins a request and waits for it, with the mark on whatever thread does so. A layer may call the API already when the
/// request is begun, before its future is polled.
pub(crate) async fn inside<'a, T>(begin: impl FnOnce() -> BoxFuture<'a, T>) -> T {
    let request = Mark::INSIDE.during(begin);
    Mark::INSIDE.carry(request).await
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
    fn work_inside_a_request_is_marked_and_nothing_else() {
        assert!(!Mark::here().is_inside());
        let marked = poll(inside(|| {
            let begun = Mark::here().is_inside();
            Box::pin(async move { (begun, Mark::here().is_inside()) })
        }));
        assert_eq!(marked, Poll::Ready((true, true)));
        assert!(!Mark::here().is_inside());
    }

    #[test]
    fn spawned_work_carries_the_mark_of_its_maker() {
        let Poll::Ready(mark) = poll(inside(|| Box::pin(async { Mark::here() }))) else {
            panic!("there is nothing to wait for");
        };
        assert!(mark.during(|| Mark::here().is_inside()));
        let carried = mark.carry(async { Mark::here().is_inside() });
        assert_eq!(poll(carried), Poll::Ready(true));
        let plain = Mark::here();
        let within = async move { plain.during(|| Mark::here().is_inside()) };
        assert_eq!(poll(inside(|| Box::pin(within))), Poll::Ready(false));
    }

    #[test]
    fn a_panic_takes_the_mark_away() {
        let panics = inside(|| Box::pin(async { panic!("a layer that breaks") }));
        assert!(catch_unwind(AssertUnwindSafe(|| poll::<()>(panics))).is_err());
        assert!(!Mark::here().is_inside());
    }
}
