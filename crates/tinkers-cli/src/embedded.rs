//! Starts and ends the embedded server, for `serve` and for `quickstart`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tinkers::{Time, TokioTime};
use tinkers_engine::ModelEngine;
use tinkers_local::{
    BlockingServer, Engine, EngineError, Faults, LocalConfig, LocalServer, Script, ScriptedEngine,
    TokioSpawn,
};
use tokio::runtime::Handle;

use crate::aside::aside;
use crate::journal::JournalFile;
use crate::paths;

/// What answers.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A model on the CPU.
    Model {
        /// A directory in the Hugging Face layout, and the name to serve it under; the built-in model when `None`.
        model: Option<(PathBuf, Option<String>)>,
        /// Where checkpoints are kept.
        data_dir: PathBuf,
        /// Where chance comes from for what has no seed of its own.
        seed: u64,
    },
    /// Canned results.
    Scripted {
        /// How long each job takes.
        latency: Duration,
        /// What they give.
        script: Script,
    },
}

/// What goes wrong with a server, and who is told what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    pub(crate) faults: Faults,
    pub(crate) journal: Option<JournalFile>,
}

/// How long exchanges under way may take to end at a shutdown.
const EXCHANGES: Duration = Duration::from_millis(700);
/// How long saves that have begun may take to end after that.
const SAVES: Duration = Duration::from_secs(30);

/// A server on a thread of its own.
#[derive(Debug)]
pub(crate) struct Embedded {
    server: BlockingServer,
    engine: Option<Arc<ModelEngine>>,
}

impl Embedded {
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Ends it: takes no new connections, gives exchanges under way a moment, and finishes saves and deletions that have begun.
    /// Dropped before it is done, the future leaves the rest to a thread, which goes with the process.
    ///
    /// # Errors
    /// When a save was not finished within half a minute.
    pub(crate) async fn shutdown(self) -> Result<()> {
        aside(move || self.end()).await?
    }

    fn end(self) -> Result<()> {
        let Self { server, engine } = self;
        let (sender, ended) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("tinkers-shutdown".to_owned())
            .spawn(move || {
                server.shutdown();
                drop(sender);
            })
            .context("no thread can be started")?;
        // An exchange that hangs, such as one whose request never ends, is cut with the process.
        if ended.recv_timeout(EXCHANGES) == Err(RecvTimeoutError::Timeout) {
            tracing::info!("cutting connections that are still open");
        }
        if engine.is_none_or(|engine| engine.close(SAVES)) {
            return Ok(());
        }
        bail!(
            "a save was not finished within {} s and is lost",
            SAVES.as_secs()
        )
    }
}

/// Starts a server; it ends with what is returned.
pub(crate) fn start(
    address: SocketAddr,
    backend: Backend,
    config: LocalConfig,
    tools: Tools,
) -> Result<Embedded> {
    let (build, engine) = match backend {
        Backend::Scripted { latency, script } => (Build::Scripted { latency, script }, None),
        // Loaded here, so that what is wrong with a model is an error of its own.
        Backend::Model {
            model,
            data_dir,
            seed,
        } => {
            let engine = Arc::new(load(model, &data_dir)?.with_seed(seed));
            (
                Build::Ready(Arc::<ModelEngine>::clone(&engine)),
                Some(engine),
            )
        }
    };
    let server = BlockingServer::start(address, NonZeroUsize::MIN, move |handle| {
        build.server(handle, config, tools)
    })
    .context("the server cannot be started")?;
    Ok(Embedded { server, engine })
}

fn load(model: Option<(PathBuf, Option<String>)>, data_dir: &Path) -> Result<ModelEngine> {
    let (engine, what) = match &model {
        None => (
            ModelEngine::builtin(data_dir),
            "the built-in model cannot be started".to_owned(),
        ),
        Some((dir, name)) => (
            match name {
                None => ModelEngine::from_model_dir(dir, data_dir),
                Some(name) => ModelEngine::from_model_dir_named(dir, name, data_dir),
            },
            format!("the model in {} cannot be served", dir.display()),
        ),
    };
    engine.map_err(|error| {
        let is_of_data = match &error {
            tinkers_engine::Error::InUse { .. } => true,
            tinkers_engine::Error::Io { path, .. } => path.starts_with(data_dir),
            _ => false,
        };
        let error = anyhow::Error::new(error);
        if is_of_data {
            return error.context(paths::unusable(data_dir));
        }
        error.context(what)
    })
}

/// What is left to do once there is a runtime.
enum Build {
    Ready(Arc<ModelEngine>),
    Scripted { latency: Duration, script: Script },
}

impl Build {
    fn server(
        self,
        handle: &Handle,
        config: LocalConfig,
        tools: Tools,
    ) -> Result<LocalServer, EngineError> {
        let time: Arc<dyn Time> = Arc::new(TokioTime::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        let engine: Arc<dyn Engine> = match self {
            Self::Ready(engine) => engine,
            Self::Scripted { latency, script } => {
                let engine = ScriptedEngine::new(script);
                if latency.is_zero() {
                    Arc::new(engine)
                } else {
                    let spawn = Arc::<TokioSpawn>::clone(&spawn);
                    Arc::new(engine.with_latency(latency, Arc::clone(&time), spawn))
                        as Arc<dyn Engine>
                }
            }
        };
        let start = time.now();
        let server = LocalServer::builder(engine, time, spawn)
            .config(config)
            .faults(tools.faults);
        match tools.journal {
            Some(file) => server.journal(file.journal(start)),
            None => server,
        }
        .build()
    }
}
