//! The client that trains one model.

use std::sync::Arc;

use tinkers_core::{BoxFuture, Error, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, QueueLog, start};
use tinkers_wire::{
    AdamParams, Datum, ForwardBackwardOutput, InvalidInput, LoadedWeights, Loss, ModelInfo,
    OperationResult, OptimStepResult, PassMode, RequestKind, SavedSamplerWeights, SavedWeights,
    TinkerPath,
};

use crate::requests::{Load, Pass, Request, Step};
use crate::results::{FoundSave, ResultWaiter};
use crate::sender::submit;
use crate::submission_queue::SubmissionQueue;
use crate::unload::unload;
use crate::{ChunkLimits, SaveForSampler, SaveState, plan_chunks};

/// Trains one model. Clones share one submission queue.
///
/// A call is queued **when the method is called**, not when the returned future is polled, and requests are sent in that order.
/// A pass and a step that are submitted back to back are therefore processed back to back. Dropping the future ends the waiting
/// and never the submission.
///
/// When a request that changes the model is refused, or the outcome of any request is unknown, later calls fail at once with
/// `Poisoned`, so that no call is applied out of order: see [`TrainingClient::recover`]. A refused save or forward pass fails alone.
#[derive(Debug, Clone)]
pub struct TrainingClient {
    queue: Arc<SubmissionQueue>,
    info: Arc<ModelInfo>,
    queue_log: Arc<QueueLog>,
}

impl TrainingClient {
    pub(crate) fn new(session: Arc<dyn SessionContext>, info: ModelInfo) -> Self {
        let model_id: Arc<str> = Arc::from(info.model_id.as_str());
        let queue_log = Arc::new(QueueLog::training(format!("training of {model_id}")));
        Self {
            queue: SubmissionQueue::new(session, model_id),
            info: Arc::new(info),
            queue_log,
        }
    }

    /// Returns the model's id, which is also the id of its training run.
    pub fn model_id(&self) -> &str {
        self.queue.model_id()
    }

    /// Returns the server's description of the model, as of the creation of the client.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Returns the session, for operations that combine training and sampling.
    pub fn session(&self) -> &Arc<dyn SessionContext> {
        self.queue.session()
    }

    /// Computes losses and outputs for `data`, without gradients.
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

    /// Computes losses and outputs for `data`, and adds their gradients to those accumulated for the next
    /// [`TrainingClient::optim_step`].
    ///
    /// A batch above the server's limits is sent as several requests, whose results are merged.
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

    /// Applies an AdamW step with the accumulated gradients, and clears them.
    pub fn optim_step(&self, params: AdamParams) -> ApiFuture<OptimStepResult> {
        let operation = self.operation("TrainingClient.optim_step");
        let step = params.validate().map(|()| Step {
            model_id: Arc::clone(self.queue.model_id()),
            params,
        });
        self.single(
            operation,
            RequestKind::OptimStep,
            step.map_err(Error::from),
            |_| Ok(OptimStepResult::default()),
        )
    }

    /// Saves weights and optimizer state under a name, to resume training from: `save_state("step-10")`.
    ///
    /// A taken name fails this call alone, with `Conflict`: save under another name, or with [`SaveState::overwrite`].
    pub fn save_state(&self, save: impl Into<SaveState>) -> ApiFuture<SavedWeights> {
        let operation = self.operation("TrainingClient.save_state");
        let request = save.into().into_request(self.queue.model_id());
        self.single(operation, RequestKind::SaveWeights, request, |path| {
            Ok(SavedWeights::new(path))
        })
    }

    /// Saves weights for sampling, under a name or [`SaveForSampler::unnamed`].
    pub fn save_weights_for_sampler(
        &self,
        save: impl Into<SaveForSampler>,
    ) -> ApiFuture<SavedSamplerWeights> {
        let operation = self.operation("TrainingClient.save_weights_for_sampler");
        let saved = self.save_weights_for_sampler_in(&operation, save);
        start(operation, saved)
    }

