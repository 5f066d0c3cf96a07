//! What routes answer.

use schemars::JsonSchema;
use serde_json::{Value, json};
use tinkers_wire as wire;

use super::Document;
use crate::dialect::Words;
use crate::read::Route;

/// Why a request was refused.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what it is for")]
pub(super) struct Refused {
    /// In words, or field by field.
    detail: Detail,
    /// When to come back, in milliseconds.
    retry_after_ms: Option<u64>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its schema is what it is for")]
enum Detail {
    Text(String),
    Fields(Vec<Finding>),
}

/// What is wrong with one field.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is what it is for")]
struct Finding {
    /// The way to the field: `body` or `query`, then names and indices.
    loc: Vec<Step>,
    /// What was expected.
    msg: String,
    /// The kind of error.
    #[serde(rename = "type")]
    kind: String,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its schema is what it is for")]
enum Step {
    Name(String),
    Index(u64),
}

/// The statuses with which a route refuses what can be read.
pub(super) fn refusals(route: Route) -> &'static [u16] {
    match route {
        Route::Health
        | Route::Capabilities
        | Route::ClientConfig
        | Route::DynamicConfig
        | Route::Telemetry
        | Route::CreateSession => &[],
        Route::Sessions | Route::TrainingRuns | Route::Checkpoints => &[422],
        Route::FinishSession
        | Route::Session
        | Route::WeightsInfo
        | Route::Sampler
        | Route::TrainingRun
        | Route::RunCheckpoints
        | Route::RetrieveFutures => &[404],
        Route::Heartbeat
        | Route::ModelInfo
        | Route::UnloadModel
        | Route::RetrieveFuture
        | Route::CancelFuture => &[404, 410],
        Route::CreateModel | Route::CreateSamplingSession => &[404, 409, 410],
        Route::Forward
        | Route::ForwardBackward
        | Route::OptimStep
        | Route::SaveWeights
        | Route::SaveWeightsForSampler
        | Route::LoadWeights
        | Route::Sample => &[404, 409, 410, 429],
        Route::DeleteEscapedCheckpoint | Route::DeleteCheckpoint => &[400, 404, 409, 500],
    }
}

impl Document<'_> {
    /// The schema of what a route answers when all is well; `None` when that has no body.
    pub(super) fn answer(&mut self, route: Route) -> Option<Value> {
        Some(match route {
            Route::Health => json!({
                "type": "object",
                "properties": { "status": { "const": "ok" } },
                "required": ["status"],
            }),
            Route::Capabilities => self.of::<wire::Capabilities>(),
            Route::ClientConfig => self.of::<wire::ClientConfig>(),
            Route::DynamicConfig => self.of::<wire::DynamicConfig>(),
            Route::Telemetry => self.of::<wire::TelemetryAccepted>(),
            Route::CreateSession => self.of::<wire::SessionCreated>(),
            Route::Heartbeat => json!({
                "type": "object",
                "properties": { "type": { "const": "session_heartbeat" } },
                "required": ["type"],
            }),
            Route::FinishSession | Route::CancelFuture => json!({ "type": "object" }),
            Route::Sessions => self.of::<wire::SessionList>(),
            Route::Session => self.of::<wire::SessionInfo>(),
            Route::ModelInfo => self.of::<wire::ModelInfo>(),
            Route::WeightsInfo => self.of::<wire::WeightsInfo>(),
            Route::CreateSamplingSession => self.of::<wire::SamplingSessionCreated>(),
            Route::Sampler => self.of::<wire::SamplerInfo>(),
            Route::CreateModel
            | Route::UnloadModel
            | Route::Forward
            | Route::ForwardBackward
            | Route::OptimStep
            | Route::SaveWeights
            | Route::SaveWeightsForSampler
            | Route::LoadWeights
            | Route::Sample => self.of::<wire::SubmissionResponse>(),
            Route::RetrieveFuture => self.polled(),
            Route::RetrieveFutures => self.of::<wire::Completions>(),
            Route::TrainingRuns => self.of::<wire::TrainingRunList>(),
            Route::TrainingRun => self.of::<wire::TrainingRun>(),
            Route::RunCheckpoints | Route::Checkpoints => self.of::<wire::CheckpointList>(),
            Route::DeleteEscapedCheckpoint | Route::DeleteCheckpoint => return None,
        })
    }

    /// A result, or why there is none.
    fn polled(&mut self) -> Value {
        let text = json!({ "type": "string" });
        let mut all = vec![
            json!({
                "title": "TryAgain",
                "description": "It has not ended.",
                "type": "object",
                "properties": {
                    "type": { "const": "try_again" },
                    "request_id": text,
                    "queue_state": { "enum": ["active", "paused_rate_limit", "paused_capacity"] },
                    "queue_state_reason": text,
                },
                "required": ["type", "request_id", "queue_state"],
            }),
            json!({
                "title": "CompleteMetadata",
                "description": "It is there and large; ask again without allow_metadata_only.",
                "type": "object",
                "properties": {
                    "status": { "const": "complete_metadata" },
                    "request_id": text,
                    "response_payload_size": { "type": "integer", "minimum": 0 },
                },
                "required": ["status", "request_id", "response_payload_size"],
            }),
            json!({
                "title": "Failed",
                "description": "It failed.",
                "type": "object",
                "properties": {
                    "error": text,
                    "category": { "enum": ["unknown", "server", "user"] },
                },
                "required": ["error", "category"],
            }),
            sampled(),
            self.of::<wire::ForwardBackwardOutput>(),
            self.of::<wire::OptimStepResult>(),
            self.of::<wire::SavedWeights>(),
            self.of::<wire::SavedSamplerWeights>(),
            self.of::<wire::LoadedWeights>(),
            self.of::<wire::ModelCreated>(),
            self.of::<wire::UnloadedModel>(),
        ];
        if self.dialect().words == Words::SkyRl {
            all.push(json!({ "type": "object" }));
        }
        json!({ "anyOf": all })
    }
}

fn sampled() -> Value {
    let numbers = json!({ "type": ["array", "null"], "items": { "type": ["number", "null"] } });
    json!({
        "title": "SampleResponse",
        "type": "object",
        "properties": {
            "type": { "const": "sample" },
            "sequences": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "stop_reason": { "type": "string" },
                        "tokens": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
                        "logprobs": numbers,
                    },
                    "required": ["stop_reason", "tokens"],
                },
            },
            "prompt_logprobs": numbers,
            "topk_prompt_logprobs": { "type": ["array", "null"] },
            "prompt_cache_hit_tokens": { "type": ["integer", "null"] },
        },
        "required": ["sequences"],
    })
}
