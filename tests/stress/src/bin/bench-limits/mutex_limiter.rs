//! A limiter with the same limits and queue as the limiter of tinkers, but with all of its state
//! under one mutex.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::contenders::Contender;

/// A limiter that keeps all of its state under one mutex, as a simple design with which the
/// benchmark compares the limiter of the client library.
#[derive(Clone)]
pub(crate) struct MutexLimiter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    limit: u32,
    slots: u32,
    in_flight: u32,
    bytes: i64,
    is_closed: bool,
    epoch: u16,
    queue: VecDeque<u64>,
    wakers: BTreeMap<u64, Waker>,
    granted: BTreeMap<u64, u16>,
    numbers: u64,
    accepted: u64,
}

const BYTES: i64 = 100;

impl State {
    fn take(&mut self) -> Option<u16> {
        let is_available = !self.is_closed
            && self.slots < self.limit
            && self.in_flight < self.limit
            && self.bytes > 0;
        if !is_available {
            return None;
        }
        self.slots += 1;
        self.in_flight += 1;
        self.bytes -= BYTES;
        Some(self.epoch)
    }

    fn serve(&mut self) -> Option<Waker> {
        let number = *self.queue.front()?;
        let epoch = self.take()?;
        self.queue.pop_front();
        self.granted.insert(number, epoch);
        self.wakers.remove(&number)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A permit of [`MutexLimiter`]. It holds a send slot (until the server responds) and an in-flight
/// permit (until the result arrives).
pub(crate) struct MutexPermit {
    of: Arc<Mutex<State>>,
    epoch: u16,
}

impl Contender for MutexLimiter {
    type Permit = MutexPermit;

    fn new(limit: u32) -> Self {
        let state = State {
            limit,
            bytes: 1 << 30,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    async fn acquire(&self) -> MutexPermit {
        let turn = Acquire {
            of: Arc::clone(&self.0),
            number: None,
        };
        turn.await
    }

    /// Releases the send slot and then, in a second step, the in-flight permit. In a real call, the
    /// response to the submission releases the send slot, and the result of the operation releases
    /// the in-flight permit.
    fn release(held: MutexPermit) {
        let mut state = lock(&held.of);
        state.slots -= 1;
        state.bytes += BYTES;
        state.accepted += u64::from(state.epoch == held.epoch);
        let woken = state.serve();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        let mut state = lock(&held.of);
        state.in_flight -= 1;
        let woken = state.serve();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

struct Acquire {
    of: Arc<Mutex<State>>,
    number: Option<u64>,
}

impl Future for Acquire {
    type Output = MutexPermit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<MutexPermit> {
        let of = Arc::clone(&self.of);
        let mut state = lock(&of);
        let taken = match self.number {
            Some(number) => state.granted.remove(&number),
            None if state.queue.is_empty() => state.take(),
            None => None,
        };
        if let Some(epoch) = taken {
            drop(state);
            return Poll::Ready(MutexPermit { of, epoch });
        }
        let number = self.number.unwrap_or_else(|| {
            state.numbers += 1;
            let number = state.numbers;
            state.queue.push_back(number);
            number
        });
        state.wakers.insert(number, cx.waker().clone());
        drop(state);
        self.number = Some(number);
        Poll::Pending
    }
}
