//! Request and response bodies, ids and paths of the Tinker API, in JSON and protobuf.
#![doc = include_str!("../README.md")]

mod checkpoint_admin;
mod chunk_json;
mod config;
mod dates;
mod datum;
mod input;
mod lenient;
mod lenient_tensor;
mod loss;
mod model_input;
mod models;
mod names;
#[cfg(feature = "ndarray")]
mod ndarray;
mod nulls;
mod numbers;
mod openapi;
mod path;
mod poll;
mod proto;
mod response;
mod rest;
pub mod routes;
mod sampling;
mod sampling_result;
#[cfg(feature = "schema")]
mod schema;
mod search;
mod session_admin;
mod session_poll;
mod signed_url;
mod telemetry;
mod tensor;
mod tensor_element;
mod training;
mod training_result;
mod usage;
mod weights;

pub use checkpoint_admin::{
    CheckpointSearch, CheckpointSearchPage, CopyWeights, ExternalUpload, ExternalWeightsUrls,
    FinishExternalUpload, NewCheckpoint, SetCheckpointTtl, StartExternalUpload,
};
pub use config::{
    ClientConfig, ConfigRequest, CreateSession, DynamicConfig, FinishReason, FinishSession,
    Heartbeat, SDK_VERSION, SessionCreated,
};
pub use dates::{rfc3339, since_epoch};
pub use datum::{Datum, ProvenanceSpan, SpanKind};
pub use input::{InvalidInput, check_api_key};
pub use loss::{Loss, LossConfigValue, LossFn, loss_input_dtype};
pub use model_input::{Chunk, ModelInput};
pub use models::{
    CreateModel, LoraConfig, ModelCreated, ModelData, ModelInfo, ModelRef, OptimizerConfig,
    UnloadModel, UnloadedModel,
};
pub use openapi::ApiDocument;
pub use path::{CheckpointKind, TinkerPath};
pub use poll::{
    CancelFuture, FailureCategory, PollResponse, QueueState, RequestKind, RetrieveFuture,
    SubmissionResponse, says_not_ready,
};
pub use response::{DecodeError, error_text, excerpt, retry_after_ms};
pub use rest::{
    Capabilities, Checkpoint, CheckpointList, CheckpointType, Cursor, SamplerInfo, SessionInfo,
    SessionList, SupportedModel, TrainingRun, TrainingRunList, WeightsInfo, WeightsInfoRequest,
};
pub use sampling::{
    CreateSamplingSession, SampleRequest, SamplingParams, SamplingSessionCreated, Stop,
};
pub use sampling_result::{
    PromptAltTokens, SampleResponse, SampledSequence, StopReason, TopkLogprobs,
};
pub use search::{AccessScope, MAX_SEARCH_LIMIT, OwnerFilter, SearchCursor};
pub use session_admin::{
    AssignSessionProject, FailedPart, SessionSearch, SessionSearchPage, SessionStatus,
    SessionStatusFilter, SessionSummary, TraceExport,
};
pub use session_poll::{
    Completion, CompletionState, Completions, PollTarget, PollTargetKind, RetrieveFutures,
};
pub use signed_url::SignedUrl;
pub use telemetry::{
    Telemetry, TelemetryAccepted, TelemetryEvent, TelemetryEventKind, TelemetrySeverity,
};
pub use tensor::{CsrIndices, DType, TensorData, TensorValues};
pub use tensor_element::TensorElement;
pub use training::{AdamParams, OptimStep, PassMode, PassRequest};
pub use training_result::{ForwardBackwardOutput, LossFnOutput, OptimStepResult};
pub use usage::{
    ApiKeyInfo, AuditEntry, AuditEventType, AuditLog, BillingUsage, CheckpointStorage,
    CheckpointStorageUsage, UsageEvent, UsageInfo, UsageSession,
};
pub use weights::{
    LoadWeights, LoadedWeights, MAX_CHECKPOINT_NAME, SamplerSaveKind, SaveWeights,
    SaveWeightsForSampler, SavedSamplerWeights, SavedWeights, check_checkpoint_name,
};

/// The result of an asynchronous operation, which `retrieve_future` returns as JSON or protobuf.
pub trait OperationResult: Sized + Send + 'static {
    /// Whether servers can send the result as protobuf, and not only as JSON.
    const PROTOBUF: bool;

    /// Decodes a result from the JSON body of a poll response.
    ///
    /// # Errors
    /// Fails if the body is not JSON or lacks the fields of the result. The message contains the start of the body.
    fn from_json(body: &[u8]) -> Result<Self, DecodeError>;

    /// Decodes a result from the protobuf body of a poll response.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded, or the result has no protobuf form.
    fn from_protobuf(body: bytes::Bytes) -> Result<Self, DecodeError> {
        let _ = body;
        Err(DecodeError::new(
            "cannot decode the result: it has no protobuf form",
        ))
    }
}

/// Serialises a request or response body as JSON.
pub fn to_json<T: serde::Serialize>(body: &T) -> bytes::Bytes {
    to_json_with_capacity(body, 128)
}

/// Serialises a body as JSON into a buffer with an initial capacity of `capacity` bytes.
pub fn to_json_with_capacity<T: serde::Serialize>(body: &T, capacity: usize) -> bytes::Bytes {
    let mut json = Vec::with_capacity(capacity);
    match serde_json::to_writer(&mut json, body) {
        Ok(()) => json.into(),
        // Bodies are plain structs with string keys and finite numbers, for which serialisation cannot fail.
        Err(_) => bytes::Bytes::new(),
    }
}
