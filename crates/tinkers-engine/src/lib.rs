//! Small language models trained with LoRA on the CPU, behind the embedded Tinker server.
#![doc = include_str!("../README.md")]

mod adamw;
pub mod builtin;
pub mod checkpoint;
mod config;
mod engine;
mod error;
mod fields;
mod identity;
mod lock;
mod lora;
mod loss;
mod model;
mod model_dir;
mod ops;
mod pass;
pub mod pretrain;
mod rng;
mod sample;
#[cfg(test)]
mod testing;
mod text;
mod threads;
mod train;
mod weights;

pub use adamw::{AdamW, AdamWParams, StepReport};
pub use config::{Llama3Scaling, ModelConfig, RopeParameters};
pub use engine::ModelEngine;
pub use error::{Error, Result};
pub use lora::{ALPHA, AdapterConfig, Lora, MAX_RANK, Param};
pub use loss::{Clip, LossFunction, LossInputs};
pub use model::Model;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub use sample::stop_ends;
pub use sample::{
    GeneratedSample, PromptScoreOptions, PromptScores, SampleJob, SampleResult, Sampler,
    SamplingOptions, StopConditions, TopK,
};
pub use text::Text;
pub use threads::Threads;
pub use train::{Example, Mode, PassResult, TrainableModel};
pub use weights::Weights;
