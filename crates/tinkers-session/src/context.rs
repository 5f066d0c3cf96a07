//! The implementation of [`SessionContext`], through which training and sampling clients use the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tinkers_core::{
    BoxFuture, BytesGuard, Caller, ClientId, Error, ProfileUpdate, RecoveredError, ServerProfile,
    SessionContext, Spawn,
};
use tinkers_wire::{ClientConfig, DynamicConfig};

use crate::session::Session;

impl SessionContext for Session {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn spawner(&self) -> &dyn Spawn {
        &*self.spawner
    }

    fn session_id(&self) -> &str {
        &self.id
    }

    fn config(&self) -> &ClientConfig {
        &self.config
    }

    fn dynamic_config(&self) -> Arc<DynamicConfig> {
        self.state.dynamic.load_full()
    }

    fn profile(&self) -> Arc<ServerProfile> {
        let profile = self.endpoint.profile();
        match self.options.body_format {
            // The option of the caller applies to this session only.
            Some(format) => Arc::new((*profile).clone().with_body_format(format)),
            None => profile,
        }
    }

    fn learn(&self, fact: ProfileUpdate) {
        self.endpoint.learn(fact);
    }

    fn check_open(&self) -> Result<(), Error> {
        self.state.check_open()
    }

    fn operation_failed(&self, operation: &'static str, error: &Error) {
        if let Some(telemetry) = &self.telemetry {
            telemetry.operation_failed(operation, error);
        }
    }

    fn cancel_sample(&self, request_id: &str) {
        // The samples of a closed session end with it.
        let is_wanted =
            self.state.check_open().is_ok() && self.state.dynamic.load().sample_cancel_enabled;
        if is_wanted && !self.cancels.push(request_id) {
            let recovered_errors = &self.caller.recovered_errors;
            recovered_errors.record(RecoveredError::Cancellation, &"too many are waiting");
        }
    }

    fn confirm(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.heartbeat_now())
    }

    fn next_client(&self) -> ClientId {
        self.endpoint.limiter().next_client()
    }

    fn next_model_seq(&self) -> u64 {
        self.model_seq.fetch_add(1, Ordering::Relaxed)
    }

    fn next_sampling_seq(&self) -> u64 {
        self.sampling_seq.fetch_add(1, Ordering::Relaxed)
    }

    fn progress_deadline(&self) -> Duration {
        self.options.progress_deadline
    }

    fn operation_deadline(&self) -> Option<Duration> {
        self.options.operation_deadline
    }

    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard> {
        Box::pin(self.response_bytes.acquire(bytes))
    }
}
