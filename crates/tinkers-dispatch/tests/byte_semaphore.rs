//! Tests of the semaphore that limits the bytes of large results.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tinkers_core::BytesGuard;
use tinkers_dispatch::ByteSemaphore;

fn poll<F: Future<Output = BytesGuard> + Unpin>(future: &mut F) -> Option<BytesGuard> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(guard) => Some(guard),
        Poll::Pending => None,
    }
}

#[test]
fn request_larger_than_the_byte_budget_is_admitted_alone() {
    let budget = ByteSemaphore::new(10);
    let large = poll(&mut budget.acquire(1_000)).expect("something is left");
    let mut next = budget.acquire(1);
    assert!(poll(&mut next).is_none());
    assert_eq!(budget.taken(), 1_000);
    drop(large);
    let _next = poll(&mut next).expect("all came back");
    assert_eq!(budget.taken(), 1);
}

#[test]
fn first_waiter_for_bytes_is_not_overtaken_and_can_be_dropped() {
    let budget = ByteSemaphore::new(10);
    let holder = poll(&mut budget.acquire(10)).expect("empty");
    let (mut first, mut second) = (budget.acquire(10), budget.acquire(1));
    assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
    drop(holder);
    assert!(
        poll(&mut second).is_none(),
        "it is the turn of the first waiter"
    );
    assert_eq!(
        budget.taken(),
        10,
        "the bytes are granted although the waiter is not polled"
    );
    drop(first);
    drop(poll(&mut second).expect("it is its turn"));
    assert_eq!(budget.taken(), 0);
}

#[test]
fn request_for_zero_bytes_is_admitted_at_once() {
    let budget = ByteSemaphore::new(10);
    let _holder = poll(&mut budget.acquire(10)).expect("empty");
    let mut waiting = budget.acquire(10);
    assert!(poll(&mut waiting).is_none());
    drop(poll(&mut budget.acquire(0)).expect("it takes nothing"));
    assert_eq!(budget.taken(), 10);
}
