//! A session that replaces some parts of another session, for monitors and negative controls.

use std::sync::Arc;
use std::time::Duration;

use tinkers::SessionContext;
use tinkers::wire::{ClientConfig, DynamicConfig};
use tinkers_core::{
    BoxFuture, BytesGuard, Caller, ClientId, Deduplication, Error, ProfileUpdate, ServerProfile,
    Spawn,
};

/// A session that behaves like another session, but has a different caller (which sends requests),
/// spawner or server profile. Used to add monitors and the bugs of negative controls to a session.
#[derive(Debug)]
pub(crate) struct SessionOverride {
    pub(crate) session: Arc<dyn SessionContext>,
    pub(crate) caller: Caller,
    /// The spawner of this session. `None` to use the spawner of the original session.
    pub(crate) spawner: Option<Box<dyn Spawn>>,
    /// Whether the server profile always states that the server deduplicates requests, so that the
    /// client retries every request.
    pub(crate) always_retries: bool,
}

impl SessionContext for SessionOverride {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn spawner(&self) -> &dyn Spawn {
        match &self.spawner {
            Some(spawner) => &**spawner,
            None => self.session.spawner(),
        }
    }

    fn operation_failed(&self, operation: &'static str, error: &Error) {
        self.session.operation_failed(operation, error);
    }

    fn cancel_sample(&self, request_id: &str) {
        self.session.cancel_sample(request_id);
    }

    fn session_id(&self) -> &str {
        self.session.session_id()
    }

    fn config(&self) -> &ClientConfig {
        self.session.config()
    }

    fn dynamic_config(&self) -> Arc<DynamicConfig> {
        self.session.dynamic_config()
    }

    fn profile(&self) -> Arc<ServerProfile> {
        let profile = self.session.profile();
        match self.always_retries {
            true => Arc::new(
                (*profile)
                    .clone()
                    .learn(ProfileUpdate::Deduplicates(Deduplication::Everything)),
            ),
            false => profile,
        }
    }

    fn learn(&self, fact: ProfileUpdate) {
        self.session.learn(fact);
    }

    fn check_open(&self) -> Result<(), Error> {
        self.session.check_open()
    }

    fn confirm(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.session.confirm()
    }

    fn next_client(&self) -> ClientId {
        self.session.next_client()
    }

    fn next_model_seq(&self) -> u64 {
        self.session.next_model_seq()
    }

    fn next_sampling_seq(&self) -> u64 {
        self.session.next_sampling_seq()
    }

    fn progress_deadline(&self) -> Duration {
        self.session.progress_deadline()
    }

    fn operation_deadline(&self) -> Option<Duration> {
        self.session.operation_deadline()
    }

    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard> {
        self.session.response_bytes(bytes)
    }
}
