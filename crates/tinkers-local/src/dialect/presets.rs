//! The servers that are known.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;

use super::{
    Dialect, Expiry, Failures, Flags, KeyNeed, Loads, MaxTokens, OpenApi, Order, OtherBodies,
    PassBodies, PollEnd, PromptLogprobs, Repeats, ResultForm, SamplerPaths, SequenceIds, StopForm,
    UnknownFields, Words,
};
use crate::read::Route;

/// What SkyRL has not.
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

/// SkyRL holds a poll for so long.
const SKYRL_POLL: Duration = Duration::from_secs(300);

impl Default for Dialect {
    fn default() -> Self {
        Self::tinker()
    }
}

impl Dialect {
    /// As the official service and its Python SDK 0.38 have it.
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

    /// No server that is known: JSON bodies alone, protobuf results alone, fields of the SDK 0.25 alone, and no document that
    /// would say so. What a client learns of it, it learns from 415 and 422.
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

    /// SkyRL 0.3.0: JSON alone, a 500 for a body of protobuf, and no numbers: what comes twice is applied twice.
    ///
    /// Not copied: the ids (its request ids are decimal numbers, its models `model_<hex>`), repeated `create_model` requests
    /// that make a second model, batches that fail together, content codings (it reads zstd nowhere), its checks of names
    /// and losses, values of its losses, timestamps without a zone, 405 where a path has another method, archives, its own error
    /// texts beyond those of unknown routes and results, names that are taken, numbers that are used and failed operations.
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

    /// SkyRL's main branch of August 2026: as [`Dialect::skyrl`], with protobuf both ways, checkpoints that can be deleted, and a
    /// document in which `forward_backward` has no body. The same is not copied, but that it does read zstd there.
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

    /// TuFT 0.2.2: protobuf both ways, the fields of the SDK 0.25 alone, 201 for what is new, 422 for an operation that failed,
    /// and a key.
    ///
    /// Not copied: its ids, 202 for promises, repeats that are refused when their turn comes, its limits and 429s, its OpenAI-compatible route, its error texts, and that it drops fields of
    /// `sampling_params` that it does not know, which are refused here.
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
