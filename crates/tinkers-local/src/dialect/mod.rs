//! The differences between the servers of this API, as data.

mod bodies;
mod fields;
mod outcome;
mod presets;
mod responses;

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

pub(crate) use self::fields::Shape;
pub(crate) use self::responses::{AcceptedKind, ResultKind};
use crate::read::Route;

/// The differences between servers of this API: which requests a server accepts, and how it responds. Start from a preset:
///
/// ```
/// # use tinkers_local::{Dialect, Expiry, LocalConfig};
/// let mut config = LocalConfig::default();
/// config.dialect = Dialect::skyrl();
/// config.dialect.expiry = Expiry::OnceFetched;
/// ```
///
/// All dialects have the same state. Each preset documents what it does not imitate. A server that forgets its sessions, as after a
/// restart, is not a dialect but the fault [`Fault::restart`](crate::Fault::restart).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The encodings in which the server accepts the request body of `forward_backward`.
    pub pass_bodies: PassBodies,
    /// The response to a `forward_backward` request if the server does not accept the encoding of its body.
    pub other_bodies: OtherBodies,
    /// The encoding of the results of forward and backward passes, and of samples.
    pub results: ResultForm,
    /// The title and the version in the OpenAPI document.
    pub title: (&'static str, &'static str),
    /// Whether the server has an OpenAPI document at `/openapi.json`.
    pub open_api: OpenApi,
    /// The treatment of unknown fields in JSON request bodies.
    pub unknown_fields: UnknownFields,
    /// The routes that the server does not have. Requests for these routes get a 404.
    pub absent: BTreeSet<Route>,
    /// Whether requests must contain an API key.
    pub key: KeyNeed,
    /// The feature flags that the response to `client/config` contains.
    pub flags: Flags,
    /// The status of the response to a request that creates a session or a sampler.
    pub created: StatusCode,
    /// Whether the response to an accepted sample contains the ids of its sequences.
    pub sequence_ids: SequenceIds,
    /// The names of fields and metrics in responses.
    pub words: Words,
    /// The response to a poll for an operation that failed.
    pub failures: Failures,
    /// The response to a poll that was held for the maximum time while its operation was still queued or running.
    pub poll_end: PollEnd,
    /// How long a poll is held open. If `None`, [`LocalConfig::long_poll`](crate::LocalConfig::long_poll) applies.
    pub long_poll: Option<Duration>,
    /// When a result expires, and the response to polls for an expired result.
    pub expiry: Expiry,
    /// The order in which the operations of a model run.
    pub order: Order,
    /// Which requests are applied only once if a client sends them again.
    pub repeats: Repeats,
    /// When a checkpoint can be loaded into a model.
    pub loads: Loads,
    /// Whether a sample request must set `max_tokens`.
    pub max_tokens: MaxTokens,
    /// The accepted forms of the sampling parameter `stop`.
    pub stop: StopForm,
    /// The first prompt token that has an entry in the prompt's log-probabilities.
    pub prompt_logprobs: PromptLogprobs,
    /// The form of the paths of sampler weights in responses.
    pub sampler_paths: SamplerPaths,
}

/// The encodings in which a server accepts the request body of `forward_backward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassBodies {
    /// The server accepts JSON and protobuf.
    Both,
    /// The server accepts JSON, but not protobuf.
    Json,
    /// The server accepts protobuf, but not JSON.
    Protobuf,
}

/// The response to a request if the server does not accept the encoding of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherBodies {
    /// The server sends a 415 response with a reason.
    Unsupported,
    /// The server sends a 500 response in plain text, as after an unhandled exception.
    Crash,
}

/// The encoding of the results of forward and backward passes, and of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResultForm {
    /// The server encodes a result as the `Accept` header of the poll asks. If the header names no encoding, it sends JSON.
    AsAsked,
    /// The server sends JSON, regardless of the `Accept` header.
    Json,
    /// The server sends protobuf, regardless of the `Accept` header.
    Protobuf,
}

/// Whether a server has an OpenAPI document at `/openapi.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenApi {
    /// The server has a correct document.
    Whole,
    /// The server has a document that omits the request body of `forward_backward`.
    PassWithoutBody,
    /// The server has no OpenAPI document: `/openapi.json` returns 404.
    Absent,
}

