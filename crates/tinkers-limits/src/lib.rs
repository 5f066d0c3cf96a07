//! The rate-limit core of tinkers: decisions on atomics, without waiting and without a clock.
#![doc = include_str!("../README.md")]
//!
//! # What is shared, who touches it, and in what order
//!
//! Every word is loaded with Acquire and changed by one compare-exchange, AcqRel where it succeeds and Acquire where it does
//! not: whoever sees a change sees all that came before it. No decision rests on two words at once, except where the table
//! says why that is safe. The models are in `tests/`, run by `cargo xtask loom`; most of them are also shown to find the
//! fault of a twin that has one.
//!
//! | word | written by | read by | what may never be | models |
//! |---|---|---|---|---|
//! | the gate: doing, deadline or when the probe went, epoch | a refusal; whoever enters it closed and past its deadline; the end of a probe | who wants to go, last of all it reads | an earlier deadline, an entry before it, two events of one moment, an end that lifts a newer closure or ends another probe | `loom_gate`: `the_later_deadline_stays_…`, `the_refusal_of_a_straggler_…`, `a_dropped_probe_…`, `the_end_of_a_probe_that_was_overtaken_…` |
//! | the window: in flight, unanswered, limit, somebody waits | who goes, lands or gives back; who waits; who learned another limit | the same, in the same exchange | a unit lost or given back twice, more admitted than the limit, one that waits and is forgotten | `loom_window`: `what_was_taken_comes_back_…`, `a_limit_that_changes_…`, `who_says_that_it_waits_…` |
//! | the bytes' balance | a take, a give-back, another size | a take | a charge that is not given back, more than one beyond the size | `loom_budgets`: `bytes_overshoot_…` |
//! | the bytes' size | another size | `taken`, which is for show alone | the balance follows it by the difference, so the order of two changes does not matter | `loom_budgets`: `a_budget_that_is_resized_…` |
//! | the ramp: slope, end, accepted | an accepted request, until it has ended; the answer to a probe, before it opens the gate | who wants to go, before the window: an old value admits at most what it admitted then | an answer that was late ending it, an answer lost | `loom_budgets`: `answers_that_come_late_…`, `no_answer_is_lost_…` |
//! | the rate: paid at | a take, an undo | a take | more than the burst at once, less than what was taken back | `loom_budgets`: `a_rate_lets_through_…` |
//! | the rate: interval, burst | another rate | a take | each decides alone; an old value is one that held a moment ago | none needed |
//! | the slots' bound | another bound | who wants to go | it decides alone; an old value is one that held a moment ago | none needed |
//! | the retry budget's tokens | a draw, a credit | a draw | below zero, above the capacity | `loom_budgets`: `draws_and_credits_balance` |
//! | all of them for one request | a take, its rollback, its end | whoever waits | a charge that stays after a refusal, one that goes after a refusal it could see, a rollback that hands nothing over | `loom_constraints` |
//! | counters of lost exchanges | who lost one | tests | Relaxed; no decision depends on them | none needed |

mod backoff;
mod budget;
mod bytes;
mod constraints;
mod gate;
mod gcra;
mod growth;
mod ramp;
mod sync;
mod weather;
mod window;
mod word;

pub use backoff::CasBackoff;
pub use budget::{Drawn, Failure, RetryBudget};
pub use bytes::ByteBudget;
pub use constraints::{Blocked, Bounds, Constraints, Cost, Ending, Settled, Start, Ticket};
pub use gate::{BackoffGate, Closed, Entry, Epoch, GateState, Probe};
pub use gcra::{Gcra, Rate, Refusal};
pub use growth::{AdaptiveLimit, Change, RefusalContext};
pub use ramp::Ramp;
pub use window::{ConcurrencyWindow, Full, Take, WindowView};
