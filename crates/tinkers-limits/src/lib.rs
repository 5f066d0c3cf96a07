//! The rate-limit core of tinkers: admission decisions on atomics, without waiting and without a clock.
#![doc = include_str!("../README.md")]
//!
//! # Shared state and memory ordering
//!
//! Every word is loaded with Acquire and changed by one compare-exchange, AcqRel on success and Acquire on failure, so a
//! thread that sees a change sees everything before it. No decision depends on two words at once, except where the table
//! explains why that is safe. The models are in `tests/` and run by `cargo xtask loom`; most of them also have a
//! negative control: an implementation with a planted fault that the model must find.
//!
//! | word | written by | read by | must never happen | models |
//! |---|---|---|---|---|
//! | the gate: state, deadline or time of the first request, epoch | refusals; admissions to a closed gate after its deadline; the end of a first request | every admission, after all other words | an earlier deadline, an admission before it, two events for concurrent refusals, the end of a first request that lifts a newer closure or ends another first request | `loom_gate`: `concurrent_refusals_count_once_and_the_later_deadline_applies`, `success_of_the_first_request_does_not_undo_a_later_refusal`, `dropped_first_request_never_opens_a_closed_gate`, `first_request_that_ends_late_does_not_end_the_one_that_replaced_it` |
//! | the window: in flight, unanswered, limit, waiters flag | admissions and releases; waiters; changes of the limit | the same, in the same exchange | a unit lost or released twice, more requests admitted than the limit, a waiter that is never admitted | `loom_window`: `window_never_exceeds_its_limit_and_releases_all_units`, `concurrent_change_of_the_in_flight_limit_loses_no_unit`, `waiter_that_sets_the_waiters_flag_first_is_always_admitted` |
//! | the balance of the byte budget | charges, releases and changes of the size | charges | a charge that is not released, more than one charge beyond the size | `loom_budgets`: `concurrent_charges_exceed_the_byte_budget_by_at_most_one_body` |
//! | the size of the byte budget | changes of the size | `taken`, for display only | the balance changes by the difference, so the order of two changes does not matter | `loom_budgets`: `bytes_in_use_stay_charged_when_a_byte_budget_is_resized` |
//! | the ramp: kind, end, accepted requests | accepted requests, until it has ended; the response to a first request, before it opens the gate | admissions, before the window: an old value admits at most as many as it did then | a late response that ends it, a lost acceptance | `loom_budgets`: `late_responses_do_not_end_a_restarted_gradual_increase`, `gradual_increase_counts_each_concurrently_accepted_request` |
//! | the arrival time of the rate limit | admissions and undos | admissions | more than the burst at once, less than what was undone | `loom_budgets`: `rate_limit_admits_the_burst_and_undo_returns_units` |
//! | the interval and burst of the rate limit | changes of the rate | admissions | each decides alone; an old value was valid an instant before | none needed |
//! | the number of slots | changes of the bounds | admissions | it decides alone; an old value was valid an instant before | none needed |
//! | the tokens of the retry budget | draws and credits | draws | below zero, above the capacity | `loom_budgets`: `no_retry_token_is_lost_in_any_interleaving` |
//! | all words for one request | admission, rollback, end of the attempt | waiters | a charge that remains after a refusal, an admission after a visible refusal, a rollback that serves no waiter | `loom_constraints` |
//! | counters of lost exchanges | lost exchanges | tests | Relaxed; no decision depends on them | none needed |
#![expect(
    clippy::exhaustive_enums,
    reason = "the dispatcher handles each decision of the limits"
)]

mod adaptive_limit;
mod backoff;
mod budget;
mod bytes;
mod constraints;
mod gate;
mod gcra;
mod noise_filter;
mod ramp;
mod sync;
mod window;
mod word;

pub use adaptive_limit::{AdaptiveLimit, LimitChange, RefusalContext};
pub use backoff::CasBackoff;
pub use budget::{RetryBudget, RetryDraw, RetryReason};
pub use bytes::ByteBudget;
pub use constraints::{
    Blocked, Bounds, Charge, Constraints, InitialLimit, SettleEffects, Ticket, TicketOutcome,
};
pub use gate::{BackoffGate, Epoch, FirstRequest, GateClosed, GatePass, GateState};
pub use gcra::{Gcra, Rate, RateRefusal};
pub use ramp::Ramp;
pub use window::{ConcurrencyWindow, Full, SlotRequest, WindowView};
