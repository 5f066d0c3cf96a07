//! Faults of clients around the queue of admission: turns, nested requests, foreign code.

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

/// What the clients of a run with such a fault share.
#[derive(Debug, Default)]
pub struct OldTurns {
    /// How many samples that kept their permit in flight wait.
    with_flight: Mutex<u64>,
    none_with_flight: Notify,
    /// How many wake-ups are to be lost.
    lost: AtomicU64,
    lock: Mutex<()>,
}

impl OldTurns {
    /// A faulty client's next wake-up is lost.
    pub(crate) fn lose_a_wake_up(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the lock of a faulty client.
    pub(crate) fn look(&self) {
        drop(self.lock.lock());
    }

    fn with_flight(&self) -> MutexGuard<'_, u64> {
        self.with_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An admission with such a fault.
#[derive(Debug)]
pub(crate) struct OldQueue {
    pub(crate) inner: Arc<dyn Admission>,
    pub(crate) fault: Control,
    pub(crate) shared: Arc<OldTurns>,
}

impl Admission for OldQueue {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        match self.fault {
            Control::FlightsFirst if ask.class == RouteClass::Sample => self.flights_first(ask),
            Control::LostWakeUps => {
                let mut turn = self.inner.admit(ask);
                Box::pin(poll_fn(move |cx| {
                    let waker = Waker::from(Arc::new(Losing {
                        waker: cx.waker().clone(),
                        shared: Arc::clone(&self.shared),
                    }));
                    turn.as_mut().poll(&mut Context::from_waker(&waker))
                }))
            }
            Control::LockedSubscribers => {
                let mut turn = self.inner.admit(ask);
                Box::pin(poll_fn(move |cx| {
                    let _locked = self.shared.lock.lock();
                    turn.as_mut().poll(cx)
                }))
            }
            _ => self.inner.admit(ask),
        }
    }

    fn moved(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.moved(class)
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}

impl OldQueue {
    fn flights_first(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        let has_flight = ask.flight.as_ref().is_some_and(InFlightPermit::is_counted);
        let turn = self.inner.admit(ask);
        Box::pin(async move {
            if has_flight {
                let _counted = Counted::new(&self.shared);
                return turn.await;
            }
            loop {
                let none = self.shared.none_with_flight.notified();
                if *self.shared.with_flight() == 0 {
                    break;
                }
                none.await;
            }
            turn.await
        })
    }
}

/// A sample that kept its permit in flight and waits.
struct Counted<'a>(&'a OldTurns);

impl<'a> Counted<'a> {
    fn new(shared: &'a OldTurns) -> Self {
        *shared.with_flight() += 1;
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let left = {
            let mut count = self.0.with_flight();
            *count -= 1;
            *count
        };
        if left == 0 {
            self.0.none_with_flight.notify_waiters();
        }
    }
}

/// A waker that does not wake when one is to be lost.
struct Losing {
    waker: Waker,
    shared: Arc<OldTurns>,
}

impl Wake for Losing {
    fn wake(self: Arc<Self>) {
        let lost = &self.shared.lost;
        let is_lost = lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if is_lost.is_err() {
            self.waker.wake_by_ref();
        }
    }
}

impl fmt::Debug for Losing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Losing").finish_non_exhaustive()
    }
}
