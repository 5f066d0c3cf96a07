//! The Rust SDK for the Tinker training API.
#![doc = include_str!("../README.md")]
//!
//! # Items by task
//!
//! | task | items |
//! |---|---|
//! | Connect | [`ServiceClient`], [`ServiceClientBuilder`], [`Environment`], [`SessionEvents`]; credentials: [`mod@auth`]; without asynchronous code [`blocking`] |
//! | Train | [`CreateLoraTrainingClient`], [`CreateTrainingClientFromState`], [`TrainingClient`]; data: [`Datum`], [`ModelInput`], [`TensorData`]; [`LossFn`], [`Loss`], [`AdamParams`], [`LoraConfig`]; results: [`ForwardBackwardOutput`], [`OptimStepResult`] |
//! | Save and resume | [`SaveState`], [`SaveForSampler`], [`SavedWeights`], [`SavedSamplerWeights`], [`LoadedWeights`], [`TinkerPath`] |
//! | Sample | [`CreateSamplingClient`], [`SamplingClient`], [`Sample`], [`SamplingParams`], [`Stop`], [`SampleStream`]; results: [`SampleResponse`], [`SampledSequence`], [`StopReason`] |
//! | Wait for results | [`ApiFuture`], [`Progress`], [`Phase`], [`block_on`] |
//! | Handle errors | [`Error`], [`ErrorKind`], [`Sent`], [`Stalled`], [`FailureCategory`], [`RecoveredErrorCounts`] |
//! | Manage | [`mod@rest`]: [`RestClient`], [`AdminClient`]; [`Capabilities`], [`ModelInfo`], [`ServerProfile`], [`FinishReason`] |
//! | Limit the rate | [`LimiterSettings`], [`LimiterSnapshot`], [`GateSnapshot`], [`LimiterEvents`] |
//! | Test | [`transport`] for custom layers; with the feature `local` the embedded server, [`ServiceClient::local`] and [`mod@local`] |
//!
//! Most programs need only `use tinkers::prelude::*;`, see [`prelude`].
//!
//! Guides: [from the Python SDK to tinkers](https://github.com/tinkers-rs/tinkers/blob/main/docs/guides/from-python.md), and
//! [test a training loop under faults](https://github.com/tinkers-rs/tinkers/blob/main/docs/guides/faults.md). Programs:
//! [the examples](https://github.com/tinkers-rs/tinkers/tree/main/crates/tinkers/examples).

pub mod auth;
pub mod blocking;
mod builder;
mod connect;
mod default_headers;
#[cfg(feature = "local")]
mod embedded_server;
mod environment;
pub mod rest;
mod service;

pub use builder::{HOSTED_SERVICE, ServiceClientBuilder};
pub use environment::Environment;
pub use service::ServiceClient;

pub use rest::{AdminClient, RestClient};
pub use tinkers_core::{
    Backoff, BaseUrl, BodyFormat, Clock, Deduplication, Document, Error, ErrorKind, Phase,
    Progress, RecoveredError, RecoveredErrorCounts, Result, RetryPolicy, RouteClass, Sent,
    ServerProfile, SessionContext, Stalled, Timeouts, Timestamp,
};
pub use tinkers_dispatch::{
    ClassCounts, ClassSettings, ClassSnapshot, GateSnapshot, LimitChange, LimiterEvent,
    LimiterEvents, LimiterSettings, LimiterSnapshot, Rate,
};
pub use tinkers_futures::ApiFuture;
pub use tinkers_sampling::{
    CreateSamplingClient, Sample, SampleStream, SamplingClient, StreamedSample,
};
pub use tinkers_session::{MessageLevel, Session, SessionEvent, SessionEvents, TelemetryCounts};
pub use tinkers_training::{
    CreateLoraTrainingClient, CreateTrainingClientFromState, SaveForSampler, SaveState,
    TrainingClient,
};
pub use tinkers_transport::{ClassConnectionLimits, HttpVersions, ProxyConfig};
pub use tinkers_transport::{TokioClock, block_on};
pub use tinkers_wire as wire;
pub use tinkers_wire::{
    AdamParams, Capabilities, CheckpointKind, Chunk, CsrIndices, DType, Datum, FailureCategory,
    FinishReason, ForwardBackwardOutput, InvalidInput, LoadedWeights, LoraConfig, Loss,
    LossConfigValue, LossFn, ModelInfo, ModelInput, OptimStepResult, OptimizerConfig,
    PromptAltTokens, ProvenanceSpan, QueueState, SampleResponse, SampledSequence, SamplingParams,
    SavedSamplerWeights, SavedWeights, SpanKind, Stop, StopReason, SupportedModel, TensorData,
    TensorElement, TensorValues, TinkerPath, TopkLogprobs,
};

/// The embedded server, for tests of programs that use the SDK: see [`ServiceClient::over_local`].
#[cfg(feature = "local")]
pub mod local {
    pub use tinkers_engine::ModelEngine;
    pub use tinkers_local::*;
}

/// The transport trait and its types, for custom transport layers: see [`ServiceClientBuilder::layer_transport`].
pub mod transport {
    pub use tinkers_core::{
        BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
        TransportErrorKind,
    };
}

/// The items that most programs need. Import them with `use tinkers::prelude::*;`.
pub mod prelude {
    pub use crate::{
        AdamParams, ApiFuture, Datum, Error, ErrorKind, FinishReason, GateSnapshot, InvalidInput,
        LimiterEvent, LoraConfig, LossFn, ModelInput, RecoveredError, RouteClass, SampleResponse,
        SampledSequence, SamplingClient, SamplingParams, Sent, ServiceClient, SessionEvent, Stop,
        StopReason, TensorData, TinkerPath, TrainingClient,
    };
}

/// Compiles the code in the README of the workspace as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct WorkspaceReadme;

/// Compiles the code in the guide for users of the Python SDK as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/from-python.md")]
struct PythonGuide;

/// Compiles the code in the guide to tests with injected faults as doctests.
#[cfg(all(doctest, feature = "local"))]
#[doc = include_str!("../../../docs/guides/faults.md")]
struct FaultGuide;
