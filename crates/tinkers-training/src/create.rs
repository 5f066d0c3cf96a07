//! Making models: new ones, and from checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use tinkers_core::{Error, Result, RouteClass, SessionContext, Setback};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_wire::{
    CreateModel, LoadWeights, LoadedWeights, LoraConfig, RequestKind, TinkerPath, routes, to_json,
};

use crate::TrainingClient;
use crate::making::{Making, into_new_model, loads_into_models_alone};

/// A new LoRA adapter to be made over a base model.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before create() is called"]
pub struct NewModel {
    session: Arc<dyn SessionContext>,
    base_model: String,
    lora: LoraConfig,
    metadata: Option<BTreeMap<String, String>>,
}

impl NewModel {
    /// An adapter of rank 32 over `base_model`.
    pub fn new(session: Arc<dyn SessionContext>, base_model: impl Into<String>) -> Self {
        Self {
            session,
            base_model: base_model.into(),
            lora: LoraConfig::default(),
            metadata: None,
        }
    }

    /// The rank.
    pub fn rank(mut self, rank: u32) -> Self {
        self.lora.rank = rank;
        self
    }

    /// The seed of the adapter's random start.
    pub fn seed(mut self, seed: u64) -> Self {
        self.lora.seed = Some(seed);
        self
    }

    /// The whole configuration of the adapter.
    pub fn lora_config(mut self, lora: LoraConfig) -> Self {
        self.lora = lora;
        self
    }

    /// Notes of the caller's own.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Makes the model.
    pub fn create(self) -> ApiFuture<TrainingClient> {
        const NAME: &str = "ServiceClient.lora_training";
        let operation = Operation::new(Arc::clone(&self.session), NAME, RouteClass::Train);
        let making = Making {
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
            making.new_model(&body).await
        })
    }
}

/// Whether a checkpoint's optimizer state comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOptimizer {
    /// It does: training goes on as if it had not been interrupted.
    Yes,
    /// The optimizer starts anew.
    No,
}

/// A model to be made from a training checkpoint.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before create() is called"]
pub struct FromState {
    session: Arc<dyn SessionContext>,
    path: Result<TinkerPath>,
    optimizer: RestoreOptimizer,
    metadata: Option<BTreeMap<String, String>>,
}

impl FromState {
    /// From `path`, a `tinker://` path of a training checkpoint; a wrong one fails in [`FromState::create`].
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

    /// Notes of the caller's own.
    pub fn user_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Makes the model.
    pub fn create(self) -> ApiFuture<TrainingClient> {
        const NAME: &str = "ServiceClient.training_from_state";
        let operation = Operation::new(Arc::clone(&self.session), NAME, RouteClass::Train);
        let making = Making {
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
            let made = making
                .run(
                    routes::LOAD_WEIGHTS,
                    to_json(&body),
                    RequestKind::LoadWeights,
                )
                .await;
            let (loaded, promised): (LoadedWeights, _) = match made {
                Err(refusal) if loads_into_models_alone(&refusal) => {
                    self.session.caller().setbacks.count(Setback::Fallback);
                    tracing::debug!(setback = Setback::Fallback.name(), %refusal, "the server makes no model of a checkpoint; making one, and loading into it");
                    let made = into_new_model(&making, body).await;
                    return made.map_err(|error| {
                        error.with_context(format!("the server makes no model of a checkpoint ({refusal}), and a new one to load into could not be had"))
                    });
                }
                made => made?,
            };
            making
                .client(loaded.model_id.or(promised).unwrap_or(computed))
                .await
        })
    }
}
