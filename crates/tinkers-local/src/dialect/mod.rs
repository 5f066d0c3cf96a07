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
/// The server keeps the same state (sessions, models, results) in every dialect. Each preset documents what it does not imitate. A
/// server that forgets its sessions, as after a restart, is not a dialect but the fault [`Fault::restart`](crate::Fault::restart).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The encodings in which the server accepts the request body of `forward_backward`: JSON, protobuf or both.
    pub pass_bodies: PassBodies,
    /// The response to a `forward_backward` request whose body has an encoding that the server does not accept.
    pub other_bodies: OtherBodies,
    /// The encoding of the results of forward and backward passes, and of samples.
    pub results: ResultForm,
    /// The title and the version of the API that the OpenAPI document states.
    pub title: (&'static str, &'static str),
    /// Whether the server has an OpenAPI document at `/openapi.json`, and whether the document is complete.
    pub open_api: OpenApi,
    /// Whether the server ignores or refuses unknown fields in JSON request bodies.
    pub unknown_fields: UnknownFields,
    /// The routes that the imitated server does not have. Requests for these routes get a 404.
    pub absent: BTreeSet<Route>,
    /// Whether requests must contain an API key.
    pub key: KeyNeed,
    /// Which feature flags the response to `client/config` contains.
    pub flags: Flags,
    /// The status of the response to a request that creates a session or a sampler, such as 200 or 201.
    pub created: StatusCode,
    /// Whether the response to an accepted sample request contains the ids of the sequences that will be sampled.
    pub sequence_ids: SequenceIds,
    /// Whose names of fields and metrics the responses contain: those of the official service or those of SkyRL.
    pub words: Words,
    /// The response to a poll for an operation that failed.
    pub failures: Failures,
    /// The response to a poll if its operation is still queued or running at the end of the time for which the server holds polls
    /// open.
    pub poll_end: PollEnd,
    /// How long the server holds a poll open while the operation has not ended. If `None`,
    /// [`LocalConfig::long_poll`](crate::LocalConfig::long_poll) applies.
    pub long_poll: Option<Duration>,
    /// When a result expires, and the response to polls for an expired result.
    pub expiry: Expiry,
    /// The order in which the server runs the operations of a model.
    pub order: Order,
    /// Which requests the server applies only once if a client sends them again, for example after a lost response.
    pub repeats: Repeats,
    /// When a checkpoint can be loaded, and whether only into an existing model or also into a new one.
    pub loads: Loads,
    /// Whether a sample request must set `max_tokens`.
    pub max_tokens: MaxTokens,
    /// Whether the sampling parameter `stop` must be a list or may also be a text.
    pub stop: StopForm,
    /// Whether the log-probabilities of a prompt begin with its first or its second token.
    pub prompt_logprobs: PromptLogprobs,
    /// How responses write the paths of saved sampler weights: with or without the kind of checkpoint.
    pub sampler_paths: SamplerPaths,
}

/// The encodings in which a server accepts the request body of `forward_backward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassBodies {
    /// The server accepts the body of a `forward_backward` request in JSON and in protobuf.
    Both,
    /// The server accepts the body of a `forward_backward` request in JSON, but not in protobuf.
    Json,
    /// The server accepts the body of a `forward_backward` request in protobuf, but not in JSON.
    Protobuf,
}

/// The response to a request whose body has an encoding that the server does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherBodies {
    /// The server refuses the request with a 415 response that states the reason.
    Unsupported,
    /// The server sends a 500 response in plain text, as a web framework does after an unhandled exception.
    Crash,
}

/// The encoding of the results of forward and backward passes, and of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResultForm {
    /// The server encodes a result as the `Accept` header of the poll asks. If the header names no encoding, it sends JSON.
    AsAsked,
    /// The server sends results in JSON, regardless of the `Accept` header of the poll.
    Json,
    /// The server sends results in protobuf, regardless of the `Accept` header of the poll.
    Protobuf,
}

/// Whether a server has an OpenAPI document at `/openapi.json`, and whether the document is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenApi {
    /// The server has a complete and correct document.
    Whole,
    /// The server has a document that omits the request body of `forward_backward`.
    PassWithoutBody,
    /// The server has no OpenAPI document: `/openapi.json` returns 404.
    Absent,
}

