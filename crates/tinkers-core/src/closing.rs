//! The close signal of a client, which fails all calls that the server has not accepted.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::Error;
use crate::user_code::wake_all;

/// A one-time signal that a client is closed. It carries the error that all later calls return.
///
/// A session shares the signal with every [`Caller`](crate::Caller) that sends for it. Closing the signal wakes all waiting calls, and none
/// of them sends anything afterwards.
#[derive(Debug, Default)]
pub struct CloseSignal {
    reason: OnceLock<Error>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// The id of the latest [`CloseWatch`] that waits for the close. The first one has id 1.
    last_id: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl CloseSignal {
    /// Closes the signal. `reason` is the error that calls return from now on. Returns whether the signal was open; if it was closed
    /// already, the first reason stays.
    pub fn close(&self, reason: Error) -> bool {
        let wakers = {
            // Set the reason and take the wakers under one lock: a waiter is either among the wakers, or sees the reason when
            // it registers.
            let mut waiters = self.lock();
            if self.reason.set(reason).is_err() {
                return false;
            }
            std::mem::take(&mut waiters.wakers)
        };
        // Wakers are user code, so they run without the lock.
        wake_all(wakers.into_values());
        true
    }

    /// Checks that the signal is open.
    ///
    /// # Errors
    /// If the signal is closed, returns the error that was given as the reason of the close.
    pub fn check(&self) -> Result<(), Error> {
        match self.reason.get() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Runs `work` until it completes or the signal is closed. `work` is not polled after the close.
    ///
    /// # Errors
    /// If the signal is closed before `work` completes, returns the error that was given as the reason of the close.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = T> + Send) -> Result<T, Error> {
        let mut work = pin!(work);
        let mut closed = self.watch();
        poll_fn(|cx| match closed.poll(cx) {
            Poll::Ready(reason) => Poll::Ready(Err(reason)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// Returns a [`CloseWatch`], with which a future waits until the signal is closed. The first poll of the watch registers it with the
    /// signal.
    pub(crate) fn watch(&self) -> CloseWatch<'_> {
        CloseWatch {
            signal: self,
            id: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one-time decision whether an attempt of a submission is sent. The transport decides that it is sent. A caller that gives up the call
/// decides that it is never sent (retracted).
#[derive(Debug)]
pub(crate) struct SendDecision {
    closing: Arc<CloseSignal>,
    /// [`WAITING`] at first. Later [`SENT`] if the attempt is sent, or [`RETRACTED`] if it is never sent.
    state: AtomicU8,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const RETRACTED: u8 = 2;

impl SendDecision {
    pub(crate) fn new(closing: &Arc<CloseSignal>) -> Arc<Self> {
        Arc::new(Self {
            closing: Arc::clone(closing),
            state: AtomicU8::new(WAITING),
        })
    }

    /// Decides that the attempt is sent, unless it was decided before that the attempt is never sent, or the client is closed. Returns
    /// whether the transport may send it.
    pub(crate) fn mark_sent(&self) -> bool {
        self.closing.check().is_ok() && self.settle(SENT) == SENT
    }

    /// Decides that the attempt is never sent. Returns `false` if it was sent before.
    pub(crate) fn retract(&self) -> bool {
        self.settle(RETRACTED) == RETRACTED
    }

    /// Makes `wanted` the final state of this decision, unless the decision was made before. Returns the final state.
    fn settle(&self, wanted: u8) -> u8 {
        let settled =
            (self.state).compare_exchange(WAITING, wanted, Ordering::AcqRel, Ordering::Acquire);
        settled.map_or_else(|other| other, |_| wanted)
    }
}

/// The registration of a future that waits until a [`CloseSignal`] is closed. Dropping the registration removes it from the signal.
#[derive(Debug)]
pub(crate) struct CloseWatch<'a> {
    signal: &'a CloseSignal,
    id: Option<u64>,
}

impl CloseWatch<'_> {
    /// Returns `Ready` with the error that was given as the reason of the close once the signal is closed.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Error> {
        // The waker is cloned and dropped without the lock, since wakers are user code.
        let waker = cx.waker().clone();
        let replaced = {
            let mut waiters = self.signal.lock();
            // Checked under the lock, so that the signal cannot close between this check and the registration.
            if let Err(reason) = self.signal.check() {
                return Poll::Ready(reason);
            }
            let id = *self.id.get_or_insert_with(|| {
                waiters.last_id += 1;
                waiters.last_id
            });
            waiters.wakers.insert(id, waker)
        };
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for CloseWatch<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let waker = self.signal.lock().wakers.remove(&id);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::user_code::tests::Count;
    use std::future::{pending, ready};
    use std::task::Wake;

    #[test]
    fn close_signal_wakes_each_waiter_once_with_an_error() {
        let signal = CloseSignal::default();
        let (count, mut waits) = (Arc::new(Count::default()), Vec::new());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            let mut wait = Box::pin(signal.unless_closed(pending::<()>()));
            assert!(wait.as_mut().poll(&mut cx).is_pending());
            assert!(wait.as_mut().poll(&mut cx).is_pending(), "a spurious poll");
            waits.push(wait);
        }
        waits.pop();
        assert_eq!(signal.lock().wakers.len(), 2, "a dropped waiter is removed");
        assert!(signal.close(Error::closed()));
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        for wait in &mut waits {
            let Poll::Ready(Err(error)) = wait.as_mut().poll(&mut cx) else {
                panic!("it ends");
            };
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }

    #[test]
    fn close_signal_wakes_all_waiters_even_if_a_waker_panics() {
        let signal = CloseSignal::default();
        let count = Arc::new(Count::default());
        let good = Waker::from(Arc::clone(&count));
        let bad = Waker::from(Arc::new(Panics));
        let mut waits = Vec::new();
        for waker in [&good, &bad, &good] {
            let mut wait = Box::pin(signal.unless_closed(pending::<()>()));
            let polled = wait.as_mut().poll(&mut Context::from_waker(waker));
            assert!(polled.is_pending());
            waits.push(wait);
        }
        assert!(signal.close(Error::closed()), "close returns normally");
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn closed_signal_ends_a_future_even_if_the_future_is_ready() {
        let signal = CloseSignal::default();
        let mut cx = Context::from_waker(Waker::noop());
        let done = pin!(signal.unless_closed(ready(1))).poll(&mut cx);
        assert!(matches!(done, Poll::Ready(Ok(1))));
        assert!(signal.lock().wakers.is_empty());
        signal.close(Error::closed());
        let done = pin!(signal.unless_closed(ready(1))).poll(&mut cx);
        assert!(matches!(done, Poll::Ready(Err(_))));
    }

    #[test]
    fn submission_attempt_is_either_sent_or_retracted() {
        let signal = Arc::default();
        let send_decision = SendDecision::new(&signal);
        assert!(
            send_decision.mark_sent() && send_decision.mark_sent(),
            "sent again on another connection"
        );
        assert!(!send_decision.retract());
        let send_decision = SendDecision::new(&signal);
        assert!(send_decision.retract() && send_decision.retract());
        assert!(!send_decision.mark_sent());
        let send_decision = SendDecision::new(&signal);
        signal.close(Error::closed());
        assert!(!send_decision.mark_sent());
        assert!(send_decision.retract());
    }

    #[test]
    fn second_close_keeps_the_reason_of_the_first_close() {
        let signal = CloseSignal::default();
        signal.check().expect("open");
        assert!(signal.close(Error::closed()));
        let other = Error::new(ErrorKind::Aborted, crate::Sent::NotSent, "later");
        assert!(!signal.close(other));
        assert_eq!(signal.check().unwrap_err().kind(), ErrorKind::Closed);
    }
}
