//! Bugs of the admission queue: unfair retries, lost wake-ups, and log subscribers that run under a lock.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, Error, InFlightPermit, RouteClass, Timestamp,
};
use tokio::sync::Notify;

use crate::control::Control;

/// The state that the faulty admission queues of all clients in a run share.
#[derive(Debug, Default)]
pub struct FaultyQueueState {
    /// The number of retries of samples that wait for admission. A sample is a retry if it already
    /// holds an in-flight permit (one unit of the limit of requests in flight).
    waiting_retries: Mutex<u64>,
    no_waiting_retries: Notify,
    /// The number of wake-ups that [`LossyWaker`] still has to drop instead of forwarding them to a
    /// waiting task.
    lost_wake_ups: AtomicU64,
    lock: Mutex<()>,
}

impl FaultyQueueState {
    /// Makes the admission queue drop the next wake-up, so that a waiting task is not woken. Has an
    /// effect only with [`Control::LostWakeUps`].
    pub(crate) fn lose_next_wake_up(&self) {
        self.lost_wake_ups.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the admission queue is not locked. With [`Control::SubscribersUnderLock`], the
    /// queue is locked while log subscribers run, so a subscriber that waits for this function
    /// deadlocks.
    pub(crate) fn wait_for_lock(&self) {
        drop(self.lock.lock());
    }

    fn waiting_retries(&self) -> MutexGuard<'_, u64> {
        let count = self.waiting_retries.lock();
        count.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wrapper around the [`Admission`] of the rate limiter that adds the bug of the negative control
/// `control` to its queue.
#[derive(Debug)]
pub(crate) struct FaultyQueue {
    pub(crate) inner: Arc<dyn Admission>,
    pub(crate) control: Control,
    pub(crate) state: Arc<FaultyQueueState>,
}

impl Admission for FaultyQueue {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        match self.control {
            Control::UnfairRetries if request.class == RouteClass::Sample => {
                self.admit_retries_first(request)
            }
            Control::LostWakeUps => {
                let mut admission = self.inner.admit(request);
                Box::pin(poll_fn(move |cx| {
                    let waker = Waker::from(Arc::new(LossyWaker {
                        waker: cx.waker().clone(),
                        state: Arc::clone(&self.state),
                    }));
                    admission.as_mut().poll(&mut Context::from_waker(&waker))
                }))
            }
            Control::SubscribersUnderLock => {
                let mut admission = self.inner.admit(request);
                Box::pin(poll_fn(move |cx| {
                    let _guard = self.state.lock.lock();
                    admission.as_mut().poll(cx)
                }))
            }
            _ => self.inner.admit(request),
        }
    }

    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.last_queue_progress(class)
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}

impl FaultyQueue {
    fn admit_retries_first(
        &self,
        request: AdmissionRequest,
    ) -> BoxFuture<'_, Result<Admitted, Error>> {
        let permit = request.in_flight_permit.as_ref();
        let is_retry = permit.is_some_and(InFlightPermit::is_counted);
        let admission = self.inner.admit(request);
        Box::pin(async move {
            if is_retry {
                let _guard = WaitingRetry::new(&self.state);
                return admission.await;
            }
            loop {
                let notified = self.state.no_waiting_retries.notified();
                if *self.state.waiting_retries() == 0 {
                    break;
                }
                notified.await;
            }
            admission.await
        })
    }
}

/// A guard for the retry of a sample that waits for admission. The retry counts as waiting until
/// the guard is dropped.
struct WaitingRetry<'a>(&'a FaultyQueueState);

impl<'a> WaitingRetry<'a> {
    fn new(state: &'a FaultyQueueState) -> Self {
        *state.waiting_retries() += 1;
        Self(state)
    }
}

impl Drop for WaitingRetry<'_> {
    fn drop(&mut self) {
        let remaining = {
            let mut count = self.0.waiting_retries();
            *count -= 1;
            *count
        };
        if remaining == 0 {
            self.0.no_waiting_retries.notify_waiters();
        }
    }
}

/// A waker that drops wake-ups until it has dropped the number in
/// `FaultyQueueState::lost_wake_ups`, and forwards all others to the task.
struct LossyWaker {
    waker: Waker,
    state: Arc<FaultyQueueState>,
}

impl Wake for LossyWaker {
    fn wake(self: Arc<Self>) {
        let lost = &self.state.lost_wake_ups;
        let is_lost = lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if is_lost.is_err() {
            self.waker.wake_by_ref();
        }
    }
}

impl fmt::Debug for LossyWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyWaker").finish_non_exhaustive()
    }
}
