//! The context of the checks: the server, its settings, and shared sessions and models.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::prelude::*;
use tinkers::transport::BoxFuture;
use tokio::sync::OnceCell;

use crate::checks::text;
use crate::recorder::Recorder;
use crate::verdict::CheckError;

/// A function that opens a session whose transport is wrapped by the recorder.
pub type Connect =
    Arc<dyn Fn(Recorder) -> BoxFuture<'static, Result<Service, Error>> + Send + Sync>;

/// A session.
pub type Service = ServiceClient;

/// Whether the server has a real model or a mock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// A real model, which learns.
    Real,
    /// A mock: results are not compared, and checks that need a real model are not offered.
    Mock,
}

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether the server has a real model or a mock.
    pub model_kind: ModelKind,
    /// The base model to train and sample from.
    pub model: String,
    /// The LoRA rank.
    pub rank: u32,
    /// The exclusive upper bound of the token ids in use, which start at 3.
    pub vocabulary: u32,
}

impl Settings {
    /// Creates settings for a real `model` with LoRA rank 8 and token ids below 96.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model_kind: ModelKind::Real,
            model: model.into(),
            rank: 8,
            vocabulary: 96,
        }
    }
}

/// The context of the checks.
pub struct Context {
    /// The settings of the run.
    pub settings: Settings,
    /// The recorder of requests and responses.
    pub recorder: Recorder,
    connect: Connect,
    service: OnceCell<Service>,
    trained: OnceCell<Trained>,
    names: AtomicU32,
    run: String,
    /// The models of the running check, which are unloaded after it, since servers limit the number of models.
    models: Mutex<Vec<TrainingClient>>,
}

/// A briefly trained model, shared by checks that do not change it.
#[derive(Debug)]
pub struct Trained {
    /// The model.
    pub client: TrainingClient,
    /// The loss per token before the first step and after the last.
    pub losses: (f64, f64),
}

impl Context {
    /// Creates a context for the server that `connect` connects to. `run` makes names on the server unique to this run.
    pub fn new(connect: Connect, settings: Settings, run: impl Into<String>) -> Self {
        Self {
            settings,
            recorder: Recorder::default(),
            connect,
            service: OnceCell::new(),
            trained: OnceCell::new(),
            names: AtomicU32::new(0),
            run: run.into(),
            models: Mutex::default(),
        }
    }

    /// Returns the session that the checks share.
    pub async fn service(&self) -> Result<&Service, CheckError> {
        let service = self.service.get_or_try_init(|| self.connect());
        Ok(service.await?)
    }

    /// Opens a new session.
    pub async fn connect(&self) -> Result<Service, Error> {
        (self.connect)(self.recorder.clone()).await
    }

    /// Creates a model that is unloaded after the check.
    pub async fn model(&self) -> Result<TrainingClient, CheckError> {
        let made = self.create_model().await?;
        self.unload_later(&made);
        Ok(made)
    }

    /// Marks a model to be unloaded after the check.
    pub fn unload_later(&self, model: &TrainingClient) {
        self.models().push(model.clone());
    }

    /// Unloads the models of the last check and recovers the shared model from refused calls.
    pub async fn unload_models(&self) {
        if let Some(trained) = self.trained.get() {
            // If the model cannot recover, the next check reports it.
            let _ = trained.client.recover();
        }
        let models = std::mem::take(&mut *self.models());
        for model in models {
            // A model that cannot be unloaded is removed with the session.
            drop(model.unload().await);
        }
    }

    fn models(&self) -> MutexGuard<'_, Vec<TrainingClient>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create_model(&self) -> Result<TrainingClient, CheckError> {
        let creation = self
            .service()
            .await?
            .create_lora_training_client(&self.settings.model);
        Ok(creation.rank(self.settings.rank).seed(7).await?)
    }

    /// Returns the shared model; trains it at the first call.
    pub async fn trained(&self) -> Result<&Trained, CheckError> {
        self.trained
            .get_or_try_init(|| async {
                let client = self.create_model().await?;
                let data = text::data(&self.settings, 4, 24);
                if self.settings.model_kind == ModelKind::Real {
                    let other = self.model().await?;
                    text::check_learning(&client, &other, &data).await?;
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

    /// Returns whether the server has a real model, so that results can be compared.
    pub fn has_real_model(&self) -> bool {
        self.settings.model_kind == ModelKind::Real
    }

    /// Returns the shared model, or [`CheckError::NotOffered`] if the server has a mock.
    pub async fn require_real_model(&self) -> Result<&Trained, CheckError> {
        if self.has_real_model() {
            return self.trained().await;
        }
        Err(CheckError::not_offered("needs a real model"))
    }

    /// Returns a unique checkpoint name.
    pub fn name(&self, what: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{}-{number}", self.run)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
