//! The JSON bodies that routes take.

use serde_json::Value;
use tinkers_wire as wire;

use super::Document;
use crate::read::{BackwardBody, ForwardBody, Route};

impl Document<'_> {
    /// The schema of a route's JSON body; `None` of one without.
    pub(super) fn body(&mut self, route: Route) -> Option<Value> {
        Some(match route {
            Route::ClientConfig | Route::DynamicConfig => self.of::<wire::ConfigRequest>(),
            Route::Telemetry => self.of::<wire::Telemetry>(),
            Route::CreateSession => self.of::<wire::CreateSession>(),
            Route::Heartbeat => self.of::<wire::Heartbeat>(),
            Route::FinishSession => self.of::<wire::FinishSession>(),
            Route::CreateModel => self.of::<wire::CreateModel>(),
            Route::ModelInfo | Route::UnloadModel => self.of::<wire::ModelRef>(),
            Route::Forward => self.of::<ForwardBody>(),
            Route::ForwardBackward => self.of::<BackwardBody>(),
            Route::OptimStep => self.of::<wire::OptimStep>(),
            Route::SaveWeights => self.of::<wire::SaveWeights>(),
            Route::SaveWeightsForSampler => self.of::<wire::SaveWeightsForSampler>(),
            Route::LoadWeights => self.of::<wire::LoadWeights>(),
            Route::WeightsInfo => self.of::<wire::WeightsInfoRequest>(),
            Route::CreateSamplingSession => self.of::<wire::CreateSamplingSession>(),
            Route::Sample => self.of::<wire::SampleRequest>(),
            Route::RetrieveFuture => self.of::<wire::RetrieveFuture>(),
            Route::CancelFuture => self.of::<wire::CancelFuture>(),
            Route::RetrieveFutures => self.of::<wire::RetrieveFutures>(),
            Route::Health
            | Route::Capabilities
            | Route::Sessions
            | Route::Session
            | Route::Sampler
            | Route::TrainingRuns
            | Route::TrainingRun
            | Route::RunCheckpoints
            | Route::DeleteEscapedCheckpoint
            | Route::DeleteCheckpoint
            | Route::Checkpoints => return None,
        })
    }
}
