//! A keyed registry whose entries live as long as somebody uses them.
#![doc = include_str!("../README.md")]
//!
//! # What is shared, who touches it, and in what order
//!
//! | word | written by | read by | orderings | model in `tests/loom.rs` |
//! |---|---|---|---|---|
//! | the table: a sorted list that is replaced as a whole | whoever creates or removes an entry, under the writers' mutex | every look-up, with one load | swap AcqRel or stronger, load Acquire or stronger (arc-swap's) | all |
//! | an entry's tickets: how many hold it | up from above zero by a look-up (compare-exchange) and a clone (add); down by a drop (subtract); once zero it stays zero | the same | up Relaxed; down AcqRel, so that what holders did comes before the drop of the value | `two_that_ask_while_the_last_goes_…`, `of_clones_that_go_together_one_is_the_last`, `a_look_up_finds_a_value_that_stays_or_none` |
//! | an entry's value: none, then the value, then none | put in by the one whose turn it is to build; taken out by the one who gave up the last ticket | whoever has a ticket | as the table | `two_that_ask_build_once`, `two_that_ask_while_the_last_goes_…` |
//! | an entry's turn: who is building | whoever builds, under the entry's own mutex, not held during the build | those who wait for the value, on a condition variable | the mutex's | `a_builder_that_fails_…`, `a_builder_that_panics_…` |
//! | collision counters | calls that met another | tests | Relaxed; no decision depends on them | none needed |
//!
//! Two values of one key never have holders at the same time, for these reasons. The list has one entry for a key, since it
//! is searched and replaced under one mutex. An entry is put in place of another only when that one's tickets are zero, and
//! from zero they never rise. A value belongs to one entry, and whoever has it has a ticket of that entry.
//!
//! A value is dropped once, by the holder who gave up the last ticket, before that drop returns. A reader that still looks at
//! an old list keeps entries alive, but no values: it has no ticket, and the value was taken out of the entry.
//!
//! The order of keys is the only foreign code that runs under a lock; it must not use the registry.

mod cell;
mod collisions;
mod handle;
mod node;
mod registry;
mod slot;
mod sync;
mod table;

pub use collisions::Collisions;
pub use handle::Handle;
pub use registry::Registry;
