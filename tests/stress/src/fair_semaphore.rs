//! A fair semaphore under one mutex. It can have a defect, which the checks must detect.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tinkers_core::{BoxFuture, ManualClock};

use crate::subject::{Counts, HeldResources, Permit, PermitOutcome, Subject};

/// A type that selects a bug of the semaphore at compile time. The bug is a negative control: the
/// stress checks must find it.
pub trait SelectDefect: Send + Sync + Copy + Default + std::fmt::Debug + 'static {
    /// The selected bug.
    const DEFECT: Defect;
}

/// A bug that can be built into the semaphore as a negative control: the stress checks must find
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The semaphore has no bug.
    None,
    /// A dropped permit is released twice, so that more permits than the limit can be held.
    DoubleRelease,
    /// A permit is never released if it is granted to a waiter that is dropped before it is polled
    /// again.
    LostGrant,
    /// A permit that is dropped, for example by an abort, is never released.
    LeakOnDrop,
    /// All clients share one queue, so they are not admitted in turn.
    SharedQueue,
    /// The waiter that arrived last is admitted first (last in, first out).
    Lifo,
    /// Each admission wakes all queued waiters, instead of only the admitted one.
    WakeAll,
}

/// Defines, for each bug, a type that selects the bug as a type parameter of the semaphore.
macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident = $defect:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name;

        impl SelectDefect for $name {
            const DEFECT: Defect = Defect::$defect;
        }
    )*};
}

defects! {
    /// Selects [`Defect::None`], a semaphore without a bug.
    Correct = None,
    /// Selects [`Defect::DoubleRelease`], with which a dropped permit is released twice.
    DoubleRelease = DoubleRelease,
    /// Selects [`Defect::LostGrant`], with which a permit is never released if its waiter is
    /// dropped between the grant and the next poll.
    LostGrant = LostGrant,
    /// Selects [`Defect::LeakOnDrop`], with which a dropped permit is never released.
    LeakOnDrop = LeakOnDrop,
    /// Selects [`Defect::SharedQueue`], with which all clients share one queue and are not admitted
    /// in turn.
    SharedQueue = SharedQueue,
    /// Selects [`Defect::Lifo`], with which the waiter that arrived last is admitted first.
    Lifo = Lifo,
    /// Selects [`Defect::WakeAll`], with which each admission wakes all queued waiters.
    WakeAll = WakeAll,
}

/// A simple semaphore that serves as a limiter under test. It admits the waiters of a client in
/// FIFO order, and the clients in turn. `F` selects a bug.
#[derive(Debug)]
pub struct FairSemaphore<F> {
    limit: u64,
    state: Mutex<State>,
    defect: PhantomData<F>,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    queues: BTreeMap<u64, VecDeque<u64>>,
    turns: VecDeque<u64>,
    wakers: BTreeMap<u64, Waker>,
    granted: Vec<u64>,
    numbers: u64,
    counts: Counts,
}

impl State {
    fn pop(&mut self, defect: Defect) -> Option<u64> {
        let client = *self.turns.front()?;
        let queue = self.queues.get_mut(&client)?;
        let number = if defect == Defect::Lifo {
            queue.pop_back()
        } else {
            queue.pop_front()
        };
        let is_empty = queue.is_empty();
        self.turns.rotate_left(1);
        if is_empty {
            self.queues.remove(&client);
            self.turns.retain(|other| *other != client);
        }
        number
    }

    fn serve(&mut self, limit: u64, defect: Defect) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.taken < limit {
            let Some(number) = self.pop(defect) else {
                break;
            };
            self.taken += 1;
            self.counts.grants += 1;
            self.granted.push(number);
            woken.extend(self.wakers.remove(&number));
            if defect == Defect::WakeAll {
                woken.extend(self.wakers.values().cloned());
            }
        }
        self.counts.wakes += woken.len() as u64;
        woken
    }

    fn leave(&mut self, number: u64) {
        self.wakers.remove(&number);
        for queue in self.queues.values_mut() {
            queue.retain(|other| *other != number);
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        let queues = &self.queues;
        self.turns.retain(|client| queues.contains_key(client));
    }
}

impl<F: SelectDefect> FairSemaphore<F> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, times: u64) {
        let woken = {
            let mut state = self.lock();
            state.taken = state.taken.saturating_sub(times);
            state.serve(self.limit, F::DEFECT)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl<F: SelectDefect> Subject for FairSemaphore<F> {
    type Permit = SemaphorePermit<F>;

    fn new(limit: u32, _: ManualClock) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            state: Mutex::default(),
            defect: PhantomData,
        })
    }

    fn acquire(self: &Arc<Self>, client: u64, (): ()) -> BoxFuture<'static, SemaphorePermit<F>> {
        Box::pin(Acquire {
            of: Arc::clone(self),
            client,
            number: None,
        })
    }

    fn held(&self) -> HeldResources {
        let state = self.lock();
        HeldResources {
            slots: state.taken,
            waiting: state.wakers.len() as u64,
            uncollected: state.granted.len() as u64,
            ..HeldResources::default()
        }
    }

    fn limit(&self) -> u64 {
        self.limit
    }

    fn counts(&self) -> Option<Counts> {
        Some(self.lock().counts)
    }
}

struct Acquire<F: SelectDefect> {
    of: Arc<FairSemaphore<F>>,
    client: u64,
    number: Option<u64>,
}

impl<F: SelectDefect> Future for Acquire<F> {
    type Output = SemaphorePermit<F>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SemaphorePermit<F>> {
        let of = Arc::clone(&self.of);
        let mut state = of.lock();
        if let Some(number) = self.number {
            let Some(at) = state.granted.iter().position(|other| *other == number) else {
                state.wakers.insert(number, cx.waker().clone());
                return Poll::Pending;
            };
            state.granted.swap_remove(at);
            self.number = None;
        } else if state.turns.is_empty() && state.taken < of.limit {
            state.taken += 1;
            state.counts.grants += 1;
        } else {
            state.numbers += 1;
            state.counts.waits += 1;
            let number = state.numbers;
            let client = if F::DEFECT == Defect::SharedQueue {
                0
            } else {
                self.client
            };
            let queue = state.queues.entry(client).or_default();
            let is_first = queue.is_empty();
            queue.push_back(number);
            if is_first {
                state.turns.push_back(client);
            }
            state.wakers.insert(number, cx.waker().clone());
            self.number = Some(number);
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(SemaphorePermit { of: Some(of) })
    }
}

impl<F: SelectDefect> Drop for Acquire<F> {
    fn drop(&mut self) {
        let Some(number) = self.number else {
            return;
        };
        let mut state = self.of.lock();
        let Some(at) = state.granted.iter().position(|other| *other == number) else {
            state.leave(number);
            return;
        };
        state.granted.swap_remove(at);
        drop(state);
        if F::DEFECT != Defect::LostGrant {
            self.of.release(1);
        }
    }
}

/// A permit of a [`FairSemaphore`].
#[derive(Debug)]
pub struct SemaphorePermit<F: SelectDefect> {
    of: Option<Arc<FairSemaphore<F>>>,
}

impl<F: SelectDefect> Permit for SemaphorePermit<F> {
    type RetryState = ();

    fn end(mut self, _: PermitOutcome) {
        if let Some(of) = self.of.take() {
            of.release(1);
        }
    }
}

impl<F: SelectDefect> Drop for SemaphorePermit<F> {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.release(match F::DEFECT {
                Defect::LeakOnDrop => 0,
                Defect::DoubleRelease => 2,
                _ => 1,
            });
        }
    }
}