    /// Does the same as a step of `operation`, to whose progress it reports. The call is queued now.
    pub fn save_weights_for_sampler_in(
        &self,
        operation: &Operation,
        save: impl Into<SaveForSampler>,
    ) -> BoxFuture<'static, Result<SavedSamplerWeights>> {
        let session = self.queue.session();
        let request = save
            .into()
            .into_request(self.queue.model_id(), || session.next_sampling_seq());
        let kind = RequestKind::SaveWeightsForSampler;
        self.queue_one(operation, kind, request, |path| {
            Ok(SavedSamplerWeights::named(path))
        })
    }

    /// Loads the weights of a checkpoint, given by its `tinker://` path, into this model and resets the optimizer. Some servers
    /// accept it only as a model's first request.
    pub fn load_state(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load("TrainingClient.load_state", path.as_ref(), false)
    }

    /// Loads weights and optimizer state of a checkpoint, given by its `tinker://` path, into this model.
    pub fn load_state_with_optimizer(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load(
            "TrainingClient.load_state_with_optimizer",
            path.as_ref(),
            true,
        )
    }

    /// Unloads the model from the server, which has memory for few models; otherwise it stays until its session ends. Await earlier
    /// calls first: those in progress may fail. Later calls fail with the server's error for an unknown model.
    pub fn unload(&self) -> ApiFuture<()> {
        let operation = self.operation("TrainingClient.unload");
        let work = unload(operation.clone(), Arc::clone(self.queue.model_id()));
        start(operation, work)
    }

    /// Allows calls again after a refused request that is known to have had no effect on the server. The next call takes its number.
    ///
    /// # Errors
    /// `Poisoned` if that is not known. Create a new client from the last checkpoint then.
    pub fn recover(&self) -> Result<()> {
        self.queue.recover()
    }

    fn load(&self, name: &'static str, path: &str, optimizer: bool) -> ApiFuture<LoadedWeights> {
        let operation = self.operation(name);
        let path = path.parse::<TinkerPath>().map_err(Error::from);
        let loaded = self.queue_load(&operation, path, optimizer);
        start(operation, loaded)
    }

    /// Loads a checkpoint as a step of `operation`, to whose progress it reports.
    pub(crate) fn load_in(
        &self,
        operation: &Operation,
        path: TinkerPath,
        optimizer: bool,
    ) -> BoxFuture<'static, Result<LoadedWeights>> {
        self.queue_load(operation, Ok(path), optimizer)
    }

    fn queue_load(
        &self,
        operation: &Operation,
        path: Result<TinkerPath>,
        optimizer: bool,
    ) -> BoxFuture<'static, Result<LoadedWeights>> {
        let load = path.map(|path| Load {
            model_id: Arc::clone(self.queue.model_id()),
            path,
            optimizer,
        });
        self.queue_one(operation, RequestKind::LoadWeights, load, |path| {
            Ok(LoadedWeights::new(path))
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
        let queued = validate(&data, &loss).map_err(Error::from).and_then(|()| {
            let requests = self.split(mode, data, &loss);
            let progress = Arc::clone(&operation.progress);
            submit(&self.queue, name, requests, progress)
        });
        let kind = match mode {
            PassMode::Forward => RequestKind::Forward,
            PassMode::ForwardBackward => RequestKind::ForwardBackward,
        };
        let waiter = self.waiter(operation.clone(), kind);
        start(operation, waiter.merged(queued))
    }

    fn split(&self, mode: PassMode, mut data: Vec<Datum>, loss: &Loss) -> Vec<Arc<dyn Request>> {
        let chunks = plan_chunks(&data, ChunkLimits::from(self.queue.session().config()));
        let pass = |data| Pass {
            model_id: Arc::clone(self.queue.model_id()),
            mode,
            data,
            loss: loss.clone(),
        };
        chunks
            .into_iter()
            .map(|chunk| Arc::new(pass(data.drain(..chunk.len()).collect())) as Arc<dyn Request>)
            .collect()
    }

    /// Starts a call of one request. `found` makes the result of a save whose checkpoint was found by its name.
    fn single<T: OperationResult>(
        &self,
        operation: Operation,
        kind: RequestKind,
        request: Result<impl Request + 'static>,
        found: FoundSave<T>,
    ) -> ApiFuture<T> {
        let result = self.queue_one(&operation, kind, request, found);
        start(operation, result)
    }

    /// Queues a call of one request now. The future waits for its result.
    fn queue_one<T: OperationResult>(
        &self,
        operation: &Operation,
        kind: RequestKind,
        request: Result<impl Request + 'static>,
        found: FoundSave<T>,
    ) -> BoxFuture<'static, Result<T>> {
        let name = request.as_ref().ok().and_then(Request::saved_name);
        let queued = request.and_then(|request| {
            let progress = Arc::clone(&operation.progress);
            submit(
                &self.queue,
                operation.name,
                vec![Arc::new(request)],
                progress,
            )
        });
        let waiter = ResultWaiter {
            name,
            ..self.waiter(operation.clone(), kind)
        };
        Box::pin(waiter.single(queued, found))
    }

    /// Begins an operation that waits in this model's submission queue and does not count as stalled while the queue moves. For
    /// operations of which a call of this model is a step.
    pub fn operation(&self, name: &'static str) -> Operation {
        let session = Arc::clone(self.queue.session());
        let queue = Arc::<SubmissionQueue>::clone(&self.queue);
        Operation::new(session, name, RouteClass::Train).in_queue(queue)
    }

    fn waiter(&self, operation: Operation, kind: RequestKind) -> ResultWaiter {
        ResultWaiter {
            operation,
            kind,
            queue: Arc::clone(&self.queue),
            queue_log: Arc::clone(&self.queue_log),
            name: None,
        }
    }
}

/// Validates a pass before a sequence number is reserved.
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
