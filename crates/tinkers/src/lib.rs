//! The Rust SDK for the Tinker training API.
#![doc = include_str!("../README.md")]

mod api_key;
mod builder;
mod connect;
#[cfg(feature = "local")]
mod embedded_server;
mod environment;
mod save_and_sample;
mod service;

pub use builder::ServiceClientBuilder;
pub use environment::Environment;
pub use save_and_sample::SaveAndSample;
pub use service::ServiceClient;

pub use tinkers_core::{
    BodyFormat, Clock, Deduplication, Document, Error, ErrorKind, Phase, Progress, RecoveredError,
    RecoveredErrorCounts, Result, Sent, ServerProfile, SessionContext, Stalled, Timestamp,
};
pub use tinkers_dispatch::{
    ClassCounts, ClassSettings, ClassSnapshot, GateSnapshot, LimiterEvent, LimiterEvents,
    LimiterSettings, LimiterSnapshot, Rate,
};
pub use tinkers_futures::ApiFuture;
pub use tinkers_sampling::{
    CreateSamplingClient, Sample, SampleStream, SamplingClient, StreamedSample,
};
pub use tinkers_session::{SessionEvent, SessionEvents};
pub use tinkers_training::{
    CreateLoraTrainingClient, CreateTrainingClientFromState, RestoreOptimizer, SaveForSampler,
    SaveState, TrainingClient,
};
pub use tinkers_transport::{TokioClock, block_on};
pub use tinkers_wire as wire;
pub use tinkers_wire::{
    AdamParams, Capabilities, Chunk, Datum, FailureCategory, FinishReason, ForwardBackwardOutput,
    LoraConfig, Loss, LossFn, ModelInfo, ModelInput, OptimStepResult, QueueState, SampleResponse,
    SampledSequence, SamplingParams, Stop, StopReason, TensorData, TinkerPath,
};
pub use tinkers_wire::{
    CsrIndices, DType, InvalidInput, LoadedWeights, LossConfigValue, OptimizerConfig,
    PromptAltTokens, ProvenanceSpan, SavedSamplerWeights, SavedWeights, SpanKind, SupportedModel,
    TensorElement, TensorValues, TopkLogprobs,
};

/// The embedded server, for tests of programs that use the SDK: see [`ServiceClient::over_local`].
#[cfg(feature = "local")]
pub use tinkers_local as local;

/// The transport trait, for custom layers: see [`ServiceClientBuilder::layer_transport`].
pub mod transport {
    pub use tinkers_core::{
        BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
        TransportErrorKind,
    };
}

/// The items that most programs need, for `use tinkers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        AdamParams, ApiFuture, Datum, Error, ErrorKind, LoraConfig, LossFn, ModelInput,
        RestoreOptimizer, SampleResponse, SamplingClient, SaveAndSample, SaveForSampler, SaveState,
        ServiceClient, Stop, StopReason, TensorData, TinkerPath, TrainingClient,
    };
}

/// Compiles the program in the README of the workspace.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct WorkspaceReadme;

/// Compiles the code of the guide to tests with injected faults.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../../../docs/guides/faults.md")]
struct FaultGuideGuide;
