//! The client of one model that is being trained.

use std::sync::Arc;

use tinkers_core::{BoxFuture, Error, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, QueueLog, start};
use tinkers_wire::{
    AdamParams, Datum, ForwardBackwardOutput, InvalidInput, LoadedWeights, Loss, ModelInfo,
    OperationResult, OptimStepResult, PassMode, RequestKind, SavedSamplerWeights, SavedWeights,
    TinkerPath,
};

use crate::parts::{LoadPart, Part, PassPart, StepPart};
use crate::turns::Turns;
use crate::unload::unload;
use crate::waiter::{Found, Waiter};
use crate::{ChunkLimits, SaveForSampler, SaveState, plan};

/// One model that is being trained. Clones share its order.
///
/// A call takes its place in the order **when the method is called**, not when the future that it returns is polled. So a pass
/// and a step submitted back to back are worked on back to back. Dropping the future ends the waiting and never the
/// submission.
///
/// When a request that changes the model is refused, or the outcome of any request is not known, later calls fail at once with
/// `Poisoned`, and nothing overtakes: see [`TrainingClient::recover`]. A refused save or forward pass fails alone.
#[derive(Debug, Clone)]
pub struct TrainingClient {
    turns: Arc<Turns>,
    info: Arc<ModelInfo>,
    queue_log: Arc<QueueLog>,
}

impl TrainingClient {
    pub(crate) fn new(session: Arc<dyn SessionContext>, info: ModelInfo) -> Self {
        let model_id: Arc<str> = Arc::from(info.model_id.as_str());
        let queue_log = Arc::new(QueueLog::training(format!("training of {model_id}")));
        Self {
            turns: Turns::new(session, model_id),
            info: Arc::new(info),
            queue_log,
        }
    }

    /// The model's id, which is its training run's.
    pub fn model_id(&self) -> &str {
        self.turns.model_id()
    }

    /// What the server told of the model when the client was made.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The session, for what needs training and sampling together.
    pub fn session(&self) -> &Arc<dyn SessionContext> {
        self.turns.session()
    }

    /// Losses and outputs for `data`, without gradients.
    pub fn forward(
        &self,
        data: impl Into<Vec<Datum>>,
        loss: impl Into<Loss>,
    ) -> ApiFuture<ForwardBackwardOutput> {
        self.pass(
            "TrainingClient.forward",
            PassMode::Forward,
            data.into(),
            loss.into(),
        )
    }

    /// Losses and outputs for `data`; their gradients are added to those held for the next [`TrainingClient::optim_step`].
    ///
    /// A batch beyond the server's limits goes as several requests whose results are merged.
    pub fn forward_backward(
        &self,
        data: impl Into<Vec<Datum>>,
        loss: impl Into<Loss>,
    ) -> ApiFuture<ForwardBackwardOutput> {
        self.pass(
            "TrainingClient.forward_backward",
            PassMode::ForwardBackward,
            data.into(),
            loss.into(),
        )
    }

    /// A step of AdamW with the gradients held, which are then gone.
    pub fn optim_step(&self, params: AdamParams) -> ApiFuture<OptimStepResult> {
        let operation = self.operation("TrainingClient.optim_step");
        let part = params.validate().map(|()| StepPart {
            model_id: Arc::clone(self.turns.model_id()),
            params,
        });
        self.single(
            operation,
            RequestKind::OptimStep,
            part.map_err(Error::from),
            |_| Ok(OptimStepResult::default()),
        )
    }

    /// Saves weights and optimizer state under a name, to go on training from: `save_state("step-10")`.
    ///
    /// A name that is taken fails with `Conflict` and stops nothing else: save under another one, or with
    /// [`SaveState::overwrite`].
    pub fn save_state(&self, save: impl Into<SaveState>) -> ApiFuture<SavedWeights> {
        let operation = self.operation("TrainingClient.save_state");
        let part = save.into().into_part(self.turns.model_id());
        self.single(operation, RequestKind::SaveWeights, part, |path| {
            Ok(SavedWeights { path })
        })
    }

    /// Saves weights to sample from: under a name, or [`SaveForSampler::unnamed`].
    pub fn save_weights_for_sampler(
        &self,
        save: impl Into<SaveForSampler>,
    ) -> ApiFuture<SavedSamplerWeights> {
        let operation = self.operation("TrainingClient.save_weights_for_sampler");
        let saved = self.save_weights_for_sampler_in(&operation, save);
        start(operation, saved)
    }

