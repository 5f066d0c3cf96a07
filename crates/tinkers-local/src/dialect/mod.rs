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

/// The requests that a server accepts and the responses that it sends, where servers of this API differ. Start from a preset:
///
/// ```
/// # use tinkers_local::{Dialect, Expiry, LocalConfig};
/// let mut config = LocalConfig::default();
/// config.dialect = Dialect::skyrl();
/// config.dialect.expiry = Expiry::OnceFetched;
/// ```
///
/// The state is the same in every dialect; each preset documents what it does not imitate. A server that restarts and forgets its
/// sessions is a fault, [`Fault::restart`](crate::Fault::restart), in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The accepted bodies of `forward_backward`.
    pub pass_bodies: PassBodies,
    /// The response to other bodies.
    pub other_bodies: OtherBodies,
    /// The encoding of passes and samples.
    pub results: ResultForm,
    /// The title and version in the OpenAPI document.
    pub title: (&'static str, &'static str),
    /// The document at `/openapi.json`.
    pub open_api: OpenApi,
    /// The treatment of unknown JSON fields.
    pub unknown_fields: UnknownFields,
    /// Routes that it does not have: 404.
    pub absent: BTreeSet<Route>,
    /// Whether a key has to be sent.
    pub key: KeyNeed,
    /// The flags in `client/config`.
    pub flags: Flags,
    /// The status of the response to the creation of a session or sampler.
    pub created: StatusCode,
    /// Whether the response to an accepted sample has the ids of its sequences.
    pub sequence_ids: SequenceIds,
    /// The names and fields in responses to accepted requests, in results and in metrics.
    pub words: Words,
    /// The response to a poll whose operation failed.
    pub failures: Failures,
    /// The response to a poll whose operation has not ended.
    pub poll_end: PollEnd,
    /// How long a poll is held; [`LocalConfig::long_poll`](crate::LocalConfig::long_poll) unless set.
    pub long_poll: Option<Duration>,
    /// When a result expires, and the response to later polls.
    pub expiry: Expiry,
    /// When an operation of a model runs.
    pub order: Order,
    /// Which repeated requests are applied once.
    pub repeats: Repeats,
    /// When a checkpoint can be loaded.
    pub loads: Loads,
    /// Whether a sample needs `max_tokens`.
    pub max_tokens: MaxTokens,
    /// The forms of `stop`.
    pub stop: StopForm,
    /// The first token that has an entry in the log-probabilities of a prompt.
    pub prompt_logprobs: PromptLogprobs,
    /// The form of the path of a sampler's weights in responses.
    pub sampler_paths: SamplerPaths,
}

/// The accepted bodies of `forward_backward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassBodies {
    /// JSON and protobuf.
    Both,
    /// JSON only.
    Json,
    /// Protobuf only.
    Protobuf,
}

/// The response to a body that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherBodies {
    /// 415 with a reason.
    Unsupported,
    /// A bare 500 in plain text, as after an unhandled exception.
    Crash,
}

/// The encoding of passes and samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResultForm {
    /// As the poll's `Accept` asks for, JSON by default.
    AsAsked,
    /// Always JSON.
    Json,
    /// Always protobuf.
    Protobuf,
}

/// The document at `/openapi.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenApi {
    /// Served, and correct.
    Whole,
    /// Served, without the `requestBody` of `forward_backward`.
    PassWithoutBody,
    /// Not served: 404.
    Absent,
}

/// The treatment of unknown JSON fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownFields {
    /// They are ignored.
    Dropped,
    /// 422 `extra_forbidden` for each. The known fields are those of the types of the official Python SDK 0.25 at any depth; the
    /// content of free maps is not checked.
    RefusedAsOfSdk025,
}

/// Whether a key has to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyNeed {
    /// If the server has a key.
    AsConfigured,
    /// Always; any key is accepted if the server has none.
    Always,
}

/// The flags in `client/config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flags {
    /// All flags.
    All,
    /// The flags of the Python SDK 0.25, without the server's name and guarantees.
    OfSdk025,
    /// `pjwt_auth_enabled` only.
    JwtAlone,
}

/// Whether the response to an accepted sample has the ids of its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceIds {
    /// It has `sample_sequence_ids`.
    Present,
    /// It has none.
    Absent,
}

/// The names and fields in responses to accepted requests, in results and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Words {
    /// Those of the official service.
    Tinker,
    /// Those of SkyRL: `future_id` and `status` in responses, its fields in results, no metrics of passes, its short errors.
    SkyRl,
}

/// The response to a poll whose operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failures {
    /// 200 with `error` and `category`.
    InBody,
    /// This status, with `detail`.
    Status(StatusCode),
}

/// The response to a poll whose operation has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollEnd {
    /// 200 with `try_again` and the state of the queue.
    TryAgain,
    /// 408 with `detail`, without a state of the queue.
    Timeout,
}

/// When a result expires, and the response to later polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// At the times in [`LocalConfig`](crate::LocalConfig); then 410.
    AsConfigured,
    /// At its first delivery; then 404.
    OnceFetched,
    /// This long after the end of its operation, fetched or not, or at the times in `LocalConfig` if they are earlier; then 404.
    After(Duration),
}

/// When an operation of a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// In the order of `seq_id`, from 1 and without gaps.
    BySeqId,
    /// In the order of arrival, one at a time.
    OnArrival,
}

/// Which requests are applied once if they are repeated under the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeats {
    /// All that have a number.
    AllOnce,
    /// Passes and steps; saves, loads and samples are applied again.
    ComputeOnce,
    /// None: numbers are ignored.
    Again,
}

/// When a checkpoint can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loads {
    /// At any time, and into a new model.
    Anytime,
    /// At any time, into an existing model: 422 without one.
    IntoModels,
    /// Into an existing model, as its first request: 400 later, and 422 without a model.
    FirstOfModel,
}

/// Whether a sample needs `max_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaxTokens {
    /// No.
    Optional,
    /// Yes: 400 without.
    Required,
}

/// The forms of `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopForm {
    /// A string or a list.
    TextOrList,
    /// A list; 422 for a string.
    List,
}

/// The first token that has an entry in the log-probabilities of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptLogprobs {
    /// The first one, whose entry is empty.
    FromFirst,
    /// The second one: there is one entry fewer than there are tokens.
    FromSecond,
}

/// The form of the path of a sampler's weights in responses. Requests may have either form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerPaths {
    /// `tinker://RUN/sampler_weights/NAME`.
    WithKind,
    /// `tinker://RUN/NAME`.
    Bare,
}
