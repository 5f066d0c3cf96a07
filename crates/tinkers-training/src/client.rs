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

/// A client that trains one model on the server. Clones of the client share one submission queue.
///
/// A training call enters the submission queue **when its method is called**, not when the returned future is polled. Requests are sent
/// in this order. Therefore call `optim_step` directly after `forward_backward`, and await both futures afterwards: the server then
/// processes both without a pause in between.
///
/// ```no_run
/// # async fn train(training: tinkers_training::TrainingClient, batch: Vec<tinkers_wire::Datum>) -> tinkers_core::Result<()> {
/// # use tinkers_wire as tinkers;
/// use tinkers::{AdamParams, LossFn};
///
/// let gradients = training.forward_backward(&batch, LossFn::CrossEntropy);
/// let step = training.optim_step(AdamParams::new(1e-4));
/// println!("loss {:?}", gradients.await?.loss_sum());
/// step.await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A rejected save or forward pass fails alone. If the server rejects a request that changes the model, or if a request may or may not
/// have been applied, all later calls fail at once with [`ErrorKind::Poisoned`], so that no call is applied out of order. Then call
/// [`TrainingClient::recover`], or create a new client from the last checkpoint. If the server has lost the session, the call and all later
/// calls fail with [`ErrorKind::SessionLost`] instead.
///
/// # Cancel safety
/// Dropping the future of a training call ends the wait for its result. The call is still submitted.
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

    /// Returns the id of the model on the server, which is also the id of the training run.
    pub fn model_id(&self) -> &str {
        self.calls.model_id()
    }

    /// Returns the server's description of the model, such as its base model and LoRA rank. The description was requested when the client
    /// was created.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Computes the loss of `data` without gradients (a forward pass).
    ///
    /// The result contains one output per datum, in the order of `data`: usually `logprobs`, the natural log-probability of each target
    /// token. Its method [`loss_sum`](ForwardBackwardOutput::loss_sum) returns the loss, summed over all positions of all data. A batch
    /// above the server's limits is sent as several requests, and their results are merged.
    ///
    /// ```no_run
    /// # async fn evaluate(training: tinkers_training::TrainingClient, data: Vec<tinkers_wire::Datum>) -> tinkers_core::Result<()> {
    /// # use tinkers_wire as tinkers;
    /// use tinkers::LossFn;
    ///
    /// let output = training.forward(&data, LossFn::CrossEntropy).await?;
    /// println!("loss {:?} of {} data", output.loss_sum(), output.loss_fn_outputs.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty batch or an invalid datum, before anything is sent: correct the input that
    /// [`Error::field`] names. A forward pass that the server rejects fails alone, and later calls are still sent.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait for the result. The forward pass is still submitted.
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

    /// Computes the loss of `data`, and adds its gradients to the gradients that the next [`TrainingClient::optim_step`] applies.
    ///
    /// The result contains one output per datum, in the order of `data`: usually `logprobs`, the natural log-probability of each target
    /// token. Its method [`loss_sum`](ForwardBackwardOutput::loss_sum) returns the loss, summed over all positions of all data. A batch
    /// above the server's limits is sent as several requests, and their results are merged.
    ///
    /// ```no_run
    /// # async fn train(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// # use tinkers_wire as tinkers;
    /// use tinkers::{Datum, LossFn};
    ///
    /// // Four tokens make three predictions, so there are three weights.
    /// let datum = Datum::next_token(&[1, 2, 3, 4], vec![1.0; 3])?;
    /// let output = training.forward_backward([datum], LossFn::CrossEntropy).await?;
    /// println!("loss {:?}", output.loss_sum());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an empty batch or an invalid datum, before anything is sent: correct the input that
    /// [`Error::field`] names. [`ErrorKind::OutcomeUnknown`] if the response was lost and the server is not known to recognize a repeated
    /// request: continue from the last checkpoint. After a rejection, call [`TrainingClient::recover`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait for the result. The gradients are still added.
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

    /// Applies one AdamW step with the accumulated gradients, and then clears the gradients.
    ///
    /// ```no_run
    /// # async fn step(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// # use tinkers_wire as tinkers;
    /// use tinkers::AdamParams;
    ///
    /// let mut params = AdamParams::new(1e-4);
    /// params.grad_clip_norm = Some(1.0);
    /// training.optim_step(params).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for invalid parameters, before anything is sent: correct the parameter that [`Error::field`] names.
    /// [`ErrorKind::OutcomeUnknown`] if the response was lost and the server is not known to recognize a repeated request: continue from the
    /// last checkpoint. After a rejection, call [`TrainingClient::recover`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait for the result. The step is still applied.
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

    /// Returns a builder that saves the weights and the optimizer state as a checkpoint, from which training can be resumed. The name of the
    /// checkpoint consists of 1 to 255 letters, digits, `-`, `_` and `.`, and does not begin with `.`.
    ///
    /// The save is queued when the builder is awaited or [`SaveState::send`] is called.
    ///
    /// ```no_run
    /// # async fn save(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// let saved = training.save_state("step-10").overwrite().await?;
    /// println!("resume from {}", saved.path);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaiting the builder fails with [`ErrorKind::Conflict`] if a checkpoint of this name exists: use another name, or
    /// [`SaveState::overwrite`]. [`ErrorKind::InvalidInput`] is returned for an invalid name. In both cases later calls are still sent.
    ///
    /// # Cancel safety
    /// Dropping the builder sends nothing. Dropping the future of a queued save does not cancel the save.
    pub fn save_state(&self, name: impl Into<String>) -> SaveState {
        SaveState::new(self.calls.clone(), name.into())
    }

    /// Returns a builder that saves the weights for sampling. The name of the saved weights consists of 1 to 255 letters, digits, `-`, `_` and
    /// `.`.
    ///
    /// The save is queued when the builder is awaited or [`SaveForSampler::send`] is called. Pass the `tinker://` path of the result to
    /// `create_sampling_client`.
    ///
    /// ```no_run
    /// # async fn save(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// let saved = training.save_weights_for_sampler("step-10").await?;
    /// if let Some(path) = saved.path {
    ///     println!("sample from {path}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Awaiting the builder fails with [`ErrorKind::Conflict`] if weights of this name exist: use another name.
    /// [`ErrorKind::InvalidInput`] is returned for an invalid name. In both cases later calls are still sent.
    ///
    /// # Cancel safety
    /// Dropping the builder sends nothing. Dropping the future of a queued save does not cancel the save.
    pub fn save_weights_for_sampler(&self, name: impl Into<String>) -> SaveForSampler {
        SaveForSampler::new(self.calls.clone(), Some(name.into()))
    }

    /// Saves the current weights without a name, and creates a client that samples from the saved weights.
    ///
    /// The save enters the submission queue when this method is called, so later training calls do not change the samples. The saved
    /// weights exist only for this sampling client, and cannot be listed or loaded.
    ///
    /// ```no_run
    /// # async fn sample(training: tinkers_training::TrainingClient, prompt: Vec<u32>) -> tinkers_core::Result<()> {
    /// let sampler = training.save_weights_and_get_sampling_client().await?;
    /// let reply = sampler.sample(prompt).max_tokens(64).await?;
    /// println!("{:?}", reply.sequences[0].tokens);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait. The save is still submitted, but no sampling client is created.
    pub fn save_weights_and_get_sampling_client(&self) -> ApiFuture<SamplingClient> {
        let session = Arc::clone(self.calls.session());
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
                    let creation = CreateSamplingClient::from_weights(session, path);
                    creation.create_in(&operation).await
                }
                (None, None) => {
                    let message = "the response to saving weights contains neither a path nor a sampling session";
                    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
                }
            }
        })
    }

    /// Loads the weights of a checkpoint into this model, and resets the optimizer. `path` is the `tinker://` path of the checkpoint.
    ///
    /// Some servers accept a load only as the first request of a model. To continue training, use
    /// [`TrainingClient::load_state_with_optimizer`].
    ///
    /// ```no_run
    /// # async fn load(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// training.load_state("tinker://run-1/weights/step-100").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for an invalid path, before anything is sent. [`ErrorKind::NotFound`] if there is no such checkpoint:
    /// check the path, then call [`TrainingClient::recover`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait for the result. The checkpoint is still loaded.
    pub fn load_state(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load("TrainingClient.load_state", path.as_ref(), false)
    }

    /// Loads the weights and the optimizer state of a checkpoint into this model. `path` is the `tinker://` path of the checkpoint. The
    /// errors are those of [`TrainingClient::load_state`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait for the result. The checkpoint is still loaded.
    pub fn load_state_with_optimizer(&self, path: impl AsRef<str>) -> ApiFuture<LoadedWeights> {
        self.load(
            "TrainingClient.load_state_with_optimizer",
            path.as_ref(),
            true,
        )
    }

    /// Unloads the model from the server. This frees the memory that the model uses on the server. Without this call, the model stays
    /// loaded until its session ends.
    ///
    /// Await all earlier calls first: the request does not wait in the submission queue, and calls that are in progress may fail. Later
    /// calls fail with the server's error for an unknown model, usually [`ErrorKind::SessionLost`].
    ///
    /// ```no_run
    /// # async fn finish(training: tinkers_training::TrainingClient) -> tinkers_core::Result<()> {
    /// training.save_state("final").await?;
    /// training.unload().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request if it was not sent yet.
    pub fn unload(&self) -> ApiFuture<()> {
        let operation = self.calls.operation("TrainingClient.unload");
        let work = unload(operation.clone(), Arc::clone(self.calls.model_id()));
        start(operation, work)
    }

    /// Lets the client accept calls again after a failed call of which the server applied no part, such as a rejected call. The next call reuses
    /// the sequence numbers of the failed call. If the client accepts calls already, this method does nothing.
    ///
    /// ```no_run
    /// # async fn train(training: tinkers_training::TrainingClient, batch: Vec<tinkers_wire::Datum>) -> tinkers_core::Result<()> {
    /// # mod tinkers { pub use tinkers_core::ErrorKind; pub use tinkers_wire::LossFn; }
    /// use tinkers::{ErrorKind, LossFn};
    ///
    /// match training.forward_backward(batch, LossFn::CrossEntropy).await {
    ///     Err(error) if error.kind() == ErrorKind::Rejected => {
    ///         eprintln!("skipping a batch: {error}");
    ///         training.recover()?;
    ///     }
    ///     output => println!("loss {:?}", output?.loss_sum()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] if a part of the failed call was or may have been applied: create a new client from the last checkpoint. The
    /// error is also returned while requests of the failed call are in flight: try again later. [`ErrorKind::SessionLost`] if the session is
    /// lost, and [`ErrorKind::Closed`] if the client was closed.
    pub fn recover(&self) -> Result<()> {
        self.calls.recover()
    }

    fn load(&self, name: &'static str, path: &str, optimizer: bool) -> ApiFuture<LoadedWeights> {
        let operation = self.calls.operation(name);
        let path = path.parse::<TinkerPath>().map_err(Error::from);
        let loaded = self.queue_load(&operation, path, optimizer);
        start(operation, loaded)
    }

    /// Queues the load of a checkpoint as one step of `operation`, such as the creation of a training client. The progress of the load is
    /// reported as progress of `operation`. The returned future waits for the result of the load.
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
                Ok(LoadedWeights::new(path))
            })
    }
}
