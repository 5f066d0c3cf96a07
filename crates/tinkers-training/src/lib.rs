//! The training client: passes, optimizer steps, saves and loads, in the order in which they are called.
#![doc = include_str!("../README.md")]

mod clean;
mod client;
mod create;
mod delivery;
mod lost;
mod making;
mod merge;
mod order;
mod parts;
mod plan;
mod poison;
mod save;
mod sender;
mod submit;
mod sync;
mod taken;
mod together;
mod turns;
mod unload;
mod waiter;

pub use client::TrainingClient;
pub use create::{FromState, NewModel, RestoreOptimizer};
pub use merge::merge;
pub use plan::{ChunkLimits, plan};
pub use save::{SaveForSampler, SaveState};
