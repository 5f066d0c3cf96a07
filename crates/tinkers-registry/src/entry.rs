//! Entries: a key, the number of references to it, and its value.

use std::hint::spin_loop;

use crate::contention::Counters;
use crate::lazy_value::LazyValue;
use crate::sync::{AtomicUsize, Ordering};

/// An entry of a registry's table: a key, the number of references to the entry, and the value of the key.
pub(crate) struct Entry<K, V> {
    pub(crate) key: K,
    /// The number of [`EntryRef`](crate::handle::EntryRef)s. Once the number is zero it stays zero, and the next call for the key creates a
    /// new entry.
    ///
    /// The number cannot overflow: each reference also holds an `Arc`, and the reference count of the `Arc` aborts the process earlier.
    refs: AtomicUsize,
    pub(crate) value: LazyValue<V>,
}

impl<K, V> Entry<K, V> {
    pub(crate) fn with_one_ref(key: K) -> Self {
        Self {
            key,
            refs: AtomicUsize::new(1),
            value: LazyValue::empty(),
        }
    }

    /// Adds a reference to this entry. The caller must hold a reference already, so that the number of references is not zero.
    pub(crate) fn add_ref(&self) {
        // Relaxed: the caller's reference keeps the count above zero and the value in place.
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a reference unless the reference count is zero, which means that the entry is being removed. Returns whether a reference was
    /// added.
    pub(crate) fn try_add_ref(&self, counters: &Counters) -> bool {
        // Relaxed: the value is read through `LazyValue`, which orders its own reads, and this word alone decides
        // whether the value stays in place.
        let mut count = self.refs.load(Ordering::Relaxed);
        while count > 0 {
            match self.refs.compare_exchange_weak(
                count,
                count + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(actual) => count = actual,
            }
            counters.lost_exchanges();
            spin_loop();
        }
        counters.expired_entries();
        false
    }

    /// Removes a reference to this entry. Returns whether this was the last one; the caller must then remove the entry from the table.
    pub(crate) fn release_ref(&self) -> bool {
        // Release: a holder's use of the value happens before this. Acquire: it also happens before the drop of the
        // value by the last holder.
        self.refs.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn registry_entry_without_references_is_never_referenced_again() {
        let entry: Entry<u8, u8> = Entry::with_one_ref(1);
        let counters = Counters::default();
        assert!(entry.try_add_ref(&counters));
        assert!(!entry.release_ref());
        assert!(entry.release_ref());
        assert!(!entry.try_add_ref(&counters));
    }

    #[test]
    fn taking_the_value_leaves_the_registry_entry_empty() {
        let entry: Entry<u8, u8> = Entry::with_one_ref(1);
        let built = entry
            .value
            .get_or_build(|| Ok::<_, Infallible>(7), &Counters::default());
        assert!(built.is_ok());
        assert_eq!(entry.value.take().as_deref(), Some(&7));
        assert_eq!(entry.value.get(), None);
    }
}
