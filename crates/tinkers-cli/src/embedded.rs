//! Starting the embedded server, for `serve` and for `quickstart`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tinkers::{Time, TokioTime};
use tinkers_engine::ModelEngine;
use tinkers_local::{
    BlockingServer, Engine, EngineError, Faults, LocalConfig, LocalServer, Script, ScriptedEngine,
    TokioSpawn,
};
use tokio::runtime::Handle;

use crate::journal::JournalFile;

/// What answers.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A model on the CPU.
    Model {
        /// A directory in the Hugging Face layout; the built-in model when `None`.
        model_dir: Option<PathBuf>,
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

/// Starts a server; it ends with what is returned.
pub(crate) fn start(
    address: SocketAddr,
    backend: Backend,
    config: LocalConfig,
    tools: Tools,
) -> Result<BlockingServer> {
    let build = match backend {
        Backend::Scripted { latency, script } => Build::Scripted { latency, script },
        // Loaded here, so that what is wrong with a model is an error of its own.
        Backend::Model {
            model_dir,
            data_dir,
            seed,
        } => Build::Ready(Arc::new(
            load(model_dir.as_deref(), &data_dir)?.with_seed(seed),
        )),
    };
    BlockingServer::start(address, NonZeroUsize::MIN, move |handle| {
        build.server(handle, config, tools)
    })
    .context("the server cannot be started")
}

fn load(model_dir: Option<&Path>, data_dir: &Path) -> Result<ModelEngine> {
    match model_dir {
        None => ModelEngine::builtin(data_dir).context("the built-in model cannot be started"),
        Some(dir) => ModelEngine::from_model_dir(dir, data_dir)
            .with_context(|| format!("the model in {} cannot be served", dir.display())),
    }
}

/// What is left to do once there is a runtime.
enum Build {
    Ready(Arc<dyn Engine>),
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
        let engine = match self {
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
