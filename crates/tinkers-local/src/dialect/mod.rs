//! What a server of another make accepts and answers, as data.

mod answers;
mod bodies;
mod fields;
mod outcome;
mod presets;

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

pub(crate) use self::answers::{Promised, Told};
pub(crate) use self::fields::Shape;
use crate::read::Route;

/// What a server accepts and how it answers, where servers of this API differ. Start from a preset and change what matters:
///
/// ```
/// # use tinkers_local::{Dialect, Expiry, LocalConfig};
/// let mut config = LocalConfig::default();
/// config.dialect = Dialect::skyrl();
/// config.dialect.expiry = Expiry::OnceFetched;
/// ```
///
/// The state behind is the same in every dialect; each preset says what it does not copy. A server that starts again and has
/// forgotten its sessions is a fault, [`Fault::restart`](crate::Fault::restart), in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialect {
    /// The bodies of `forward_backward` that are read.
    pub pass_bodies: PassBodies,
    /// What becomes of those that are not.
    pub other_bodies: OtherBodies,
    /// The representation of passes and samples.
    pub results: ResultForm,
    /// What the document calls the server, and its version.
    pub title: (&'static str, &'static str),
    /// The document at `/openapi.json`.
    pub open_api: OpenApi,
    /// JSON fields that are not known.
    pub unknown_fields: UnknownFields,
    /// Routes that are not there: 404.
    pub absent: BTreeSet<Route>,
    /// Whether a key has to be sent.
    pub key: KeyNeed,
    /// What `client/config` tells.
    pub flags: Flags,
    /// The status of an answer that tells of a new session or sampler.
    pub created: StatusCode,
    /// Whether a sample's promise has ids of the sequences to come.
    pub sequence_ids: SequenceIds,
    /// Whose names and fields there are in promises, results and metrics.
    pub words: Words,
    /// How a poll is told that the operation failed.
    pub failures: Failures,
    /// How a poll is told that the operation has not ended.
    pub poll_end: PollEnd,
    /// How long a poll is held; [`LocalConfig::long_poll`](crate::LocalConfig::long_poll) unless set.
    pub long_poll: Option<Duration>,
    /// When a result goes, and what a poll for one that went is told.
    pub expiry: Expiry,
    /// When an operation of a model runs.
    pub order: Order,
    /// Which requests are applied once when they come twice.
    pub repeats: Repeats,
    /// When a checkpoint can be loaded.
    pub loads: Loads,
    /// Whether a sample needs `max_tokens`.
    pub max_tokens: MaxTokens,
    /// The forms of `stop`.
    pub stop: StopForm,
    /// Where the log-probabilities of a prompt begin.
    pub prompt_logprobs: PromptLogprobs,
    /// How the path of a sampler's weights is told.
    pub sampler_paths: SamplerPaths,
}

/// The bodies of `forward_backward` that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassBodies {
    /// JSON and protobuf.
    Both,
    /// JSON alone.
    Json,
    /// Protobuf alone.
    Protobuf,
}

/// What becomes of a body that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherBodies {
    /// 415 with a reason.
    Unsupported,
    /// A bare 500 in plain text, from a server that fell over it.
    Crash,
}

/// The representation of passes and samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResultForm {
    /// What the poll's `Accept` asks for, else JSON.
    AsAsked,
    /// JSON, whatever is asked for.
    Json,
    /// Protobuf, whatever is asked for.
    Protobuf,
}

/// The document at `/openapi.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenApi {
    /// There is one, and it tells what is true.
    Whole,
    /// There is one, in which `forward_backward` has no `requestBody`.
    PassWithoutBody,
    /// There is none: 404.
    Absent,
}

/// JSON fields that are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownFields {
    /// They are dropped.
    Dropped,
    /// 422 `extra_forbidden` on each. Known are the fields of the types of the official Python SDK 0.25, wherever in a body they
    /// are; of what is below a free map, nothing is said.
    RefusedAsOfSdk025,
}

/// Whether a key has to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyNeed {
    /// When the server has one.
    AsConfigured,
    /// Always; any will do when the server has none.
    Always,
}

/// What `client/config` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flags {
    /// All flags.
    All,
    /// Those of the Python SDK 0.25, and not who the server is nor what it promises.
    OfSdk025,
    /// `pjwt_auth_enabled` alone.
    JwtAlone,
}

/// Whether a sample's promise has ids of the sequences to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceIds {
    /// `sample_sequence_ids`.
    Told,
    /// Nothing of the kind.
    Absent,
}

/// Whose names and fields there are in promises, results and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Words {
    /// The official service's.
    Tinker,
    /// SkyRL's: promises with `future_id` and `status`, results with its fields, passes without metrics, its short errors.
    SkyRl,
}

/// How a poll is told that the operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failures {
    /// 200 with `error` and `category`.
    InBody,
    /// This status, with `detail`.
    Status(StatusCode),
}

/// How a poll is told that the operation has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollEnd {
    /// 200 with `try_again` and the state of the queue.
    TryAgain,
    /// 408 with `detail`, without a state of the queue.
    Timeout,
}

/// When a result goes, and what a poll for one that went is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// As [`LocalConfig`](crate::LocalConfig) has it; then 410.
    AsConfigured,
    /// With its first delivery; then 404.
    OnceFetched,
    /// So long after its operation ended, fetched or not, or earlier as `LocalConfig` has it; then 404.
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

/// Which requests are applied once when they come twice under the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeats {
    /// All that have a number.
    AllOnce,
    /// Passes and steps; saves, loads and samples are applied again.
    ComputeOnce,
    /// None: numbers are not read.
    Again,
}

/// When a checkpoint can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loads {
    /// At any time, and into a new model.
    Anytime,
    /// At any time, into a model that is there: 422 without one.
    IntoModels,
    /// Into a model that is there, as its first request alone: 400 later, and 422 without a model.
    FirstOfModel,
}

/// Whether a sample needs `max_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaxTokens {
    /// It does not.
    Optional,
    /// 400 without.
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

/// Where the log-probabilities of a prompt begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptLogprobs {
    /// At the first token, which has none.
    FromFirst,
    /// At the second: there is one entry fewer than there are tokens.
    FromSecond,
}

/// How the path of a sampler's weights is told. Both are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerPaths {
    /// `tinker://RUN/sampler_weights/NAME`.
    WithKind,
    /// `tinker://RUN/NAME`.
    Bare,
}
