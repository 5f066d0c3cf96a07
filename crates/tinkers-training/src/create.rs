//! Making models: new ones, and from checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tinkers_core::{
    Call, Deduplication, Error, ErrorKind, Result, RouteClass, Sent, SessionContext,
};
use tinkers_futures::{ApiFuture, Operation, QueueLog, Retrieval, promise, retrieve, start};
use tinkers_wire::{
    CreateModel, LoadWeights, LoadedWeights, LoraConfig, ModelCreated, ModelInfo, ModelRef,
    OperationResult, RequestKind, TinkerPath, WeightsInfo, WeightsInfoRequest, routes, to_json,
};

use crate::TrainingClient;

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
        let operation = Operation::new(Arc::clone(&self.session), NAME);
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
                model_seq_id: self.session.next_model_seq(),
                base_model: self.base_model,
                user_metadata: self.metadata,
                lora_config: self.lora,
                optimizer_config: None,
            };
            let made: ModelCreated = making
                .run(
                    routes::CREATE_MODEL,
                    to_json(&body),
                    RequestKind::CreateModel,
                )
                .await?
                .0;
            making.client(made.model_id).await
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
        let operation = Operation::new(Arc::clone(&self.session), NAME);
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
                Err(error) if loads_into_models_alone(&error) => {
                    tracing::debug!(%error, "the server makes no model of a checkpoint; making one, and loading into it");
                    return into_new_model(&making, body).await;
                }
                made => made?,
            };
            making
                .client(loaded.model_id.or(promised).unwrap_or(computed))
                .await
        })
    }
}

/// Whether the server misses the id of a model to load into: open servers do not make one of a checkpoint.
fn loads_into_models_alone(error: &Error) -> bool {
    let is_refused = error.sent() == Sent::Answered && matches!(error.status(), Some(400 | 422));
    is_refused && error.body().windows(8).any(|part| part == b"model_id")
}

/// Makes a model like the one that the checkpoint is of, and loads into it what the checkpoint holds, as its first request.
async fn into_new_model(making: &Making, load: LoadWeights) -> Result<TrainingClient> {
    let session = &making.operation.session;
    let info = making.weights_info(&load.path).await?;
    let mut lora = info
        .lora_rank
        .map_or_else(LoraConfig::default, LoraConfig::rank);
    lora.train_unembed = info.train_unembed;
    lora.train_mlp = info.train_mlp;
    lora.train_attn = info.train_attn;
    let body = CreateModel {
        session_id: session.session_id().to_owned(),
        model_seq_id: session.next_model_seq(),
        base_model: info.base_model,
        user_metadata: load.user_metadata,
        lora_config: lora,
        // Its default is left out, as by a caller who sets none: not every server has heard of it.
        optimizer_config: info.optimizer_config.filter(|config| !config.is_default()),
    };
    let made: ModelCreated = making
        .run(
            routes::CREATE_MODEL,
            to_json(&body),
            RequestKind::CreateModel,
        )
        .await?
        .0;
    let client = making.client(made.model_id).await?;
    let path = load.path.as_str();
    let loaded = if load.optimizer {
        client.load_state_with_optimizer(path).await
    } else {
        client.load_state(path).await
    };
    loaded.map_err(|error| {
        let model = client.model_id();
        error.with_context(format!("model {model} was made, but not loaded"))
    })?;
    Ok(client)
}

/// The steps that both ways of making a model share.
struct Making {
    operation: Operation,
    subject: String,
}

impl Making {
    /// Submits and waits; the result, and the model's id where the promise had it already.
    async fn run<T: OperationResult>(
        &self,
        route: &str,
        body: Bytes,
        kind: RequestKind,
    ) -> Result<(T, Option<String>)> {
        let session = &self.operation.session;
        session.check_open()?;
        let client = session.next_client();
        let mut call = self.call(route, body);
        call.client = client;
        let accepted = session.caller().call(call).await;
        let accepted = accepted.map_err(|error| self.with_orphan(error))?;
        let promise = promise(&accepted.response)?;
        self.tell_of_orphan(accepted.earlier, &promise.request_id);
        let result = retrieve(Retrieval {
            operation: self.operation.clone(),
            client,
            request_id: promise.request_id,
            kind,
            submitted_in: accepted.elapsed,
            queue_log: Some(Arc::new(QueueLog::training(self.subject.clone()))),
        })
        .await?;
        Ok((result, promise.model_id))
    }

    /// A creation is repeated when its reply is lost, which may leave a second model behind.
    fn tell_of_orphan(&self, earlier: Sent, request_id: &str) {
        if earlier == Sent::MaybeSent
            && self.operation.session.profile().deduplicates != Deduplication::Everything
        {
            tracing::warn!(
                operation = self.operation.name,
                request_id,
                "the reply to an earlier attempt of the {} was lost: the server may have made one that nobody uses, until the session ends",
                self.subject
            );
        }
    }

    fn with_orphan(&self, error: Error) -> Error {
        if error.sent() != Sent::MaybeSent {
            return error;
        }
        error.with_context(format_args!(
            "the reply to an attempt of the {} was lost: the server may have made one that nobody uses, until the session ends",
            self.subject
        ))
    }

    /// The client of the model that was made.
    async fn client(&self, model_id: String) -> Result<TrainingClient> {
        let made = format!("model {model_id} was made, but not described");
        let client = self.described(model_id).await;
        client.map_err(|error| error.with_context(made))
    }

    async fn described(&self, model_id: String) -> Result<TrainingClient> {
        let call = self.call(routes::GET_INFO, to_json(&ModelRef { model_id }));
        let answer = self.operation.session.caller().call(call).await?.response;
        let info = ModelInfo::read(&answer.body).map_err(|error| {
            let message = format!("the description of the model cannot be read: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
                .with_answer(answer.status.as_u16(), &answer.body)
        })?;
        Ok(TrainingClient::new(
            Arc::clone(&self.operation.session),
            info,
        ))
    }

    /// What the checkpoint is of.
    async fn weights_info(&self, path: &TinkerPath) -> Result<WeightsInfo> {
        let body = to_json(&WeightsInfoRequest {
            tinker_path: path.to_string(),
        });
        let call = self.call(routes::WEIGHTS_INFO, body);
        let answer = self.operation.session.caller().call(call).await?.response;
        WeightsInfo::read(&answer.body).map_err(|error| {
            let message = format!("what the checkpoint is of cannot be read: {error}");
            Error::new(ErrorKind::Protocol, Sent::Answered, message)
                .with_answer(answer.status.as_u16(), &answer.body)
        })
    }

    fn call(&self, route: &str, body: Bytes) -> Call {
        let mut call = Call::post(route, body, RouteClass::Train);
        call.operation = Some(self.operation.name);
        call.progress = Some(Arc::clone(&self.operation.progress));
        call
    }
}
