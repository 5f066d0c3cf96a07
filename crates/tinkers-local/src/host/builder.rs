//! The builder of a server.

use std::sync::Arc;
use std::time::SystemTime;

use tinkers_core::{Clock, Jitter, Spawn, SplitMix};

use super::core::{LocalServer, Parts};
use crate::config::LocalConfig;
use crate::engine::{Engine, EngineError};
use crate::faults::Faults;
use crate::journal::Journal;
use crate::store::RecordStore;

/// A builder of a [`LocalServer`].
#[derive(Debug)]
pub struct LocalServerBuilder {
    engine: Arc<dyn Engine>,
    time: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    config: LocalConfig,
    random: Option<Arc<dyn Jitter>>,
    faults: Option<Faults>,
    journal: Option<Journal>,
    store: Option<Box<dyn RecordStore>>,
}

impl LocalServer {
    /// Returns a builder of a server that runs its jobs on `engine`. The server reads the time from the clock `time`. Its timer
    /// task, which handles timeouts, runs on `spawn`.
    pub fn builder(
        engine: Arc<dyn Engine>,
        time: Arc<dyn Clock>,
        spawn: Arc<dyn Spawn>,
    ) -> LocalServerBuilder {
        LocalServerBuilder {
            engine,
            time,
            spawn,
            config: LocalConfig::default(),
            random: None,
            faults: None,
            journal: None,
            store: None,
        }
    }
}

impl LocalServerBuilder {
    /// Sets the configuration of the server. The default is `LocalConfig::default()`.
    #[must_use]
    pub fn config(mut self, config: LocalConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the source of random bits for ids. The default is a generator that is seeded with the current time.
    #[must_use]
    pub fn jitter(mut self, random: Arc<dyn Jitter>) -> Self {
        self.random = Some(random);
        self
    }

    /// Sets the fault script, which injects faults into requests. By default, no faults are injected.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Sets the journal, which records every request with its response. By default, nothing is recorded.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Sets the storage of the records, such as sessions, training runs and the usage. By default, they are kept in memory only.
    #[must_use]
    pub fn store(mut self, store: impl RecordStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Starts the server. It is then ready for requests.
    ///
    /// # Errors
    /// If the engine cannot read its checkpoints, or the store its records.
    pub fn build(self) -> Result<LocalServer, EngineError> {
        let random = self.random.unwrap_or_else(|| seeded(&*self.time));
        LocalServer::start(Parts {
            engine: self.engine,
            time: self.time,
            spawn: self.spawn,
            config: self.config,
            random,
            faults: self.faults.unwrap_or_default(),
            journal: self.journal,
            store: self.store,
        })
    }
}

/// Returns a source of random bits whose seed is the current time.
fn seeded(time: &dyn Clock) -> Arc<dyn Jitter> {
    let date = time
        .wall()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    // Truncation keeps the fast-changing bits, which differ between starts.
    Arc::new(SplitMix::new(date.as_nanos() as u64))
}
