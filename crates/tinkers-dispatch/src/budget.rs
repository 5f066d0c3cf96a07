//! A budget of bytes that is waited for.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tinkers_core::BytesGuard;
use tinkers_core::contain::wake_all;

use crate::sync::{Mutex, lock};

/// Bytes that are taken for a while, first come, first served. Clones are the same budget.
///
/// It is soft: who is at the head is served while anything is left, and charged in full. So what is larger than the whole
/// budget passes, and the total overshoots by one at most.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: tinkers_limits::ByteBudget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who waits, in order, and those that were served and have not noticed yet.
    waiting: BTreeMap<u64, (u64, Waker)>,
    served: BTreeMap<u64, u64>,
    numbers: u64,
}

impl State {
    /// Serves who can be, in order. The wakers are to be called without the lock.
    fn serve(&mut self, budget: &tinkers_limits::ByteBudget) -> Vec<Waker> {
        let mut served = Vec::new();
        while let Some(first) = self.waiting.first_entry()
            && budget.take(first.get().0).is_ok()
        {
            let (number, (bytes, waker)) = first.remove_entry();
            self.served.insert(number, bytes);
            served.push(waker);
        }
        served
    }
}

impl Shared {
    fn give_back(&self, bytes: u64) {
        let woken = {
            let mut state = lock(&self.state);
            self.bytes.give_back(bytes);
            state.serve(&self.bytes)
        };
        wake_all(woken);
    }
}

impl ByteBudget {
    /// A budget of `bytes`, at least 1.
    pub fn new(bytes: u64) -> Self {
        let shared = Shared {
            bytes: tinkers_limits::ByteBudget::new(bytes),
            state: Mutex::new(State::default()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Waits until `bytes` may be taken; the guard gives them back. Cancel-safe: dropped, it has taken nothing.
    pub fn acquire(&self, bytes: u64) -> Acquire {
        Acquire {
            shared: Arc::clone(&self.shared),
            bytes,
            number: None,
        }
    }

    /// How many bytes are taken now.
    pub fn taken(&self) -> u64 {
        self.shared.bytes.taken()
    }
}

/// The wait of [`ByteBudget::acquire`].
pub struct Acquire {
    shared: Arc<Shared>,
    bytes: u64,
    number: Option<u64>,
}

impl Future for Acquire {
    type Output = BytesGuard;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BytesGuard> {
        let this = self.get_mut();
        let (bytes, waker) = (this.bytes, cx.waker().clone());
        let (is_served, old) = {
            let mut state = lock(&this.shared.state);
            let number = *this.number.get_or_insert_with(|| {
                state.numbers += 1;
                state.numbers
            });
            if state.served.remove(&number).is_some() {
                (true, None)
            } else if state.is_first(number) && this.shared.bytes.take(bytes).is_ok() {
                (true, state.waiting.remove(&number))
            } else {
                (false, state.waiting.insert(number, (bytes, waker)))
            }
        };
        drop(old);
        if !is_served {
            return Poll::Pending;
        }
        this.number = None;
        let shared = Arc::clone(&this.shared);
        Poll::Ready(BytesGuard::new(move || shared.give_back(bytes)))
    }
}

impl State {
    fn is_first(&self, number: u64) -> bool {
        self.waiting
            .first_key_value()
            .is_none_or(|(first, _)| *first >= number)
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(number) = self.number else {
            return;
        };
        let (gone, served) = {
            let mut state = lock(&self.shared.state);
            (state.waiting.remove(&number), state.served.remove(&number))
        };
        drop(gone);
        if let Some(bytes) = served {
            self.shared.give_back(bytes);
        }
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
