//! A session with parts of it exchanged: to observe what clients do with it, or with a fault in it.

use std::sync::Arc;
use std::time::Duration;

use tinkers::SessionContext;
use tinkers::wire::{ClientConfig, DynamicConfig};
use tinkers_core::{
    BoxFuture, BytesGuard, Caller, ClientId, Deduplication, Error, Fact, ServerProfile, Spawn,
};

/// A session that makes calls, and starts tasks, in its own way.
#[derive(Debug)]
pub(crate) struct OtherSession {
    pub(crate) session: Arc<dyn SessionContext>,
    pub(crate) caller: Caller,
    /// The session's own when `None`.
    pub(crate) spawner: Option<Box<dyn Spawn>>,
    /// Whether it takes any server for one that applies a repeated number once.
    pub(crate) repeats_blindly: bool,
}

impl SessionContext for OtherSession {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn spawner(&self) -> &dyn Spawn {
        match &self.spawner {
            Some(spawner) => &**spawner,
            None => self.session.spawner(),
        }
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
        match self.repeats_blindly {
            true => Arc::new(
                (*profile)
                    .clone()
                    .learn(Fact::Deduplicates(Deduplication::Everything)),
            ),
            false => profile,
        }
    }

    fn learn(&self, fact: Fact) {
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
