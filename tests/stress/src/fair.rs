//! A plain fair semaphore under one mutex, and the faults that can be put into it for the checks to find.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tinkers_core::{BoxFuture, ManualClock};

use crate::subject::{Counts, End, Held, Permit, Subject};

/// What is wrong with a semaphore.
pub trait Flaw: Send + Sync + Copy + Default + std::fmt::Debug + 'static {
    /// Its kind.
    const FAULT: Fault;
}

/// One thing that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Whoever is given up gives back twice, and the count stops at zero so that nobody sees it.
    ReleaseByCount,
    /// Whoever is given up after it was let in, and before it noticed, takes its unit along.
    HandOverForgotten,
    /// Whoever is given up at work takes its unit along.
    LeakOnAbort,
    /// One line for all clients.
    NoTurns,
    /// The last to come is the first to go.
    LastFirst,
    /// A hand-over wakes everybody.
    WakesAll,
}

/// Makes a type for each fault, so that a check can be generic over the subject.
macro_rules! flaws {
    ($($(#[$doc:meta])* $name:ident = $fault:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name;

        impl Flaw for $name {
            const FAULT: Fault = Fault::$fault;
        }
    )*};
}

flaws! {
    /// [`Fault::None`].
    Sound = None,
    /// [`Fault::ReleaseByCount`].
    ReleaseByCount = ReleaseByCount,
    /// [`Fault::HandOverForgotten`].
    HandOverForgotten = HandOverForgotten,
    /// [`Fault::LeakOnAbort`].
    LeakOnAbort = LeakOnAbort,
    /// [`Fault::NoTurns`].
    NoTurns = NoTurns,
    /// [`Fault::LastFirst`].
    LastFirst = LastFirst,
    /// [`Fault::WakesAll`].
    WakesAll = WakesAll,
}

/// First come, first served within a client, client by client in turn.
#[derive(Debug)]
pub struct Fair<F> {
    limit: u64,
    state: Mutex<State>,
    flaw: PhantomData<F>,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    lines: BTreeMap<u64, VecDeque<u64>>,
    turns: VecDeque<u64>,
    wakers: BTreeMap<u64, Waker>,
    granted: Vec<u64>,
    numbers: u64,
    counts: Counts,
}

impl State {
    fn pop(&mut self, fault: Fault) -> Option<u64> {
        let client = *self.turns.front()?;
        let line = self.lines.get_mut(&client)?;
        let number = if fault == Fault::LastFirst {
            line.pop_back()
        } else {
            line.pop_front()
        };
        let is_empty = line.is_empty();
        self.turns.rotate_left(1);
        if is_empty {
            self.lines.remove(&client);
            self.turns.retain(|other| *other != client);
        }
        number
    }

    fn serve(&mut self, limit: u64, fault: Fault) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.taken < limit {
            let Some(number) = self.pop(fault) else {
                break;
            };
            self.taken += 1;
            self.counts.grants += 1;
            self.granted.push(number);
            woken.extend(self.wakers.remove(&number));
            if fault == Fault::WakesAll {
                woken.extend(self.wakers.values().cloned());
            }
        }
        self.counts.wakes += woken.len() as u64;
        woken
    }

    fn leave(&mut self, number: u64) {
        self.wakers.remove(&number);
        for line in self.lines.values_mut() {
            line.retain(|other| *other != number);
        }
        self.lines.retain(|_, line| !line.is_empty());
        let lines = &self.lines;
        self.turns.retain(|client| lines.contains_key(client));
    }
}

impl<F: Flaw> Fair<F> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, times: u64) {
        let woken = {
            let mut state = self.lock();
            state.taken = state.taken.saturating_sub(times);
            state.serve(self.limit, F::FAULT)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl<F: Flaw> Subject for Fair<F> {
    type Permit = Unit<F>;

    fn new(limit: u32, _: ManualClock) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            state: Mutex::default(),
            flaw: PhantomData,
        })
    }

    fn acquire(self: &Arc<Self>, client: u64, (): ()) -> BoxFuture<'static, Unit<F>> {
        Box::pin(Turn {
            of: Arc::clone(self),
            client,
            number: None,
        })
    }

    fn held(&self) -> Held {
        let state = self.lock();
        Held {
            slots: state.taken,
            waiting: state.wakers.len() as u64,
            uncollected: state.granted.len() as u64,
            ..Held::default()
        }
    }

    fn limit(&self) -> u64 {
        self.limit
    }

    fn counts(&self) -> Option<Counts> {
        Some(self.lock().counts)
    }
}

struct Turn<F: Flaw> {
    of: Arc<Fair<F>>,
    client: u64,
    number: Option<u64>,
}

impl<F: Flaw> Future for Turn<F> {
    type Output = Unit<F>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Unit<F>> {
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
            let client = if F::FAULT == Fault::NoTurns {
                0
            } else {
                self.client
            };
            let line = state.lines.entry(client).or_default();
            let is_first = line.is_empty();
            line.push_back(number);
            if is_first {
                state.turns.push_back(client);
            }
            state.wakers.insert(number, cx.waker().clone());
            self.number = Some(number);
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(Unit { of: Some(of) })
    }
}

impl<F: Flaw> Drop for Turn<F> {
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
        if F::FAULT != Fault::HandOverForgotten {
            self.of.release(1);
        }
    }
}

/// One unit.
#[derive(Debug)]
pub struct Unit<F: Flaw> {
    of: Option<Arc<Fair<F>>>,
}

impl<F: Flaw> Permit for Unit<F> {
    type Kept = ();

    fn end(mut self, _: End) {
        if let Some(of) = self.of.take() {
            of.release(1);
        }
    }
}

impl<F: Flaw> Drop for Unit<F> {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.release(match F::FAULT {
                Fault::LeakOnAbort => 0,
                Fault::ReleaseByCount => 2,
                _ => 1,
            });
        }
    }
}