/// Whether a server ignores or refuses unknown fields in JSON request bodies.
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

/// Which feature flags the response to `client/config` contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flags {
    /// The response to `client/config` contains all feature flags of the official service, and additional flags of this server.
    All,
    /// The response to `client/config` contains the feature flags that the Python SDK 0.25 knows. It does not contain the name and
    /// the guarantees of this server.
    OfSdk025,
    /// The response to `client/config` contains only the feature flag `pjwt_auth_enabled`.
    JwtAlone,
}

/// Whether the response to an accepted sample request contains the ids of the sequences that will be sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceIds {
    /// The response to an accepted sample request contains the ids of the sequences, as `sample_sequence_ids`.
    Present,
    /// The response to an accepted sample request does not contain the ids of the sequences.
    Absent,
}

/// Whose names of fields and metrics the responses contain: those of the official service or those of SkyRL, another server of this
/// API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Words {
    /// Responses contain the names of fields and metrics that the official service uses.
    Tinker,
    /// Responses contain the names of SkyRL: `future_id` and `status` in responses to accepted requests, its own fields in results,
    /// short error texts, and no metrics of forward and backward passes.
    SkyRl,
}

/// The response to a poll for an operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failures {
    /// The response to a poll for a failed operation has the status 200, with `error` and `category` in the body.
    InBody,
    /// The response to a poll for a failed operation has the status 200, and in the body `error`, the type `request_failed` and always
    /// the category `user_error`.
    InTypedBody,
    /// The response to a poll for a failed operation has this status, and the error as `detail` in the body.
    Status(StatusCode),
}

/// The response to a poll if its operation is still queued or running at the end of the time for which the server holds polls open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollEnd {
    /// The server sends a 200 response with `try_again` and the state of the queue, such as `active` or `paused_capacity`. The
    /// client then polls again.
    TryAgain,
    /// The server sends a 408 response with `detail`, but without the state of the queue. The client then polls again.
    Timeout,
}

/// When a result expires, and the response to polls for an expired result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// Results expire at the times in [`LocalConfig`](crate::LocalConfig). Polls for an expired result get a 410.
    AsConfigured,
    /// A result expires when it is first sent to a client. Polls for an expired result get a 404.
    OnceFetched,
    /// A result expires this long after the end of its operation, or earlier if [`LocalConfig`](crate::LocalConfig) says so. Polls
    /// for an expired result get a 404.
    After(Duration),
}

/// The order in which the server runs the operations of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Operations run in the order of their `seq_id`, which begins at 1. An operation waits until the requests with all lower
    /// numbers have arrived.
    BySeqId,
    /// Operations run in the order in which their requests arrive. One operation runs at a time.
    OnArrival,
}

/// Which requests the server applies only once if a client sends them again with the same sequence number, for example after a lost
/// response.
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

/// When a checkpoint can be loaded, and whether only into an existing model or also into a new one.
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
    /// A sample request may omit `max_tokens`.
    Optional,
    /// A sample request without `max_tokens` gets a 400.
    Required,
}

/// Whether the sampling parameter `stop` must be a list or may also be a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopForm {
    /// `stop` may be a text, a list of texts, or a list of tokens.
    TextOrList,
    /// `stop` must be a list. A request with a text gets a 422.
    List,
}

/// Whether the log-probabilities of a prompt begin with its first or its second token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptLogprobs {
    /// The list of log-probabilities begins with the first prompt token. The entry of this token is empty.
    FromFirst,
    /// The list of log-probabilities begins with the second prompt token, so the list is one entry shorter than the prompt.
    FromSecond,
}

/// How responses write the paths of saved sampler weights: with or without the kind of checkpoint. Requests may use either form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerPaths {
    /// The server writes `tinker://RUN/sampler_weights/NAME`. The path contains the kind of checkpoint, `sampler_weights`.
    WithKind,
    /// The server writes `tinker://RUN/NAME`. The path does not contain the kind of checkpoint.
    Bare,
}
