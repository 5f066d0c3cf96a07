//! The presets: dialects of known servers.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

use super::{
    Dialect, Expiry, Failures, Flags, KeyNeed, Loads, MaxTokens, OpenApi, Order, OtherBodies,
    PassBodies, PollEnd, PromptLogprobs, Repeats, ResultForm, SamplerPaths, SequenceIds, StopForm,
    UnknownFields, Words,
};
use crate::read::Route;

/// The routes for management that only the official service has.
const MANAGEMENT: [Route; 10] = [
    Route::SearchSessions,
    Route::SessionProject,
    Route::PublishCheckpoint,
    Route::CheckpointTtl,
    Route::SearchCheckpoints,
    Route::CopyWeights,
    Route::TraceExport,
    Route::Audit,
    Route::BillingUsage,
    Route::CheckpointStorage,
];

/// The further routes that the official service has but SkyRL, another server of this API, does not have.
const NOT_IN_SKYRL: [Route; 8] = [
    Route::CancelFuture,
    Route::DynamicConfig,
    Route::FinishSession,
    Route::Sessions,
    Route::Session,
    Route::RetrieveFutures,
    Route::Checkpoints,
    Route::DeleteEscapedCheckpoint,
];

/// The further routes that the official service has but neither hatchery nor Twinkle has.
const NOT_IN_SMALL_SERVERS: [Route; 10] = [
    Route::CancelFuture,
    Route::Checkpoints,
    Route::DynamicConfig,
    Route::FinishSession,
    Route::RetrieveFutures,
    Route::Sampler,
    Route::Session,
    Route::Sessions,
    Route::DeleteCheckpoint,
    Route::DeleteEscapedCheckpoint,
];

/// How long a SkyRL server holds a poll open while the operation has not ended.
const SKYRL_POLL: Duration = Duration::from_secs(300);

/// Returns the routes that a server lacks: the management routes and these further ones.
fn without_management(absent: &[Route], also: &[Route]) -> BTreeSet<Route> {
    let all = [&MANAGEMENT, absent, also];
    all.into_iter().flatten().copied().collect()
}

impl Default for Dialect {
    fn default() -> Self {
        Self::tinker()
    }
}

impl Dialect {
    /// Returns the dialect of the official service and its Python SDK 0.38.
    pub fn tinker() -> Self {
        Self {
            pass_bodies: PassBodies::Both,
            other_bodies: OtherBodies::Unsupported,
            results: ResultForm::AsAsked,
            title: ("Tinker API", env!("CARGO_PKG_VERSION")),
            open_api: OpenApi::Whole,
            unknown_fields: UnknownFields::Dropped,
            absent: BTreeSet::new(),
            key: KeyNeed::AsConfigured,
            flags: Flags::All,
            created: StatusCode::OK,
            sequence_ids: SequenceIds::Present,
            words: Words::Tinker,
            failures: Failures::InBody,
            poll_end: PollEnd::TryAgain,
            long_poll: None,
            expiry: Expiry::AsConfigured,
            order: Order::BySeqId,
            repeats: Repeats::AllOnce,
            loads: Loads::Anytime,
            max_tokens: MaxTokens::Optional,
            stop: StopForm::TextOrList,
            prompt_logprobs: PromptLogprobs::FromFirst,
            sampler_paths: SamplerPaths::WithKind,
        }
    }

    /// Returns an artificial strict dialect, which no known server has: only JSON request bodies, only protobuf results, only the
    /// request fields of the Python SDK 0.25, and no OpenAPI document. A client can detect this dialect only by its 415 and 422
    /// responses.
    pub fn json_strict() -> Self {
        Self {
            pass_bodies: PassBodies::Json,
            results: ResultForm::Protobuf,
            open_api: OpenApi::Absent,
            unknown_fields: UnknownFields::RefusedAsOfSdk025,
            flags: Flags::OfSdk025,
            ..Self::tinker()
        }
    }

    /// Returns the dialect of SkyRL 0.3.0: only JSON, a 500 response to protobuf request bodies, and no sequence numbers. If a
    /// client sends a request again, the request is applied again.
    ///
    /// This dialect does not imitate the ids of SkyRL (decimal request ids, models named `model_<hex>`), the second model that a
    /// repeated `create_model` creates, batches that fail together, the lack of zstd, the checks of names and losses, the values of
    /// losses, timestamps without a time zone, 405 for a wrong method, archives, and most error texts. It does imitate the error
    /// texts for unknown routes and results, checkpoint names in use, reused sequence numbers and failed operations.
    pub fn skyrl() -> Self {
        Self {
            pass_bodies: PassBodies::Json,
            other_bodies: OtherBodies::Crash,
            results: ResultForm::Json,
            open_api: OpenApi::Whole,
            repeats: Repeats::Again,
            loads: Loads::IntoModels,
            absent: without_management(&NOT_IN_SKYRL, &[Route::DeleteCheckpoint]),
            ..Self::skyrl_main()
        }
    }

