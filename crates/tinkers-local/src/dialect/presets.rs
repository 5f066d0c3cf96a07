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

/// Routes that SkyRL does not have.
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

/// How long SkyRL holds a poll.
const SKYRL_POLL: Duration = Duration::from_secs(300);

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

    /// Returns a strict dialect, which no known server has: only JSON bodies, only protobuf results, only the fields of the SDK 0.25,
    /// and no OpenAPI document. A client can discover this from 415 and 422 responses only.
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

    /// Returns the dialect of SkyRL 0.3.0: only JSON, a 500 for protobuf bodies, and no numbers, so repeated requests are applied again.
    ///
    /// Not imitated: its ids (decimal request ids, models named `model_<hex>`), a second model for a repeated `create_model`, batches
    /// that fail together, its lack of zstd, its checks of names and losses, the values of its losses, timestamps without a time
    /// zone, 405 for a wrong method, archives, and most error texts. The texts for unknown routes and results, used names, reused
    /// numbers and failed operations are imitated.
    pub fn skyrl() -> Self {
        Self {
            pass_bodies: PassBodies::Json,
            other_bodies: OtherBodies::Crash,
            results: ResultForm::Json,
            open_api: OpenApi::Whole,
            repeats: Repeats::Again,
            loads: Loads::IntoModels,
            absent: NOT_IN_SKYRL
                .into_iter()
                .chain([Route::DeleteCheckpoint])
                .collect(),
            ..Self::skyrl_main()
        }
    }

    /// Returns the dialect of the main branch of SkyRL of August 2026: as [`Dialect::skyrl`], with protobuf for bodies and results,
    /// deletable checkpoints, and an OpenAPI document without the body of `forward_backward`. The same is not imitated, except that
    /// it accepts zstd for that route.
    pub fn skyrl_main() -> Self {
        Self {
            title: ("Tinker API Mock", "0.0.1"),
            open_api: OpenApi::PassWithoutBody,
            absent: NOT_IN_SKYRL.into(),
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

    /// Returns the dialect of TuFT 0.2.2: protobuf for bodies and results, only the fields of the SDK 0.25, 201 for creations, 422 for
    /// failed operations, and a required key.
    ///
    /// Not imitated: its ids, 202 for accepted requests, the refusal of repeated requests when they run, its limits and 429s, its
    /// OpenAI-compatible route, its error texts, and that it ignores unknown fields of `sampling_params`, which are refused here.
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
}
