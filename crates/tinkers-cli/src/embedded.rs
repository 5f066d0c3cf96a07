//! The embedded server of `serve` and `quickstart`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tinkers::{Clock, TokioClock};
use tinkers_engine::ModelEngine;
use tinkers_local::{
    BlockingServer, Database, Engine, EngineError, Faults, LocalConfig, LocalServer, Script,
    ScriptedEngine, TokioSpawn,
};
use tokio::runtime::Handle;

use crate::blocking::run_blocking;
use crate::journal::JournalFile;
use crate::paths;

/// The engine to start, with its options.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A model on the CPU.
    Model {
        /// The model directory in the Hugging Face layout, and the name under which the server lists the model, if the user chose
        /// one. `None` instead of a directory stands for the built-in model.
        model: Option<(PathBuf, Option<String>)>,
        /// The directory in which checkpoints are stored.
        data_dir: PathBuf,
        /// The seed of samples and adapters whose requests contain no seed.
        seed: u64,
    },
    /// An engine that returns fixed results.
    Scripted {
        /// The duration of each operation of the engine.
        latency: Duration,
        /// The script of fixed values from which the scripted engine derives its results.
        script: Script,
    },
}

/// The faults that a server injects, and the file in which it records its HTTP exchanges. Both are used to test clients.
#[derive(Debug, Default)]
pub(crate) struct TestHooks {
    pub(crate) faults: Faults,
    pub(crate) journal: Option<JournalFile>,
}

/// How long a shutdown of the server waits for HTTP exchanges that have not ended.
const EXCHANGE_GRACE: Duration = Duration::from_millis(700);
/// How long a shutdown of the server waits for checkpoints that are being saved. This wait begins after the wait for HTTP
/// exchanges.
const SAVE_GRACE: Duration = Duration::from_secs(30);

/// A running embedded server with its own thread.
#[derive(Debug)]
pub(crate) struct Embedded {
    server: BlockingServer,
    /// The same server, to store what the last saves have changed.
    local: Arc<OnceLock<LocalServer>>,
    engine: Option<Arc<ModelEngine>>,
}

impl Embedded {
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Shuts the server down: stops accepting connections, waits briefly for HTTP exchanges that have not ended, and completes the
    /// saves and deletions of checkpoints that have been requested. If the future is dropped, the shutdown continues on a
    /// background thread.
    ///
    /// # Errors
    ///
    /// If the save of a checkpoint does not complete within 30 s.
    pub(crate) async fn shutdown(self) -> Result<()> {
        run_blocking(move || self.shutdown_blocking()).await?
    }

    fn shutdown_blocking(self) -> Result<()> {
        let Self {
            server,
            local,
            engine,
        } = self;
        let (sender, ended) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("tinkers-shutdown".to_owned())
            .spawn(move || {
                server.shutdown();
                drop(sender);
            })
            .context("cannot start a thread")?;
        // Exchanges that hang, such as incomplete requests, are dropped when the process ends.
        if ended.recv_timeout(EXCHANGE_GRACE) == Err(RecvTimeoutError::Timeout) {
            tracing::info!("dropping connections that are still open");
        }
        let is_complete = engine.is_none_or(|engine| engine.close(SAVE_GRACE));
        if let Some(local) = local.get() {
            local.flush();
        }
        if is_complete {
            return Ok(());
        }
        bail!(
            "a save did not complete within {} s and is lost",
            SAVE_GRACE.as_secs()
        )
    }
}

/// Starts an embedded server. The server stops when the returned value is dropped.
pub(crate) fn start(
    address: SocketAddr,
    backend: Backend,
    config: LocalConfig,
    hooks: TestHooks,
) -> Result<Embedded> {
    let (source, engine) = match backend {
        Backend::Scripted { latency, script } => (EngineSource::Scripted { latency, script }, None),
        // The model is loaded before the server starts, so that its errors are reported separately.
        Backend::Model {
            model,
            data_dir,
            seed,
        } => {
            let engine = Arc::new(load(model, &data_dir)?.with_seed(seed));
            let database =
                Database::open(&data_dir).with_context(|| paths::unusable_message(&data_dir))?;
            let loaded = Arc::<ModelEngine>::clone(&engine);
            (EngineSource::Loaded(loaded, database), Some(engine))
        }
    };
    let local = Arc::<OnceLock<LocalServer>>::default();
    let built = Arc::clone(&local);
    let server = BlockingServer::start(address, NonZeroUsize::MIN, move |handle| {
        let server = source.build_server(handle, config, hooks)?;
        Ok(built.get_or_init(|| server).clone())
    })
    .context("cannot start the server")?;
    Ok(Embedded {
        server,
        local,
        engine,
    })
}

fn load(model: Option<(PathBuf, Option<String>)>, data_dir: &Path) -> Result<ModelEngine> {
    let (engine, message) = match &model {
        None => (
            ModelEngine::builtin(data_dir),
            "cannot start the built-in model".to_owned(),
        ),
        Some((dir, name)) => (
            match name {
                None => ModelEngine::from_model_dir(dir, data_dir),
                Some(name) => ModelEngine::from_model_dir_named(dir, name, data_dir),
            },
            format!("cannot serve the model in {}", dir.display()),
        ),
    };
    engine.map_err(|error| {
        let is_data_dir_error = match &error {
            tinkers_engine::Error::InUse { .. } => true,
            tinkers_engine::Error::Io { path, .. } => path.starts_with(data_dir),
            _ => false,
        };
        let error = anyhow::Error::new(error);
        if is_data_dir_error {
            return error.context(paths::unusable_message(data_dir));
        }
        error.context(message)
    })
}

/// An engine that has been loaded, with the database of its data directory, or the options of a scripted engine. The scripted engine is created inside the runtime of the
/// server.
enum EngineSource {
    Loaded(Arc<ModelEngine>, Database),
    Scripted { latency: Duration, script: Script },
}

impl EngineSource {
    fn build_server(
        self,
        handle: &Handle,
        config: LocalConfig,
        hooks: TestHooks,
    ) -> Result<LocalServer, EngineError> {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        let (engine, database): (Arc<dyn Engine>, _) = match self {
            Self::Loaded(engine, database) => (engine, Some(database)),
            Self::Scripted { latency, script } => {
                let engine = ScriptedEngine::new(script);
                let engine = if latency.is_zero() {
                    Arc::new(engine)
                } else {
                    let spawn = Arc::<TokioSpawn>::clone(&spawn);
                    Arc::new(engine.with_latency(latency, Arc::clone(&time), spawn))
                        as Arc<dyn Engine>
                };
                (engine, None)
            }
        };
        let start = time.now();
        let mut server = LocalServer::builder(engine, time, spawn)
            .config(config)
            .faults(hooks.faults);
        if let Some(database) = database {
            server = server.store(database);
        }
        match hooks.journal {
            Some(file) => server.journal(file.journal(start)),
            None => server,
        }
        .build()
    }
}
