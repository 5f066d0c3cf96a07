//! A read-mostly registry of shared values, whose entries live as long as they are used.
#![doc = include_str!("../README.md")]
//!
//! # Shared state and memory ordering
//!
//! | state | written by | read by | orderings | model in `tests/loom.rs` |
//! |---|---|---|---|---|
//! | the table: a sorted list that is replaced as a whole | creation and removal of entries, under the writers' mutex | every lookup, with one load | swap AcqRel or stronger, load Acquire or stronger (arc-swap's) | all |
//! | the reference count of an entry | incremented from above zero by lookups (compare-exchange) and clones (add); decremented by drops; stays zero once it is zero | the same | increment Relaxed; decrement AcqRel, so that all use of the value happens before its drop | `lookups_during_the_last_drop::registry_lookups_during_the_last_handle_drop_share_one_value`, `exactly_one_of_several_concurrent_handle_drops_removes_the_entry`, `registry_lookup_finds_a_live_value_or_none` |
//! | the value of an entry: none, then the value, then none | stored by the thread that builds it; removed by the holder of the last reference | holders of a reference | as the table | `concurrent_creation::concurrent_get_or_create_calls_build_a_value_once`, `lookups_during_the_last_drop::registry_lookups_during_the_last_handle_drop_share_one_value` |
//! | the building thread of an entry | the builder, under the mutex of the entry, which is not held during the build | waiters for the value, on a condition variable | the mutex's | `failed_build_lets_a_waiter_build_the_value` |
//! | contention counters | calls that met contention | tests | Relaxed; no decision depends on them | none needed |
//!
//! Two values of one key never have holders at the same time: the list is searched and replaced under one mutex and contains one
//! entry per key; an entry is replaced only when its reference count is zero, from which it never rises; and every holder of a
//! value holds a reference to the entry of that value.
//!
//! A value is dropped once, by the holder of the last reference, before that drop returns. A reader of an old list keeps entries
//! alive but no values, because it holds no reference and the value has been removed from the entry.
//!
//! The comparison of keys is the only user code that runs under a lock; it must not use the registry.

mod cell;
mod contention;
mod entry;
mod handle;
mod lazy_value;
mod registry;
mod sync;
mod table;

pub use contention::Contention;
pub use handle::Handle;
pub use registry::Registry;
