//! A FIFO semaphore of bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tinkers_core::BytesGuard;
use tinkers_core::user_code::wake_all;
use tinkers_limits::ByteBudget;

use crate::sync::{Mutex, lock};

/// A FIFO semaphore whose units are bytes: a future waits until it may take a number of bytes. Clones share one byte budget.
///
/// The budget is soft: while any bytes are left, the first waiting future takes all bytes that it asked for. So a request that is larger
/// than the whole budget passes, and the total exceeds the budget by at most one request.
#[derive(Debug, Clone)]
pub struct ByteSemaphore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    budget: ByteBudget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The waiting futures in FIFO order, each with the number of bytes that it asked for. If a future waits, no bytes are left.
    waiting: BTreeMap<u64, (u64, Waker)>,
    /// The bytes of futures that were served (have got their bytes) and have not been polled since.
    served: BTreeMap<u64, u64>,
    last_id: u64,
}

impl State {
    /// Gives waiting futures their bytes, in order, while bytes are left. Returns the wakers of these futures. The caller calls the wakers
    /// after it has released the lock.
    fn serve(&mut self, budget: &ByteBudget) -> Vec<Waker> {
        let mut served = Vec::new();
        while let Some(first) = self.waiting.first_entry()
            && budget.take(first.get().0).is_ok()
        {
            let (id, (bytes, waker)) = first.remove_entry();
            self.served.insert(id, bytes);
            served.push(waker);
        }
        served
    }
}

impl Shared {
    fn give_back(&self, bytes: u64) {
        let wakers = {
            let mut state = lock(&self.state);
            self.budget.release(bytes);
            state.serve(&self.budget)
        };
        wake_all(wakers);
    }
}

impl ByteSemaphore {
    /// Creates a semaphore with a budget of `bytes`, at least 1.
    pub fn new(bytes: u64) -> Self {
        let shared = Shared {
            budget: ByteBudget::new(bytes),
            state: Mutex::new(State::default()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Waits until bytes are left, and takes `bytes` bytes. Dropping the returned guard gives the bytes back.
    ///
    /// # Cancel safety
    /// A future that is dropped before it completes takes no bytes.
    pub fn acquire(&self, bytes: u64) -> AcquireBytes {
        AcquireBytes {
            shared: Arc::clone(&self.shared),
            bytes,
            id: None,
        }
    }

    /// Returns the number of bytes that are taken from the budget at present.
    pub fn taken(&self) -> u64 {
        self.shared.budget.taken()
    }
}

/// The future that [`ByteSemaphore::acquire`] returns.
pub struct AcquireBytes {
    shared: Arc<Shared>,
    bytes: u64,
    /// The position of the future in the queue. `None` if the future does not wait there.
    id: Option<u64>,
}

impl Future for AcquireBytes {
    type Output = BytesGuard;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BytesGuard> {
        let this = self.get_mut();
        let (bytes, waker) = (this.bytes, cx.waker().clone());
        let (is_served, replaced) = {
            let mut state = lock(&this.shared.state);
            let id = *this.id.get_or_insert_with(|| {
                state.last_id += 1;
                state.last_id
            });
            if state.served.remove(&id).is_some() {
                (true, None)
            } else if this.shared.budget.take(bytes).is_ok() {
                (true, state.waiting.remove(&id))
            } else {
                (false, state.waiting.insert(id, (bytes, waker)))
            }
        };
        // Wakers are user code, so the old waker is dropped without the lock.
        drop(replaced);
        if !is_served {
            return Poll::Pending;
        }
        this.id = None;
        let shared = Arc::clone(&this.shared);
        Poll::Ready(BytesGuard::new(move || shared.give_back(bytes)))
    }
}

impl Drop for AcquireBytes {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let (waiting, served) = {
            let mut state = lock(&self.shared.state);
            (state.waiting.remove(&id), state.served.remove(&id))
        };
        drop(waiting);
        if let Some(bytes) = served {
            self.shared.give_back(bytes);
        }
    }
}

impl fmt::Debug for AcquireBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireBytes")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;

    #[test]
    fn byte_semaphore_debug_output_shows_the_number_of_bytes() {
        let text = format!("{:?}", ByteSemaphore::new(2).acquire(7));
        assert_eq!(text, "AcquireBytes { bytes: 7, .. }");
    }
}
