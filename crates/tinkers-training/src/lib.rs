//! The training client: passes, optimizer steps, saves and loads, in the order in which they are called.
#![doc = include_str!("../README.md")]

mod client;
mod create;
mod merge;
mod parts;
mod plan;
mod save;
mod submit;
mod turns;

pub use client::TrainingClient;
pub use create::{FromState, NewModel, RestoreOptimizer};
pub use merge::merge;
pub use plan::{ChunkLimits, plan};
pub use save::{SaveForSampler, SaveState};
