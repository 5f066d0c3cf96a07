//! A budget of bytes that is waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tinkers_core::{BytesGuard, Moment};

use crate::pool::{Demand, Entry, Pool, Turn};
use crate::queue::{Place, Rank};
use crate::settings::LaneSettings;

/// Bytes that are taken for a while, first come, first served. Clones are the same budget.
///
/// It is soft: who is at the head is served while anything is left, and charged in full. So what is larger than the whole
/// budget passes, and the total overshoots by one at most.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    pool: Arc<Pool>,
}

impl ByteBudget {
    /// A budget of `bytes`, at least 1.
    pub fn new(bytes: u64) -> Self {
        let settings = LaneSettings {
            slots: u64::MAX,
            bytes: Some(bytes),
            flights: None,
        };
        Self {
            pool: Arc::new(Pool::new(settings)),
        }
    }

    /// Waits until `bytes` may be taken; the guard gives them back. Cancel-safe: dropped, it has taken nothing.
    pub fn acquire(&self, bytes: u64) -> Acquire {
        Acquire {
            pool: Arc::clone(&self.pool),
            bytes,
            place: None,
        }
    }

    /// How many bytes are taken now.
    pub fn taken(&self) -> u64 {
        self.pool.usage().bytes
    }
}

/// The wait of [`ByteBudget::acquire`].
pub struct Acquire {
    pool: Arc<Pool>,
    bytes: u64,
    place: Option<Place>,
}

impl Future for Acquire {
    type Output = BytesGuard;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<BytesGuard> {
        let this = self.get_mut();
        let bytes = this.bytes;
        let entry = Entry {
            rank: Rank::New,
            deadline: None,
            demand: Demand { bytes, flights: 0 },
        };
        match this
            .pool
            .turn(&mut this.place, entry, cx.waker(), || Ok::<(), Moment>(()))
        {
            Turn::Served(()) => {
                let pool = Arc::clone(&this.pool);
                Poll::Ready(BytesGuard::new(move || pool.end_attempt(bytes)))
            }
            Turn::Wait | Turn::Closed(_) => Poll::Pending,
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.pool.leave(place);
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
