//! The training client: forward and forward-backward passes, optimizer steps, saves and loads, sent in the order of the calls.
#![doc = include_str!("../README.md")]

mod chunks;
mod client;
mod create;
mod create_model;
mod delivery;
mod format_probe;
#[cfg(all(test, tinkers_loom))]
mod loom_models;
mod merge;
mod model_calls;
mod model_failure;
mod name_conflict;
mod recover_save;
mod refusal;
mod requests;
mod results;
mod save;
mod sender;
mod submission_queue;
mod submit;
mod sync;
mod unload;

pub use chunks::{ChunkLimits, plan_chunks};
pub use client::TrainingClient;
pub use create::{CreateLoraTrainingClient, CreateTrainingClientFromState};
pub use merge::merge;
pub use save::{SaveForSampler, SaveState};
