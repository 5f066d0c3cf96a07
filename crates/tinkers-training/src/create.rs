//! Builders that create models, new or from checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::{Error, RecoveredError, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{
    CreateModel, LoadWeights, LoadedWeights, LoraConfig, RequestKind, TinkerPath, routes, to_json,
};

use crate::TrainingClient;
use crate::create_model::{ModelCreation, into_new_model, needs_existing_model};

/// A builder that creates a LoRA adapter over a base model.
#[derive(Debug, Clone)]
#[must_use = "nothing is created before create() is called"]
pub struct CreateLoraTrainingClient {
    session: Arc<dyn SessionContext>,
    base_model: String,
    lora: LoraConfig,
    metadata: Option<BTreeMap<String, String>>,
}

impl CreateLoraTrainingClient {
    /// Starts with an adapter of rank 32 over `base_model`.
    pub fn new(session: Arc<dyn SessionContext>, base_model: impl Into<String>) -> Self {
        Self {
            session,
            base_model: base_model.into(),
            lora: LoraConfig::default(),
            metadata: None,
        }
    }

    /// Sets the rank.
    pub fn rank(mut self, rank: u32) -> Self {
        self.lora.rank = rank;
        self
    }

    /// Sets the seed of the adapter's initial weights.
    pub fn seed(mut self, seed: u64) -> Self {
        self.lora.seed = Some(seed);
        self
    }

    /// Sets the whole configuration of the adapter.
    pub fn lora_config(mut self, lora: LoraConfig) -> Self {
        self.lora = lora;
        self
    }

    /// Attaches metadata.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Creates the model.
    pub fn create(self) -> ApiFuture<TrainingClient> {
        const NAME: &str = "ServiceClient.lora_training";
        let operation = Operation::new(Arc::clone(&self.session), NAME, RouteClass::Train);
        let creation = ModelCreation {
            operation: operation.clone(),
            subject: format!("creation of a model of {}", self.base_model),
        };
        start(operation, async move {
            self.lora.validate()?;
            if self.base_model.is_empty() {
                return Err(Error::invalid("base_model", "a model's name"));
            }
            let body = CreateModel {
                session_id: self.session.session_id().to_owned(),
                model_seq_id: Some(self.session.next_model_seq()),
                base_model: self.base_model,
                user_metadata: self.metadata,
                lora_config: self.lora,
                optimizer_config: None,
            };
            creation.new_model(&body).await
        })
    }
}

/// Whether to restore a checkpoint's optimizer state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOptimizer {
    /// Restore it: training continues as if it had not been interrupted.
    Yes,
    /// Reset the optimizer.
    No,
}

/// A builder that creates a model from a training checkpoint.
#[derive(Debug, Clone)]
#[must_use = "nothing is created before create() is called"]
pub struct CreateTrainingClientFromState {
    session: Arc<dyn SessionContext>,
    path: Result<TinkerPath>,
    optimizer: RestoreOptimizer,
    metadata: Option<BTreeMap<String, String>>,
}

impl CreateTrainingClientFromState {
    /// Starts from a training checkpoint, given by its `tinker://` path. An invalid path fails in
    /// [`CreateTrainingClientFromState::create`].
    pub fn new(
        session: Arc<dyn SessionContext>,
        path: impl AsRef<str>,
        optimizer: RestoreOptimizer,
    ) -> Self {
        Self {
            session,
            path: path.as_ref().parse().map_err(Error::from),
            optimizer,
            metadata: None,
        }
    }

    /// Attaches metadata.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Creates the model.
    pub fn create(self) -> ApiFuture<TrainingClient> {
        const NAME: &str = "ServiceClient.training_from_state";
        let operation = Operation::new(Arc::clone(&self.session), NAME, RouteClass::Train);
        let creation = ModelCreation {
            operation: operation.clone(),
            subject: "creation of a model from a checkpoint".to_owned(),
        };
        start(operation, async move {
            let path = self.path?;
            let seq = self.session.next_model_seq();
            let session_id = self.session.session_id();
            let computed = format!("{session_id}:train:{seq}");
            let body = LoadWeights {
                path,
                optimizer: self.optimizer == RestoreOptimizer::Yes,
                session_id: Some(session_id.to_owned()),
                model_seq_id: Some(seq),
                model_id: None,
                seq_id: None,
                base_model: None,
                user_metadata: self.metadata,
                optimizer_config: None,
                weights_access_token: None,
            };
            let created = creation
                .run(
                    routes::LOAD_WEIGHTS,
                    to_json(&body),
                    RequestKind::LoadWeights,
                )
                .await;
            let (loaded, created_id): (LoadedWeights, _) = match created {
                Err(refusal) if needs_existing_model(&refusal) => {
                    self.session
                        .caller()
                        .recovered_errors
                        .count(RecoveredError::Fallback);
                    tracing::debug!(recovered_error = RecoveredError::Fallback.name(), %refusal, "the server cannot create a model from a checkpoint; creating a model and loading the checkpoint into it");
                    let created = into_new_model(&creation, body).await;
                    return created.map_err(|error| {
                        error.with_context(format!("the server cannot create a model from a checkpoint ({refusal}), and loading it into a new model failed"))
                    });
                }
                created => created?,
            };
            creation
                .client(loaded.model_id.or(created_id).unwrap_or(computed))
                .await
        })
    }
}