    /// Returns the dialect of the main branch of SkyRL of August 2026. It differs from [`Dialect::skyrl`] as follows: it accepts
    /// and returns protobuf, applies a repeated pass or optimizer step only once, can delete checkpoints, loads a checkpoint only
    /// as the first request of a model, and has an OpenAPI document that omits the request body of `forward_backward`.
    ///
    /// This dialect leaves out the same behaviour as [`Dialect::skyrl`], except that `forward_backward` accepts zstd.
    pub fn skyrl_main() -> Self {
        Self {
            title: ("Tinker API Mock", "0.0.1"),
            open_api: OpenApi::PassWithoutBody,
            absent: without_management(&NOT_IN_SKYRL, &[]),
            flags: Flags::JwtAlone,
            sequence_ids: SequenceIds::Absent,
            words: Words::SkyRl,
            failures: Failures::Status(StatusCode::BAD_REQUEST),
            poll_end: PollEnd::Timeout,
            long_poll: Some(SKYRL_POLL),
            order: Order::OnArrival,
            repeats: Repeats::ComputeOnce,
            loads: Loads::FirstOfModel,
            max_tokens: MaxTokens::Required,
            stop: StopForm::List,
            prompt_logprobs: PromptLogprobs::FromSecond,
            sampler_paths: SamplerPaths::Bare,
            ..Self::tinker()
        }
    }

    /// Returns the dialect of TuFT 0.2.2, another server of this API: protobuf for request bodies of `forward_backward` and for
    /// results, only the request fields of the Python SDK 0.25, status 201 for creations, status 422 for failed operations, and a
    /// required API key.
    ///
    /// This dialect does not imitate the ids of TuFT, its status 202 for accepted requests, its refusal of a repeated request only
    /// when the request is run, its limits and their 429 responses, its OpenAI-compatible route, and its error texts. Unlike TuFT,
    /// this dialect refuses unknown fields of `sampling_params`.
    pub fn tuft() -> Self {
        Self {
            pass_bodies: PassBodies::Protobuf,
            title: ("TuFT", "0.1.0"),
            unknown_fields: UnknownFields::RefusedAsOfSdk025,
            absent: [
                Route::CancelFuture,
                Route::DynamicConfig,
                Route::FinishSession,
                Route::RetrieveFutures,
                Route::Forward,
            ]
            .into(),
            flags: Flags::OfSdk025,
            loads: Loads::IntoModels,
            key: KeyNeed::Always,
            created: StatusCode::CREATED,
            sequence_ids: SequenceIds::Absent,
            failures: Failures::Status(StatusCode::UNPROCESSABLE_ENTITY),
            ..Self::tinker()
        }
    }

    /// Returns the dialect of hatchery-core 0.3.0: only JSON, a 500 response to protobuf request bodies, a required API key, and failed
    /// operations of the type `request_failed`. The rest of this server are quirks:
    /// [`LocalConfig::set_hatchery`](crate::LocalConfig::set_hatchery) sets both.
    ///
    /// This dialect does not imitate the ids of hatchery, its custom losses in two steps, the fields of its client configuration,
    /// the list of models that it cannot serve, and the defects of the server: a repeated pass gets the request id of the
    /// first one although its gradients are added again, and weights that were saved for sampling with a name cannot be sampled.
    pub fn hatchery() -> Self {
        Self {
            pass_bodies: PassBodies::Json,
            other_bodies: OtherBodies::Crash,
            results: ResultForm::Json,
            title: ("Tinker-Compatible Training Platform", "0.3.0"),
            absent: without_management(
                &NOT_IN_SMALL_SERVERS,
                &[Route::TrainingRun, Route::TrainingRuns],
            ),
            key: KeyNeed::Always,
            flags: Flags::JwtAlone,
            sequence_ids: SequenceIds::Absent,
            failures: Failures::InTypedBody,
            order: Order::OnArrival,
            repeats: Repeats::Again,
            loads: Loads::IntoModels,
            ..Self::tinker()
        }
    }

    /// Returns the dialect of Twinkle 0.5.1 (the package twinkle-kit): only JSON, and a 500 response to protobuf request bodies.
    /// The rest of this server are quirks: [`LocalConfig::set_twinkle`](crate::LocalConfig::set_twinkle) sets both.
    ///
    /// This dialect does not imitate the ids of Twinkle, the status 400 for a missing `X-Request-Id` (this server responds with 403),
    /// `try_again` for unknown results, paths of sampler weights, which contain the time of the save in place of the name, and samplers
    /// of such a path, which Twinkle can use only together with the name of the base model.
    pub fn twinkle() -> Self {
        Self {
            pass_bodies: PassBodies::Json,
            other_bodies: OtherBodies::Crash,
            results: ResultForm::Json,
            title: ("FastAPI", "0.1.0"),
            absent: without_management(&NOT_IN_SMALL_SERVERS, &[]),
            flags: Flags::JwtAlone,
            sequence_ids: SequenceIds::Absent,
            order: Order::OnArrival,
            repeats: Repeats::Again,
            loads: Loads::IntoModels,
            ..Self::tinker()
        }
    }
}
