//! The JSON request bodies of the routes.

use serde_json::Value;
use tinkers_wire as wire;

use super::Document;
use crate::read::{BackwardBody, ForwardBody, Route};

impl Document<'_> {
    /// Returns the schema of the JSON request body of a route; `None` if the route has no body.
    pub(super) fn body(&mut self, route: Route) -> Option<Value> {
        Some(match route {
            Route::ClientConfig | Route::DynamicConfig => {
                self.reference_to::<wire::ConfigRequest>()
            }
            Route::AuthToken => serde_json::json!({ "type": "object" }),
            Route::Telemetry => self.reference_to::<wire::Telemetry>(),
            Route::CreateSession => self.reference_to::<wire::CreateSession>(),
            Route::Heartbeat => self.reference_to::<wire::Heartbeat>(),
            Route::FinishSession => self.reference_to::<wire::FinishSession>(),
            Route::CreateModel => self.reference_to::<wire::CreateModel>(),
            Route::ModelInfo | Route::UnloadModel => self.reference_to::<wire::ModelRef>(),
            Route::Forward => self.reference_to::<ForwardBody>(),
            Route::ForwardBackward => self.reference_to::<BackwardBody>(),
            Route::OptimStep => self.reference_to::<wire::OptimStep>(),
            Route::SaveWeights => self.reference_to::<wire::SaveWeights>(),
            Route::SaveWeightsForSampler => self.reference_to::<wire::SaveWeightsForSampler>(),
            Route::LoadWeights => self.reference_to::<wire::LoadWeights>(),
            Route::WeightsInfo => self.reference_to::<wire::WeightsInfoRequest>(),
            Route::CreateSamplingSession => self.reference_to::<wire::CreateSamplingSession>(),
            Route::Sample => self.reference_to::<wire::SampleRequest>(),
            Route::RetrieveFuture => self.reference_to::<wire::RetrieveFuture>(),
            Route::CancelFuture => self.reference_to::<wire::CancelFuture>(),
            Route::RetrieveFutures => self.reference_to::<wire::RetrieveFutures>(),
            Route::SearchSessions => self.reference_to::<wire::SessionSearch>(),
            Route::SearchCheckpoints => self.reference_to::<wire::CheckpointSearch>(),
            Route::CopyWeights => self.reference_to::<wire::CopyWeights>(),
            Route::SessionProject => self.reference_to::<wire::AssignSessionProject>(),
            Route::CheckpointTtl => self.reference_to::<wire::SetCheckpointTtl>(),
            Route::Health
            | Route::ApiKey
            | Route::Capabilities
            | Route::Sessions
            | Route::Session
            | Route::Sampler
            | Route::TrainingRuns
            | Route::TrainingRun
            | Route::RunCheckpoints
            | Route::DeleteEscapedCheckpoint
            | Route::DeleteCheckpoint
            | Route::PublishCheckpoint
            | Route::TraceExport
            | Route::Audit
            | Route::BillingUsage
            | Route::CheckpointStorage
            | Route::Checkpoints => return None,
        })
    }
}
