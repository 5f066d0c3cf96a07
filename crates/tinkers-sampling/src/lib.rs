//! The sampling client: single samples, log-probabilities of a prompt, and streams of samples over many prompts.
#![doc = include_str!("../README.md")]

mod client;
mod create;
mod request;
mod run;
mod sampler;
mod stream;

pub use client::SamplingClient;
pub use create::{CreateSamplingClient, SamplerSource};
pub use request::Sample;
pub use stream::{SampleStream, StreamedSample};