/// The treatment of unknown fields in JSON request bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownFields {
    /// Unknown fields are ignored.
    Dropped,
    /// Unknown fields are refused with a 422 response. The response contains one `extra_forbidden` error for each unknown field.
    /// The known fields, at any depth, are those of the official Python SDK 0.25. Objects with arbitrary keys are not checked.
    RefusedAsOfSdk025,
}

/// Whether requests must contain an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyNeed {
    /// Requests must contain an API key if an API key is configured.
    AsConfigured,
    /// Requests must always contain an API key. If no API key is configured, any API key is accepted.
    Always,
}

/// The feature flags that the response to `client/config` contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flags {
    /// The response contains all flags of the official service and of this server.
    All,
    /// The response contains the flags that the Python SDK 0.25 knows, without the name and the guarantees of this server.
    OfSdk025,
    /// The response contains only the flag `pjwt_auth_enabled`.
    JwtAlone,
}

/// Whether the response to an accepted sample contains the ids of its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceIds {
    /// The response contains `sample_sequence_ids`.
    Present,
    /// The response contains no ids.
    Absent,
}

/// The names of fields and metrics in responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Words {
    /// The names that the official service uses.
    Tinker,
    /// The names that SkyRL uses: `future_id` and `status` in responses to accepted requests, its own fields in results, short error
    /// texts, and no metrics of forward and backward passes.
    SkyRl,
}

/// The response to a poll for an operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failures {
    /// The server sends a 200 response with `error` and `category` in the body.
    InBody,
    /// The server sends a response with this status, and the error as `detail` in the body.
    Status(StatusCode),
}

/// The response to a poll that was held for the maximum time while its operation was still queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollEnd {
    /// The server sends a 200 response with `try_again` and the state of the queue.
    TryAgain,
    /// The server sends a 408 response with `detail`, without the state of the queue.
    Timeout,
}

/// When a result expires, and the response to polls for an expired result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// Results expire at the times in [`LocalConfig`](crate::LocalConfig). Later polls get a 410.
    AsConfigured,
    /// A result expires when it is first delivered. Later polls get a 404.
    OnceFetched,
    /// A result expires this long after the end of its operation, or earlier if [`LocalConfig`](crate::LocalConfig) says so. Later
    /// polls get a 404.
    After(Duration),
}

/// The order in which the operations of a model run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Operations run in the order of their `seq_id`. The first `seq_id` is 1, and there are no gaps.
    BySeqId,
    /// Operations run in the order in which their requests arrive. One operation runs at a time.
    OnArrival,
}

/// Which requests are applied only once if a client sends them again under the same sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeats {
    /// Every request with a sequence number is applied only once.
    AllOnce,
    /// Forward and backward passes and optimizer steps are applied only once. Repeated saves, loads and samples are applied again.
    ComputeOnce,
    /// Every repeated request is applied again, since the server ignores sequence numbers.
    Again,
}

/// When a checkpoint can be loaded into a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loads {
    /// A checkpoint can be loaded at any time, into an existing or a new model.
    Anytime,
    /// A checkpoint can be loaded at any time, but only into an existing model. A load request that names no model gets a 422.
    IntoModels,
    /// A checkpoint can be loaded only by the first request of an existing model. A later load request gets a 400. A load request
    /// that names no model gets a 422.
    FirstOfModel,
}

/// Whether a sample request must set `max_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaxTokens {
    /// A request may omit `max_tokens`.
    Optional,
    /// A request without `max_tokens` gets a 400.
    Required,
}

/// The accepted forms of the sampling parameter `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopForm {
    /// `stop` may be a text, a list of texts, or a list of tokens.
    TextOrList,
    /// `stop` must be a list. A request with a text gets a 422.
    List,
}

/// The first prompt token that has an entry in the prompt's log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptLogprobs {
    /// The list begins with the first prompt token. The entry of this token is empty.
    FromFirst,
    /// The list begins with the second prompt token, so the list is one entry shorter than the prompt.
    FromSecond,
}

/// The form of the paths of sampler weights in responses. Requests may use both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerPaths {
    /// The server writes `tinker://RUN/sampler_weights/NAME`, with the kind of checkpoint.
    WithKind,
    /// The server writes `tinker://RUN/NAME`, without the kind of checkpoint.
    Bare,
}
