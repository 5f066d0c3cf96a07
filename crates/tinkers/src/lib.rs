//! The Rust SDK for the Tinker training API.
#![doc = include_str!("../README.md")]

mod block_on;
mod builder;
#[cfg(feature = "local")]
mod embedded;
mod env;
mod key;
mod sampler_ext;
mod service;

pub use block_on::block_on;
pub use builder::ServiceClientBuilder;
pub use env::Environment;
pub use sampler_ext::SaveAndSample;
pub use service::ServiceClient;

pub use tinkers_core::{
    BodyFormat, Clock, Deduplication, Document, Error, ErrorKind, Phase, Progress, RecoveredError,
    RecoveredErrorCounts, Result, Sent, ServerProfile, SessionContext, Stalled, Timestamp,
};
pub use tinkers_dispatch::{
    ClassCounts, ClassSettings, ClassSnapshot, Gate, LimiterEvent, LimiterEvents, LimiterSettings,
    LimiterSnapshot, Rate,
};
pub use tinkers_futures::ApiFuture;
pub use tinkers_sampling::{CreateSamplingClient, Sample, SampleStream, Sampled, SamplingClient};
pub use tinkers_session::{SessionEvent, SessionEvents};
pub use tinkers_training::{
    CreateLoraTrainingClient, CreateTrainingClientFromState, RestoreOptimizer, SaveForSampler,
    SaveState, TrainingClient,
};
pub use tinkers_transport::TokioClock;
pub use tinkers_wire as wire;
pub use tinkers_wire::{
    AdamParams, Capabilities, Chunk, Datum, FailureCategory, FinishReason, ForwardBackwardOutput,
    LoraConfig, Loss, LossFn, ModelInfo, ModelInput, OptimStepResult, QueueState, SampleResponse,
    SampledSequence, SamplingParams, Stop, StopReason, TensorData, TinkerPath,
};

/// The embedded server, for tests of one's own programs: see [`ServiceClient::over_local`].
#[cfg(feature = "local")]
pub use tinkers_local as local;

/// The seam to the network, for layers of one's own: see [`ServiceClientBuilder::layer_transport`].
pub mod transport {
    pub use tinkers_core::{
        BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
        TransportErrorKind,
    };
}

/// What most programs need: `use tinkers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        AdamParams, ApiFuture, Datum, Error, ErrorKind, LoraConfig, LossFn, ModelInput,
        RestoreOptimizer, SampleResponse, SamplingClient, SaveAndSample, SaveForSampler, SaveState,
        ServiceClient, Stop, StopReason, TensorData, TinkerPath, TrainingClient,
    };
}

/// The program of the workspace's README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeOfTheWorkspace;

/// The guide to tests under faults; its program is the example `bad_day`.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../../../docs/guides/bad-day.md")]
struct BadDay;