    /// The same as a step of a larger operation, whose progress it tells. It takes its place in the order now.
    pub fn save_weights_for_sampler_in(
        &self,
        operation: &Operation,
        save: impl Into<SaveForSampler>,
    ) -> BoxFuture<'static, Result<SavedSamplerWeights>> {
        let session = self.turns.session();
        let part = save
            .into()
            .into_part(self.turns.model_id(), || session.next_sampling_seq());
        let kind = RequestKind::SaveWeightsForSampler;
        self.place(operation, kind, part, |path| {
            Ok(SavedSamplerWeights {
                path: Some(path),
                sampling_session_id: None,
            })
        })
    }

    /// Loads the weights of a checkpoint, a `tinker://` path, into this model; its optimizer starts anew. Some servers take it
    /// only as a model's first request.
    pub fn load_state(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load("TrainingClient.load_state", path.as_ref(), false)
    }

    /// Loads weights and optimizer state of a checkpoint, a `tinker://` path, into this model.
    pub fn load_state_with_optimizer(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load(
            "TrainingClient.load_state_with_optimizer",
            path.as_ref(),
            true,
        )
    }

    /// Frees the model on the server, which has room for a few; a model that is not freed goes with its session. It does not wait for
    /// calls that are under way, which may fail then: await them first. Later calls fail with what the server says of a model that
    /// it does not know.
    pub fn unload(&self) -> ApiFuture<()> {
        let operation = self.operation("TrainingClient.unload");
        let work = unload(operation.clone(), Arc::clone(self.turns.model_id()));
        start(operation, work)
    }

    /// Lets calls go on after a refused request that is known to have left nothing on the server; the next call takes its
    /// number.
    ///
    /// # Errors
    /// `Poisoned` when that is not known. Then only a new client, from the last checkpoint, is safe.
    pub fn recover(&self) -> Result<()> {
        self.turns.recover()
    }

    fn load(&self, name: &'static str, path: &str, optimizer: bool) -> ApiFuture<LoadedWeights> {
        let operation = self.operation(name);
        let path = path.parse::<TinkerPath>().map_err(Error::from);
        let placed = self.place_load(&operation, path, optimizer);
        start(operation, placed)
    }

    /// Loads a checkpoint as a step of a larger operation, whose progress it tells.
    pub(crate) fn load_in(
        &self,
        operation: &Operation,
        path: TinkerPath,
        optimizer: bool,
    ) -> BoxFuture<'static, Result<LoadedWeights>> {
        self.place_load(operation, Ok(path), optimizer)
    }

    fn place_load(
        &self,
        operation: &Operation,
        path: Result<TinkerPath>,
        optimizer: bool,
    ) -> BoxFuture<'static, Result<LoadedWeights>> {
        let part = path.map(|path| LoadPart {
            model_id: Arc::clone(self.turns.model_id()),
            path,
            optimizer,
        });
        self.place(operation, RequestKind::LoadWeights, part, |path| {
            Ok(LoadedWeights {
                path: Some(path),
                model_id: None,
            })
        })
    }

    fn pass(
        &self,
        name: &'static str,
        mode: PassMode,
        data: Vec<Datum>,
        loss: Loss,
    ) -> ApiFuture<ForwardBackwardOutput> {
        let operation = self.operation(name);
        let placed = validate(&data, &loss).map_err(Error::from).and_then(|()| {
            let parts = self.cut(mode, data, &loss);
            self.turns
                .take(name, parts, Arc::clone(&operation.progress))
        });
        let kind = match mode {
            PassMode::Forward => RequestKind::Forward,
            PassMode::ForwardBackward => RequestKind::ForwardBackward,
        };
        let waiter = self.waiter(operation.clone(), kind);
        start(operation, waiter.merged(placed))
    }

    fn cut(&self, mode: PassMode, mut data: Vec<Datum>, loss: &Loss) -> Vec<Arc<dyn Part>> {
        let chunks = plan(&data, ChunkLimits::from(self.turns.session().config()));
        let part = |data| PassPart {
            model_id: Arc::clone(self.turns.model_id()),
            mode,
            data,
            loss: loss.clone(),
        };
        chunks
            .into_iter()
            .map(|chunk| Arc::new(part(data.drain(..chunk.len()).collect())) as Arc<dyn Part>)
            .collect()
    }

    /// A call of one request. `found` makes the result of a save that was found to have been made.
    fn single<T: OperationResult>(
        &self,
        operation: Operation,
        kind: RequestKind,
        part: Result<impl Part + 'static>,
        found: Found<T>,
    ) -> ApiFuture<T> {
        let placed = self.place(&operation, kind, part, found);
        start(operation, placed)
    }

    /// Takes the place of a call of one request, now; the future waits for its result.
    fn place<T: OperationResult>(
        &self,
        operation: &Operation,
        kind: RequestKind,
        part: Result<impl Part + 'static>,
        found: Found<T>,
    ) -> BoxFuture<'static, Result<T>> {
        let name = part.as_ref().ok().and_then(Part::saved_name);
        let placed = part.and_then(|part| {
            let progress = Arc::clone(&operation.progress);
            self.turns
                .take(operation.name, vec![Arc::new(part)], progress)
        });
        let waiter = Waiter {
            name,
            ..self.waiter(operation.clone(), kind)
        };
        Box::pin(waiter.single(placed, found))
    }

    /// Begins an operation that waits in this model's queue: while that moves, it does not count as stalled. For operations of which a
    /// call of this model is a step.
    pub fn operation(&self, name: &'static str) -> Operation {
        let session = Arc::clone(self.turns.session());
        let queue = Arc::<Turns>::clone(&self.turns);
        Operation::new(session, name, RouteClass::Train).in_queue(queue)
    }

    fn waiter(&self, operation: Operation, kind: RequestKind) -> Waiter {
        Waiter {
            operation,
            kind,
            turns: Arc::clone(&self.turns),
            queue_log: Arc::clone(&self.queue_log),
            name: None,
        }
    }
}

/// Checks everything that can be checked before a number is taken.
fn validate(data: &[Datum], loss: &Loss) -> Result<(), InvalidInput> {
    if data.is_empty() {
        return Err(InvalidInput::new("data", "at least one datum, got none"));
    }
    loss.validate()?;
    for (i, datum) in data.iter().enumerate() {
        let place = |error: InvalidInput| error.within(format_args!("data[{i}]."));
        datum.validate().map_err(place)?;
        datum
            .model_input
            .validate_trainable()
            .map_err(|error| place(error.within("model_input.")))?;
        let missing = loss
            .name
            .required_inputs()
            .iter()
            .find(|name| !datum.loss_fn_inputs.contains_key(**name));
        if let Some(name) = missing {
            let given: Vec<&str> = datum.loss_fn_inputs.keys().map(String::as_str).collect();
            let expected = format!("to be there for {}, got [{}]", loss.name, given.join(", "));
            return Err(place(InvalidInput::new(
                format!("loss_fn_inputs.{name}"),
                expected,
            )));
        }
    }
    Ok(())
}
