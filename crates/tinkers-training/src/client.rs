//! The client that trains one model.

use std::sync::Arc;

use tinkers_core::{BoxFuture, Error, ErrorKind, Result, Sent, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};
use tinkers_sampling::{CreateSamplingClient, SamplingClient};
use tinkers_wire::{
    AdamParams, Datum, ForwardBackwardOutput, LoadedWeights, Loss, ModelInfo, OptimStepResult,
    PassMode, RequestKind, TinkerPath,
};

use crate::model_calls::ModelCalls;
use crate::requests::{Load, Step};
use crate::unload::unload;
use crate::{SaveForSampler, SaveState};

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
    calls: ModelCalls,
    info: Arc<ModelInfo>,
}

impl TrainingClient {
    pub(crate) fn new(session: Arc<dyn SessionContext>, info: ModelInfo) -> Self {
        Self {
            calls: ModelCalls::new(session, &info.model_id),
            info: Arc::new(info),
        }
    }

    /// Returns the model's id, which is also the id of its training run.
    pub fn model_id(&self) -> &str {
        self.calls.model_id()
    }

    /// Returns the server's description of the model, as of the creation of the client.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Returns the session, for operations that combine training and sampling.
    pub fn session(&self) -> &Arc<dyn SessionContext> {
        self.calls.session()
    }

    /// Computes losses and outputs for `data`, without gradients.
    pub fn forward(
        &self,
        data: impl IntoIterator<Item = impl Into<Datum>>,
        loss: impl Into<Loss>,
    ) -> ApiFuture<ForwardBackwardOutput> {
        self.calls.pass(
            "TrainingClient.forward",
            PassMode::Forward,
            data.into_iter().map(Into::into).collect(),
            loss.into(),
        )
    }

    /// Computes losses and outputs for `data`, and adds their gradients to those accumulated for the next
    /// [`TrainingClient::optim_step`].
    ///
    /// A batch above the server's limits is sent as several requests, whose results are merged.
    pub fn forward_backward(
        &self,
        data: impl IntoIterator<Item = impl Into<Datum>>,
        loss: impl Into<Loss>,
    ) -> ApiFuture<ForwardBackwardOutput> {
        self.calls.pass(
            "TrainingClient.forward_backward",
            PassMode::ForwardBackward,
            data.into_iter().map(Into::into).collect(),
            loss.into(),
        )
    }

    /// Applies an AdamW step with the accumulated gradients, and clears them.
    pub fn optim_step(&self, params: AdamParams) -> ApiFuture<OptimStepResult> {
        let operation = self.calls.operation("TrainingClient.optim_step");
        let step = params.validate().map(|()| Step {
            model_id: Arc::clone(self.calls.model_id()),
            params,
        });
        self.calls.single(
            operation,
            RequestKind::OptimStep,
            step.map_err(Error::from),
            |_| Ok(OptimStepResult::default()),
        )
    }

    /// Builds a save of weights and optimizer state under a name of 1 to 255 letters, digits, `-`, `_` and `.`, to resume training from.
    ///
    /// The save is queued when it is awaited or [`SaveState::send`] is called. It fails alone, with `Conflict`, if the name is taken: save
    /// under another name, or with [`SaveState::overwrite`].
    ///
    /// ```no_run
    /// # async fn save(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// let saved = training.save_state("step-10").overwrite().await?;
    /// println!("resume from {}", saved.path);
    /// # Ok(())
    /// # }
    /// ```
    pub fn save_state(&self, name: impl Into<String>) -> SaveState {
        SaveState::new(self.calls.clone(), name.into())
    }

    /// Builds a save of weights for sampling under a name of 1 to 255 letters, digits, `-`, `_` and `.`. The save is queued when it is
    /// awaited or [`SaveForSampler::send`] is called.
    pub fn save_weights_for_sampler(&self, name: impl Into<String>) -> SaveForSampler {
        SaveForSampler::new(self.calls.clone(), Some(name.into()))
    }

    /// Saves the current weights without a name, and creates a client that samples from them.
    ///
    /// The save takes its place in the order of training calls when this method is called, so later training does not change the samples.
    /// The weights exist only for this sampling client, and cannot be listed or loaded.
    pub fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient> {
        let session = Arc::clone(self.session());
        let operation = self
            .calls
            .operation("TrainingClient.save_weights_and_get_sampling_client");
        // Queued here and not in the future, since the call fixes the position in the order.
        let saved = SaveForSampler::new(self.calls.clone(), None).queue(&operation);
        start(operation.clone(), async move {
            let saved = saved.await?;
            match (saved.sampling_session_id, saved.path) {
                (Some(id), _) => Ok(SamplingClient::new(session, id)),
                (None, Some(path)) => {
                    let creation = CreateSamplingClient::new(session, path);
                    creation.create_in(&operation).await
                }
                (None, None) => {
                    let message = "the response to saving weights contains neither a path nor a sampling session";
                    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
                }
            }
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
        let operation = self.calls.operation("TrainingClient.unload");
        let work = unload(operation.clone(), Arc::clone(self.calls.model_id()));
        start(operation, work)
    }

    /// Allows calls again after a refused request that is known to have had no effect on the server. The next call takes its number.
    ///
    /// # Errors
    /// `Poisoned` if that is not known. Create a new client from the last checkpoint then.
    pub fn recover(&self) -> Result<()> {
        self.calls.recover()
    }

    fn load(&self, name: &'static str, path: &str, optimizer: bool) -> ApiFuture<LoadedWeights> {
        let operation = self.calls.operation(name);
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
            model_id: Arc::clone(self.calls.model_id()),
            path,
            optimizer,
        });
        self.calls
            .queue_one(operation, RequestKind::LoadWeights, load, |path| {
                Ok(LoadedWeights {
                    path: Some(path),
                    model_id: None,
                })
            })
    }
}
