//! The builders that create training clients, with a new adapter or from a checkpoint.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;

use tinkers_core::{Error, RecoveredError, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{
    CreateModel, LoadWeights, LoadedWeights, LoraConfig, RequestKind, TinkerPath, routes, to_json,
};

use crate::TrainingClient;
use crate::create_model::{ModelCreation, load_into_new_model, needs_existing_model};

/// A builder that creates a training client with a new LoRA adapter of a base model. Await the builder, or start the creation with
/// [`CreateLoraTrainingClient::send`].
///
/// ```no_run
/// # async fn create(session: std::sync::Arc<dyn tinkers_core::SessionContext>) -> tinkers_core::Result<()> {
/// # use tinkers_training as tinkers;
/// use tinkers::CreateLoraTrainingClient;
///
/// let training = CreateLoraTrainingClient::new(session, "Qwen/Qwen3-8B").rank(16).seed(1).await?;
/// println!("training run {}", training.model_id());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting the builder fails with `InvalidInput` for an invalid configuration or an empty name, before anything is sent. It fails with
/// the server's error, such as `NotFound` or `Rejected`, if the server does not offer the base model or the rank: choose a model that
/// `ServiceClient::capabilities` lists.
///
/// # Cancel safety
/// Dropping the builder creates nothing. Dropping the future cancels the creation. The server may still create the model, which then exists
/// until the session ends.
#[derive(Debug, Clone)]
#[must_use = "nothing is created before the builder is awaited or `send` is called"]
pub struct CreateLoraTrainingClient {
    session: Arc<dyn SessionContext>,
    base_model: String,
    lora: LoraConfig,
    metadata: Option<BTreeMap<String, String>>,
}

impl CreateLoraTrainingClient {
    /// Creates a builder for an adapter of `base_model` with rank 32 that trains the attention, MLP and unembedding layers.
    pub fn new(session: Arc<dyn SessionContext>, base_model: impl Into<String>) -> Self {
        Self {
            session,
            base_model: base_model.into(),
            lora: LoraConfig::default(),
            metadata: None,
        }
    }

    /// Sets the LoRA rank of the adapter; 32 by default.
    pub fn rank(mut self, rank: u32) -> Self {
        self.lora.rank = rank;
        self
    }

    /// Sets the seed of the adapter's initial weights; by default the server chooses one.
    pub fn seed(mut self, seed: u64) -> Self {
        self.lora.seed = Some(seed);
        self
    }

    /// Sets whether to train the attention layers; by default they are trained.
    pub fn train_attn(mut self, train: bool) -> Self {
        self.lora.train_attn = Some(train);
        self
    }

    /// Sets whether to train the MLP layers; by default they are trained.
    pub fn train_mlp(mut self, train: bool) -> Self {
        self.lora.train_mlp = Some(train);
        self
    }

    /// Sets whether to train the unembedding layer; by default it is trained.
    pub fn train_unembed(mut self, train: bool) -> Self {
        self.lora.train_unembed = Some(train);
        self
    }

    /// Replaces the whole configuration of the adapter, including the rank, the seed and the trained layers.
    pub fn lora_config(mut self, lora: LoraConfig) -> Self {
        self.lora = lora;
        self
    }

    /// Attaches metadata to the training run: strings that the program chooses.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Starts the creation, and returns a future that waits for the new client. Dropping the future cancels the creation. The server may still
    /// create the model, which then exists until the session ends.
    pub fn send(self) -> ApiFuture<TrainingClient> {
        const NAME: &str = "ServiceClient.create_lora_training_client";
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

impl IntoFuture for CreateLoraTrainingClient {
    type Output = Result<TrainingClient>;
    type IntoFuture = ApiFuture<TrainingClient>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}

/// A builder that creates a training client from a training checkpoint. Await the builder, or start the creation with
/// [`CreateTrainingClientFromState::send`].
///
/// ```no_run
/// # async fn resume(session: std::sync::Arc<dyn tinkers_core::SessionContext>) -> tinkers_core::Result<()> {
/// # use tinkers_training as tinkers;
/// use tinkers::CreateTrainingClientFromState;
///
/// let path = "tinker://run-1/weights/step-100";
/// let training = CreateTrainingClientFromState::with_optimizer(session, path).await?;
/// println!("training run {}", training.model_id());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Awaiting the builder fails with `InvalidInput` for an invalid path, before anything is sent, and with `NotFound` if the checkpoint
/// does not exist: check the path.
///
/// # Cancel safety
/// Dropping the builder creates nothing. Dropping the future cancels the creation. The server may still create the model, which then exists
/// until the session ends.
#[derive(Debug, Clone)]
#[must_use = "nothing is created before the builder is awaited or `send` is called"]
pub struct CreateTrainingClientFromState {
    session: Arc<dyn SessionContext>,
    path: Result<TinkerPath>,
    optimizer: bool,
    metadata: Option<BTreeMap<String, String>>,
}

impl CreateTrainingClientFromState {
    /// Creates a builder that loads the weights of a training checkpoint and starts with a new optimizer. `path` is the `tinker://` path of
    /// the checkpoint. With an invalid path, awaiting the builder fails.
    pub fn new(session: Arc<dyn SessionContext>, path: impl AsRef<str>) -> Self {
        Self {
            session,
            path: path.as_ref().parse().map_err(Error::from),
            optimizer: false,
            metadata: None,
        }
    }

    /// Creates a builder that loads the weights and the optimizer state of a training checkpoint, so that training continues as if it had
    /// not been interrupted. `path` is the `tinker://` path of the checkpoint.
    pub fn with_optimizer(session: Arc<dyn SessionContext>, path: impl AsRef<str>) -> Self {
        Self {
            optimizer: true,
            ..Self::new(session, path)
        }
    }

    /// Attaches metadata to the training run: strings that the program chooses.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Starts the creation, and returns a future that waits for the new client. Dropping the future cancels the creation. The server may still
    /// create the model, which then exists until the session ends.
    pub fn send(self) -> ApiFuture<TrainingClient> {
        let name = match self.optimizer {
            false => "ServiceClient.create_training_client_from_state",
            true => "ServiceClient.create_training_client_from_state_with_optimizer",
        };
        let operation = Operation::new(Arc::clone(&self.session), name, RouteClass::Train);
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
                optimizer: self.optimizer,
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
                    let created = load_into_new_model(&creation, body).await;
                    return created.map_err(|error| {
                        error.with_context(format!("the server cannot create a model from a checkpoint ({refusal}), and loading it into a new model failed"))
                    });
                }
                created => created?,
            };
            creation
                .client(loaded.model_id.or(created_id).unwrap_or(computed), None)
                .await
        })
    }
}

impl IntoFuture for CreateTrainingClientFromState {
    type Output = Result<TrainingClient>;
    type IntoFuture = ApiFuture<TrainingClient>;

    fn into_future(self) -> Self::IntoFuture {
        self.send()
    }
}
