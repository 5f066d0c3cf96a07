//! The responses of the routes.

use schemars::JsonSchema;
use serde_json::{Value, json};
use tinkers_wire as wire;

use super::Document;
use crate::dialect::Words;
use crate::read::Route;

/// The body of an error response.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Refused {
    /// The reason as text, or a list with one entry for each invalid field.
    detail: Detail,
    /// The time that the client should wait before it sends the request again, in milliseconds.
    retry_after_ms: Option<u64>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Detail {
    Text(String),
    Fields(Vec<Finding>),
}

/// The description of an invalid field in an error response.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Finding {
    /// The path of the field: `body` or `query`, followed by names and indices.
    loc: Vec<Step>,
    /// A text that says why the field is invalid.
    msg: String,
    /// The kind of error, such as `value_error`.
    #[serde(rename = "type")]
    kind: String,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Step {
    Name(String),
    Index(u64),
}

/// Returns the error statuses with which a route may respond to a well-formed request, such as 404 for an unknown id.
pub(super) fn refusals(route: Route) -> &'static [u16] {
    match route {
        Route::Health
        | Route::Capabilities
        | Route::ClientConfig
        | Route::DynamicConfig
        | Route::AuthToken
        | Route::ApiKey
        | Route::Telemetry
        | Route::CreateSession => &[],
        Route::Sessions
        | Route::TrainingRuns
        | Route::Checkpoints
        | Route::SearchSessions
        | Route::SearchCheckpoints
        | Route::Audit
        | Route::BillingUsage
        | Route::CheckpointStorage => &[422],
        Route::SessionProject | Route::CheckpointTtl | Route::TraceExport => &[404],
        Route::CopyWeights => &[404, 500],
        Route::PublishCheckpoint => &[404, 409],
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
        Route::DeleteEscapedCheckpoint | Route::DeleteCheckpoint => &[400, 404, 409, 429, 500],
    }
}

impl Document<'_> {
    /// Returns the schema of the successful response of a route; `None` if the response has no body.
    pub(super) fn response(&mut self, route: Route) -> Option<Value> {
        Some(match route {
            Route::Health => json!({
                "type": "object",
                "properties": { "status": { "const": "ok" } },
                "required": ["status"],
            }),
            Route::Capabilities => self.reference_to::<wire::Capabilities>(),
            Route::ClientConfig => self.reference_to::<wire::ClientConfig>(),
            Route::DynamicConfig => self.reference_to::<wire::DynamicConfig>(),
            Route::AuthToken => json!({
                "type": "object",
                "properties": { "jwt": { "type": "string" } },
                "required": ["jwt"],
            }),
            Route::ApiKey => json!({
                "type": "object",
                "properties": {
                    "key_id": { "type": "integer" },
                    "name": { "type": "string" },
                    "note": { "type": "string" },
                    "details": { "type": "object" },
                },
                "required": ["key_id", "name"],
            }),
            Route::Telemetry => self.reference_to::<wire::TelemetryAccepted>(),
            Route::CreateSession => self.reference_to::<wire::SessionCreated>(),
            Route::Heartbeat => json!({
                "type": "object",
                "properties": { "type": { "const": "session_heartbeat" } },
                "required": ["type"],
            }),
            Route::FinishSession
            | Route::CancelFuture
            | Route::SessionProject
            | Route::CheckpointTtl
            | Route::PublishCheckpoint => json!({ "type": "object" }),
            Route::SearchSessions => self.reference_to::<wire::SessionSearchPage>(),
            Route::SearchCheckpoints => self.reference_to::<wire::CheckpointSearchPage>(),
            Route::CopyWeights => self.reference_to::<wire::NewCheckpoint>(),
            Route::Audit => self.reference_to::<wire::AuditLog>(),
            Route::BillingUsage => self.reference_to::<wire::BillingUsage>(),
            Route::CheckpointStorage => self.reference_to::<wire::CheckpointStorageUsage>(),
            Route::TraceExport => self.reference_to::<wire::TraceExport>(),
            Route::Sessions => self.reference_to::<wire::SessionList>(),
            Route::Session => self.reference_to::<wire::SessionInfo>(),
            Route::ModelInfo => self.reference_to::<wire::ModelInfo>(),
            Route::WeightsInfo => self.reference_to::<wire::WeightsInfo>(),
            Route::CreateSamplingSession => self.reference_to::<wire::SamplingSessionCreated>(),
            Route::Sampler => self.reference_to::<wire::SamplerInfo>(),
            Route::CreateModel
            | Route::UnloadModel
            | Route::Forward
            | Route::ForwardBackward
            | Route::OptimStep
            | Route::SaveWeights
            | Route::SaveWeightsForSampler
            | Route::LoadWeights
            | Route::Sample => self.reference_to::<wire::SubmissionResponse>(),
            Route::RetrieveFuture => self.polled(),
            Route::RetrieveFutures => self.reference_to::<wire::Completions>(),
            Route::TrainingRuns => self.reference_to::<wire::TrainingRunList>(),
            Route::TrainingRun => self.reference_to::<wire::TrainingRun>(),
            Route::RunCheckpoints | Route::Checkpoints => {
                self.reference_to::<wire::CheckpointList>()
            }
            Route::DeleteEscapedCheckpoint | Route::DeleteCheckpoint => return None,
        })
    }

    /// Returns the schema of the response to a poll. The response is a result, a failure, or a notice that the operation has not
    /// ended.
    fn polled(&mut self) -> Value {
        let text = json!({ "type": "string" });
        let mut all = vec![
            json!({
                "title": "TryAgain",
                "description": "The operation has not ended.",
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
                "description": "The result is large; poll again without allow_metadata_only.",
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
                "description": "The operation failed.",
                "type": "object",
                "properties": {
                    "error": text,
                    "category": { "enum": ["unknown", "server", "user"] },
                },
                "required": ["error", "category"],
            }),
            sampled(),
            self.reference_to::<wire::ForwardBackwardOutput>(),
            self.reference_to::<wire::OptimStepResult>(),
            self.reference_to::<wire::SavedWeights>(),
            self.reference_to::<wire::SavedSamplerWeights>(),
            self.reference_to::<wire::LoadedWeights>(),
            self.reference_to::<wire::ModelCreated>(),
            self.reference_to::<wire::UnloadedModel>(),
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
