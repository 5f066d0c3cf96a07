//! What a check is given: a server to connect to, and what was found out about it before.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::prelude::*;
use tinkers::transport::BoxFuture;
use tokio::sync::OnceCell;

use crate::checks::text;
use crate::recorder::Recorder;
use crate::verdict::Stop;

/// Opens a session whose transport has the recorder over it.
pub type Connect =
    Arc<dyn Fn(Recorder) -> BoxFuture<'static, Result<Service, Error>> + Send + Sync>;

/// A session.
pub type Service = ServiceClient;

/// What works behind the server's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A model that learns.
    Model,
    /// A stand-in for one: what was learnt is not compared, and what needs it is not on offer.
    Mock,
}

/// What is said of the server beforehand.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What works behind it.
    pub engine: Engine,
    /// The base model to train and to sample from.
    pub model: String,
    /// The rank of adapters.
    pub rank: u32,
    /// The size of the vocabulary that is used: tokens are from 3 up to here.
    pub vocabulary: u32,
}

impl Setting {
    /// Adapters of rank 8 over `model`, with the tokens below 96.
    pub fn of(model: impl Into<String>) -> Self {
        Self {
            engine: Engine::Model,
            model: model.into(),
            rank: 8,
            vocabulary: 96,
        }
    }
}

/// What a check is given.
pub struct Context {
    /// What is said of the server.
    pub setting: Setting,
    /// What was exchanged.
    pub recorder: Recorder,
    connect: Connect,
    service: OnceCell<Service>,
    trained: OnceCell<Trained>,
    names: AtomicU32,
    run: String,
    /// Models of the check that runs, to be freed after it: servers have room for a few.
    models: Mutex<Vec<TrainingClient>>,
}

/// A model that was trained a little, which the checks that change nothing share.
#[derive(Debug)]
pub struct Trained {
    /// The model.
    pub client: TrainingClient,
    /// The loss per token before the first step, and after the last.
    pub losses: (f64, f64),
}

impl Context {
    /// A context for a server that `connect` connects to. `run` tells this run's names on the server from those of others.
    pub fn new(connect: Connect, setting: Setting, run: impl Into<String>) -> Self {
        Self {
            setting,
            recorder: Recorder::default(),
            connect,
            service: OnceCell::new(),
            trained: OnceCell::new(),
            names: AtomicU32::new(0),
            run: run.into(),
            models: Mutex::default(),
        }
    }

    /// The session that the checks share.
    pub async fn service(&self) -> Result<&Service, Stop> {
        let service = self.service.get_or_try_init(|| self.connect());
        Ok(service.await?)
    }

    /// A session of its own.
    pub async fn connect(&self) -> Result<Service, Error> {
        (self.connect)(self.recorder.clone()).await
    }

    /// A new model with an adapter of its own, which is freed when the check is over.
    pub async fn model(&self) -> Result<TrainingClient, Stop> {
        let made = self.lasting_model().await?;
        self.free_later(&made);
        Ok(made)
    }

    /// Frees a model when the check is over.
    pub fn free_later(&self, model: &TrainingClient) {
        self.models().push(model.clone());
    }

    /// Frees the models of the check that is over, where the server can, and lets the shared one go on after what was refused.
    pub async fn free_models(&self) {
        if let Some(trained) = self.trained.get() {
            // One that cannot go on says so in the next check.
            let _ = trained.client.recover();
        }
        let models = std::mem::take(&mut *self.models());
        for model in models {
            // One that cannot be freed goes with the session.
            drop(model.unload().await);
        }
    }

    fn models(&self) -> MutexGuard<'_, Vec<TrainingClient>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lasting_model(&self) -> Result<TrainingClient, Stop> {
        let creation = self.service().await?.lora_training(&self.setting.model);
        Ok(creation.rank(self.setting.rank).seed(7).create().await?)
    }

    /// The model that the checks share, trained a little.
    pub async fn trained(&self) -> Result<&Trained, Stop> {
        self.trained
            .get_or_try_init(|| async {
                let client = self.lasting_model().await?;
                let data = text::data(&self.setting, 4, 24);
                if self.setting.engine == Engine::Model {
                    let bystander = self.model().await?;
                    text::check_learning(&client, &bystander, &data).await?;
                }
                let losses = text::train(&client, &data, 8).await?;
                let (first, last) = (losses[0], losses[losses.len() - 1]);
                Ok(Trained {
                    client,
                    losses: (first, last),
                })
            })
            .await
    }

    /// Whether what was learnt can be compared.
    pub fn compares(&self) -> bool {
        self.setting.engine == Engine::Model
    }

    /// Stops where there is nothing that learns.
    pub async fn needs_a_model(&self) -> Result<&Trained, Stop> {
        if self.compares() {
            return self.trained().await;
        }
        Err(Stop::not_offered("a mock in place of a model"))
    }

    /// A checkpoint's name that nobody else has.
    pub fn name(&self, what: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{}-{number}", self.run)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("setting", &self.setting)
            .finish_non_exhaustive()
    }
}
