//! One entry: its key, how many hold it, and the place of its value.

use std::hint::spin_loop;

use crate::collisions::Counters;
use crate::slot::Slot;
use crate::sync::{AtomicUsize, Ordering};

pub(crate) struct Node<K, V> {
    pub(crate) key: K,
    /// Tickets given out. Once zero it stays zero: whoever asks for the key after that gets a node of their own.
    ///
    /// It cannot overflow before the count of the `Arc` that each ticket holds, which aborts.
    tickets: AtomicUsize,
    pub(crate) slot: Slot<V>,
}

impl<K, V> Node<K, V> {
    pub(crate) fn with_one_ticket(key: K) -> Self {
        Self {
            key,
            tickets: AtomicUsize::new(1),
            slot: Slot::empty(),
        }
    }

    /// One ticket more, for somebody who holds one already.
    pub(crate) fn grow(&self) {
        // Relaxed: the ticket at hand keeps the count above zero and the value where it is.
        self.tickets.fetch_add(1, Ordering::Relaxed);
    }

    /// One ticket more, unless the last is gone.
    pub(crate) fn grow_unless_gone(&self, counters: &Counters) -> bool {
        // Relaxed: all that the ticket leads to is read through the slot, which orders its own reads; that the value is
        // not taken away before is a matter of this one word.
        let mut seen = self.tickets.load(Ordering::Relaxed);
        while seen > 0 {
            match self.tickets.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
            counters.overtaken();
            spin_loop();
        }
        counters.departed();
        false
    }

    /// One ticket less; whether it was the last.
    pub(crate) fn shrink(&self) -> bool {
        // Release: what a holder did with the value comes before this. Acquire: and so before what the last one does next,
        // which is to drop the value.
        self.tickets.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
