//! A value that concurrent requests share, and that one of them at a time fetches. The loom models in `tests/loom.rs` check it in all
//! interleavings.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use tinkers_core::user_code::wake_all;

use crate::sync::{Mutex, lock};

/// A value of type `T` that any number of requests use, and that at most one request at a time fetches. A request that needs a new value
/// calls [`Self::turn`], which returns the value, the error of the fetch for which it waited, or the permission to fetch.
pub(crate) struct SingleFlight<T, E> {
    state: Mutex<State<T, E>>,
}

struct State<T, E> {
    value: Option<T>,
    /// The number of fetches that have ended.
    ended: u64,
    /// The error of the last fetch, if it failed.
    error: Option<E>,
    is_fetching: bool,
    /// Whether the background refresh waits for the next successful fetch.
    is_refresh_stopped: bool,
    /// The wakers of the requests that wait for the current fetch. All are woken when it ends.
    waiters: BTreeMap<u64, Waker>,
    next_waiter: u64,
}

/// What a request has to do to get a value.
pub(crate) enum Turn<'a, T, E> {
    /// Use this value.
    Value(T),
    /// Fail, since the fetch of another request has failed while this request waited for it.
    Failed(E),
    /// Fetch a new value. No other request fetches meanwhile.
    Fetch(Fetch<'a, T, E>),
}

/// The permission to fetch a value. Dropping it without an outcome passes the permission on to a waiting request.
pub(crate) struct Fetch<'a, T, E> {
    flight: &'a SingleFlight<T, E>,
    has_ended: bool,
}

/// The state of a request that calls [`SingleFlight::turn`]. Dropping it removes the waker of the request.
struct Waiter<'a, T, E> {
    flight: &'a SingleFlight<T, E>,
    id: Option<u64>,
    /// The number of fetches that had ended when the request began to wait.
    ended_before: Option<u64>,
}

impl<T: Clone + Send + Sync, E: Clone + Send + Sync> SingleFlight<T, E> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                value: None,
                ended: 0,
                error: None,
                is_fetching: false,
                is_refresh_stopped: false,
                waiters: BTreeMap::new(),
                next_waiter: 0,
            }),
        }
    }

    /// Returns the value if it is usable. Otherwise waits for the fetch of another request, or returns the permission to fetch. A request
    /// that has waited for a fetch gets its outcome, even if the new value is not usable, and never fetches a second time for it.
    pub(crate) async fn turn(
        &self,
        is_usable: impl Fn(&T) -> bool + Send + Sync,
    ) -> Turn<'_, T, E> {
        let mut waiter = Waiter {
            flight: self,
            id: None,
            ended_before: None,
        };
        poll_fn(|context| self.poll_turn(&mut waiter, &is_usable, context)).await
    }

    fn poll_turn(
        &self,
        waiter: &mut Waiter<'_, T, E>,
        is_usable: impl Fn(&T) -> bool,
        context: &mut Context<'_>,
    ) -> Poll<Turn<'_, T, E>> {
        let mut state = lock(&self.state);
        if let Some(value) = state.value.as_ref().filter(|value| is_usable(value)) {
            return Poll::Ready(Turn::Value(value.clone()));
        }
        let ended_before = *waiter.ended_before.get_or_insert(state.ended);
        if state.ended != ended_before {
            // A fetch has ended since this request began to wait. Another may have begun.
            match (&state.error, &state.value) {
                (Some(error), _) => return Poll::Ready(Turn::Failed(error.clone())),
                (None, Some(value)) => return Poll::Ready(Turn::Value(value.clone())),
                (None, None) => {}
            }
        }
        if state.is_fetching {
            let next = state.next_waiter;
            let id = *waiter.id.get_or_insert(next);
            state.next_waiter = next.max(id + 1);
            state.waiters.insert(id, context.waker().clone());
            return Poll::Pending;
        }
        state.is_fetching = true;
        drop(state);
        Poll::Ready(Turn::Fetch(Fetch {
            flight: self,
            has_ended: false,
        }))
    }

    /// Returns the current value, whether it is usable or not.
    pub(crate) fn value(&self) -> Option<T> {
        lock(&self.state).value.clone()
    }

    /// Records that the background refresh stops until the next successful fetch, if `is_due` returns `true` for the current value. Returns
    /// whether it stops.
    pub(crate) fn stop_refresh(&self, is_due: impl FnOnce(Option<&T>) -> bool) -> bool {
        let mut state = lock(&self.state);
        state.is_refresh_stopped = is_due(state.value.as_ref());
        state.is_refresh_stopped
    }
}

impl<T: Clone, E: Clone> Fetch<'_, T, E> {
    /// Stores the outcome of the fetch, and wakes all waiting requests. Returns whether the background refresh had stopped and has to
    /// continue.
    pub(crate) fn end(mut self, outcome: Result<T, E>) -> bool {
        self.has_ended = true;
        let (waiters, resumes) = {
            let mut state = lock(&self.flight.state);
            state.ended += 1;
            let resumes = outcome.is_ok() && std::mem::take(&mut state.is_refresh_stopped);
            match outcome {
                Ok(value) => {
                    state.value = Some(value);
                    state.error = None;
                }
                Err(error) => state.error = Some(error),
            }
            (state.release(), resumes)
        };
        wake_all(waiters.into_values());
        resumes
    }
}

impl<T, E> State<T, E> {
    /// Permits the next fetch, and returns the requests to wake.
    fn release(&mut self) -> BTreeMap<u64, Waker> {
        self.is_fetching = false;
        std::mem::take(&mut self.waiters)
    }
}

impl<T, E> Drop for Waiter<'_, T, E> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // The waker is user code, so it is dropped without the lock.
            let waker = lock(&self.flight.state).waiters.remove(&id);
            drop(waker);
        }
    }
}

impl<T, E> Drop for Fetch<'_, T, E> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let waiters = lock(&self.flight.state).release();
        wake_all(waiters.into_values());
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;

    struct Idle;

    impl Wake for Idle {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn request_that_is_dropped_during_a_fetch_leaves_no_waker() {
        let flight = SingleFlight::<u64, u64>::new();
        let mut first = pin!(flight.turn(|_| false));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Turn::Fetch(fetch)) = first.as_mut().poll(&mut context) else {
            unreachable!("no other request fetches")
        };
        let idle = Arc::new(Idle);
        {
            let waker = Waker::from(Arc::clone(&idle));
            let mut waiting = pin!(flight.turn(|_| false));
            let mut context = Context::from_waker(&waker);
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(Arc::strong_count(&idle), 1);
        drop(fetch);
    }
}
