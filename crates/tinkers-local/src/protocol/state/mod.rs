//! The parts of the protocol's state. Each part has private fields and can be tested alone. Commands that concern several parts are
//! handled by [`Protocol`](super::Protocol).

pub(super) mod agenda;
pub(super) mod catalog;
pub(super) mod checkpoints;
pub(super) mod completions;
pub(super) mod jobs;
pub(super) mod model_queue;
pub(super) mod models;
pub(super) mod numbered;
pub(super) mod operations;
pub(super) mod polls;
pub(super) mod records;
mod retained;
pub(super) mod sample_limit;
pub(super) mod samplers;
pub(super) mod sessions;
pub(super) mod traces;
