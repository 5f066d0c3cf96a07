//! The budget of bytes that results are fetched under.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tinkers_core::BytesGuard;
use tinkers_dispatch::ByteBudget;

fn poll<F: Future<Output = BytesGuard> + Unpin>(future: &mut F) -> Option<BytesGuard> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(guard) => Some(guard),
        Poll::Pending => None,
    }
}

#[test]
fn what_is_larger_than_the_whole_budget_passes_alone() {
    let budget = ByteBudget::new(10);
    let large = poll(&mut budget.acquire(1_000)).expect("something is left");
    let mut next = budget.acquire(1);
    assert!(poll(&mut next).is_none());
    assert_eq!(budget.taken(), 1_000);
    drop(large);
    let _next = poll(&mut next).expect("all came back");
    assert_eq!(budget.taken(), 1);
}

#[test]
fn the_first_in_the_queue_is_not_passed_and_leaves_nothing_when_dropped() {
    let budget = ByteBudget::new(10);
    let holder = poll(&mut budget.acquire(10)).expect("empty");
    let (mut first, mut second) = (budget.acquire(10), budget.acquire(1));
    assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
    drop(holder);
    assert!(poll(&mut second).is_none(), "it is the first one's turn");
    assert_eq!(budget.taken(), 10, "handed over, whether it looks or not");
    drop(first);
    drop(poll(&mut second).expect("it is its turn"));
    assert_eq!(budget.taken(), 0);
}
