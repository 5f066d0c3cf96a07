//! Deterministic simulation of whole clients and a server in virtual time, on one thread, with
//! seeded faults.
//!
//! A [`plan`] is drawn from a seed: clients, their programs, and faults. The [`simulation`] runs
//! the plan on an [`executor`] that picks the next task at random and advances the clock when no
//! task is ready. All randomness comes from the seed, so a seed always gives the same run, even in
//! another process: the hashes of the [`trace`]s are equal. The [`monitor`] checks [`invariant`]s
//! during the run, and the [`final_checks`] check them at its end.
#![expect(clippy::exhaustive_enums, reason = "this package is not published")]

pub mod call_log;
pub mod client_transport;
pub mod control;
pub mod coverage;
pub mod executor;
pub mod fairness;
pub mod fault;
pub mod fault_injector;
mod fault_schedule;
pub mod final_checks;
pub mod harness;
pub mod invariant;
mod log_faults;
pub mod log_recorder;
pub mod monitor;
mod named_enum;
pub mod nested_requests;
pub mod network;
pub mod op;
mod payload;
pub mod plan;
pub mod program;
pub mod real_engine;
pub mod recording_engine;
pub mod request_history;
mod responses;
mod result_checks;
pub mod rng;
pub mod seed_runner;
mod session_override;
mod shared_polls;
pub mod shrink;
pub mod simulation;
mod timed_faults;
pub mod trace;
