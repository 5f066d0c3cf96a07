//! The simulated program of a user: tasks that share clients, make calls, and recover from
//! failures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tinkers::{
    AdamParams, ApiFuture, CreateLoraTrainingClient, CreateSamplingClient,
    CreateTrainingClientFromState, Error, ErrorKind, FinishReason, LossFn, SamplingClient,
    ServiceClient, TrainingClient,
};
use tinkers_core::BoxFuture;
use tokio::sync::{Mutex, oneshot};

use crate::call_log::{CallId, CallOutcome, CallRecord};
use crate::control::Control;
use crate::control::progress::await_ignoring_queue;
use crate::fault::Fault;
use crate::harness::Harness;
use crate::op::Op;
use crate::payload;
use crate::plan::{BURST, CallKind, HandleUse, Step, TaskPlan};
use crate::result_checks::{KeptResult, check_pass, check_sample, check_save};

/// The maximum number of attempts to connect a client. After this number, the tasks of the client
/// end.
const MAX_ATTEMPTS: u32 = 40;
/// The pause between two attempts to connect a client.
const PAUSE: Duration = Duration::from_secs(30);

/// A client of the simulated user program. Several tasks share it. The first step of a task
/// connects the client if it is not connected.
pub struct Client {
    harness: Arc<Harness>,
    index: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    service: Option<ServiceClient>,
    training: Option<TrainingClient>,
    sampler: Option<SamplingClient>,
    last_saved: Option<SavedState>,
    has_given_up: bool,
}

/// A saved training state and the call that saved it.
#[derive(Clone)]
struct SavedState {
    call: CallId,
    path: String,
}

/// The connected session, training and sampling clients that a step uses, and the training state
/// that was saved last.
#[derive(Clone)]
struct ConnectedClients {
    service: ServiceClient,
    training: TrainingClient,
    sampler: SamplingClient,
    last_saved: Option<SavedState>,
}

impl Client {
    /// Creates a client that is not connected yet.
    pub fn new(harness: Arc<Harness>, index: usize) -> Self {
        Self {
            harness,
            index,
            state: Mutex::default(),
        }
    }

    /// Runs the steps of a task one after another. Stops early if the client cannot be connected.
    pub async fn run(&self, task: TaskPlan) {
        for step in task.steps {
            self.harness.clock().sleep(step.pause).await;
            let Some(clients) = self.connect_with_retries().await else {
                return;
            };
            self.run_step(&clients, step).await;
        }
    }

    /// Connects the client if it is not connected, and retries if this fails. Returns `None` after
    /// [`MAX_ATTEMPTS`] failed attempts.
    async fn connect_with_retries(&self) -> Option<ConnectedClients> {
        let mut state = self.state.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            if state.has_given_up {
                return None;
            }
            match self.connect(&mut state).await {
                Ok(clients) => return Some(clients),
                Err(error) => {
                    let (index, trace) = (self.index, &self.harness.network.trace);
                    trace.push(format_args!("client {index} could not connect: {error}"));
                    if matches!(error.kind(), ErrorKind::Closed | ErrorKind::SessionLost) {
                        self.release_session(&mut state);
                    }
                    // The saved state may be unusable.
                    if error.kind() == ErrorKind::OperationFailed {
                        state.last_saved = None;
                    }
                    self.harness.clock().sleep(PAUSE).await;
                }
            }
        }
        state.has_given_up = true;
        None
    }

    /// Removes the session, its training client and its sampling client from `state`, but keeps the
    /// training state that was saved last. Returns the previous contents of `state`.
    fn release_session(&self, state: &mut State) -> State {
        let empty = State {
            last_saved: state.last_saved.clone(),
            has_given_up: state.has_given_up,
            ..State::default()
        };
        let previous = std::mem::replace(state, empty);
        if let Some(service) = &previous.service {
            self.harness.session_released(service.session_id());
        }
        previous
    }

    /// Creates the session, the training client and the sampling client, as far as they do not
    /// exist yet.
    async fn connect(&self, state: &mut State) -> Result<ConnectedClients, Error> {
        let base_model = self.harness.plan.engine.base_model();
        let service = match &state.service {
            Some(service) => service.clone(),
            None => {
                let service = self.harness.create_session(self.index).await?;
                state.service.insert(service).clone()
            }
        };
        let context = self.harness.session_context(&service);
        let training = match &state.training {
            Some(training) => training.clone(),
            None => {
                let creation = match &state.last_saved {
                    Some(SavedState { path, .. }) => {
                        CreateTrainingClientFromState::with_optimizer(context, path).send()
                    }
                    None => CreateLoraTrainingClient::new(context, base_model)
                        .rank(4)
                        .send(),
                };
                let training = self.create(CallKind::CreateModel, creation).await?;
                state.training.insert(training).clone()
            }
        };
        let sampler = match &state.sampler {
            Some(sampler) => sampler.clone(),
            None => {
                let context = self.harness.session_context(&service);
                let creation = CreateSamplingClient::new(context, base_model).send();
                let sampler = self.create(CallKind::CreateSampler, creation).await?;
                state.sampler.insert(sampler).clone()
            }
        };
        Ok(ConnectedClients {
            service,
            training,
            sampler,
            last_saved: state.last_saved.clone(),
        })
    }

    async fn create<T: Send>(&self, kind: CallKind, creation: ApiFuture<T>) -> Result<T, Error> {
        let call = self.add_call(kind, None, None);
        let result = creation.await;
        let outcome = match &result {
            Ok(_) => CallOutcome::Ok,
            Err(error) => self.failed(error),
        };
        self.harness.complete(call, outcome);
        result
    }

    async fn run_step(&self, clients: &ConnectedClients, step: Step) {
        // All calls of the step are made, in order, before any of them is awaited.
        let calls: Vec<BoxFuture<'_, ()>> = step
            .calls
            .into_iter()
            .flat_map(|(kind, handle_use)| self.call(clients, kind, handle_use))
            .collect();
        join_all(calls).await;
    }

    /// Makes the calls of the kind `kind` at once. Returns futures that then use the handles of the
    /// calls (the futures of the results) as `handle_use` says.
    fn call<'a>(
        &'a self,
        clients: &ConnectedClients,
        kind: CallKind,
        handle_use: HandleUse,
    ) -> Vec<BoxFuture<'a, ()>> {
        let training = clients.training.clone();
        let model = Some(training.model_id().to_owned());
        let add_training_call = |loaded_save| self.add_call(kind, model, loaded_save);
        let injector = &self.harness.network.injector;
        injector.record_handle_use(handle_use, kind);
        let future = match kind {
            CallKind::Forward(count) => {
                let call = add_training_call(None);
                let data = payload::data(call, count.into());
                let made = self.make(move || training.forward(data, LossFn::CrossEntropy));
                self.wait(call, handle_use, made, move |pass| check_pass(&pass, count))
            }
            CallKind::ForwardBackward(count) => {
                let call = add_training_call(None);
                let data = payload::data(call, count.into());
                let made = self.make(move || training.forward_backward(data, LossFn::CrossEntropy));
                self.wait(call, handle_use, made, move |pass| check_pass(&pass, count))
            }
            CallKind::OptimStep => {
                let call = add_training_call(None);
                let params = AdamParams::new(payload::learning_rate(call));
                let made = self.make(move || training.optim_step(params));
                self.wait(call, handle_use, made, |_| Ok(KeptResult::Nothing))
            }
            CallKind::SaveState => {
                let call = add_training_call(None);
                let name = payload::checkpoint_name(true, call);
                let made = self.make(move || training.save_state(name).send());
                self.wait(call, handle_use, made, move |saved| {
                    check_save(call, saved.path.as_ref())
                })
            }
            CallKind::SaveForSampler => {
                let call = add_training_call(None);
                let name = payload::checkpoint_name(false, call);
                let made = self.make(move || training.save_weights_for_sampler(name).send());
                self.wait(call, handle_use, made, |_| Ok(KeptResult::Nothing))
            }
            CallKind::SaveAndSample => {
                let call = add_training_call(None);
                let made = self.make(move || training.save_weights_and_get_sampling_client());
                let keep = |sampler| Ok(KeptResult::Sampler(sampler));
                self.wait(call, handle_use, made, keep)
            }
            CallKind::Load => {
                let Some(saved) = clients.last_saved.clone() else {
                    return Vec::new();
                };
                let call = add_training_call(Some(saved.call));
                let made = self.make(move || training.load_state_with_optimizer(saved.path));
                self.wait(call, handle_use, made, |_| Ok(KeptResult::Nothing))
            }
            CallKind::Sample(count) => {
                let sample = |_| {
                    if count == BURST {
                        injector.record(Fault::Burst, Op::Sample);
                    }
                    self.sample(clients, kind, handle_use)
                };
                return (0..count).map(sample).collect();
            }
            CallKind::Capabilities => {
                let call = self.add_call(kind, None, None);
                let service = clients.service.clone();
                Box::pin(async move {
                    let outcome = match service.capabilities().await {
                        Ok(_) => CallOutcome::Ok,
                        Err(error) => self.failed(&error),
                    };
                    self.harness.complete(call, outcome);
                })
            }
            CallKind::CreateModel | CallKind::CreateSampler => return Vec::new(),
        };
        vec![future]
    }

    fn sample<'a>(
        &'a self,
        clients: &ConnectedClients,
        kind: CallKind,
        handle_use: HandleUse,
    ) -> BoxFuture<'a, ()> {
        let call = self.add_call(kind, None, None);
        let sample = clients.sampler.sample(payload::prompt(call)).max_tokens(2);
        let made = MadeCall::Now(sample.send());
        self.wait(call, handle_use, made, move |response| {
            let last_token = payload::last_token(call);
            check_sample(&response, last_token, self.harness.engine.real())
        })
    }

    fn add_call(
        &self,
        kind: CallKind,
        model: Option<String>,
        loaded_save: Option<CallId>,
    ) -> CallId {
        let now = self.harness.clock().now();
        let plan = &self.harness.plan;
        let limit = plan.clients[self.index].operation_deadline;
        self.harness.calls.add(CallRecord {
            client: self.index,
            kind,
            model,
            loaded_save,
            called_at: now,
            deadline: limit.map(|limit| now.after(limit + plan.max_completion_delay())),
            outcome: None,
            completions: 0,
            is_abandoned: false,
            is_awaited_late: false,
        })
    }

    /// Makes a call at once, by running the closure `make`. With [`Control::LazySubmission`], makes
    /// the call in a separate task instead, which runs later.
    fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> ApiFuture<T> + Send + 'static,
    ) -> MadeCall<T> {
        if self.harness.control != Some(Control::LazySubmission) {
            return MadeCall::Now(make());
        }
        let (sender, receiver) = oneshot::channel();
        let work = async move {
            let _ = sender.send(make());
        };
        self.harness.program_spawner.spawn(Box::pin(work)).detach();
        MadeCall::Later(receiver)
    }

    /// Uses the handle of a call (the future of its result) as planned: awaits, cancels or drops
    /// it. Checks the result with `check`, and records the outcome.
    fn wait<'a, T: Send + 'static>(
        &'a self,
        call: CallId,
        handle_use: HandleUse,
        made: MadeCall<T>,
        check: impl FnOnce(T) -> Result<KeptResult, String> + Send + 'a,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(mut handle) = made.handle().await else {
                return;
            };
            let clock = self.harness.clock();
            let calls = &self.harness.calls;
            let result = match handle_use {
                HandleUse::Await if self.ignores_queue_progress(call) => {
                    let plan = &self.harness.plan.clients[self.index];
                    await_ignoring_queue(handle, clock, plan.progress_deadline).await
                }
                HandleUse::Await => handle.await,
                HandleUse::AwaitLate(pause) => {
                    calls.await_late(call, pause);
                    clock.sleep(pause).await;
                    handle.await
                }
                HandleUse::Timeout(timeout) => match handle.within(timeout).await {
                    Err(error) if error.kind() == ErrorKind::Timeout => {
                        return calls.abandon(call);
                    }
                    other => other,
                },
                HandleUse::Cancel(pause) => {
                    let deadline = clock.now().after(pause);
                    match clock.deadline(deadline, &mut handle).await {
                        Some(result) => result,
                        None => {
                            calls.abandon(call);
                            return handle.cancel();
                        }
                    }
                }
                HandleUse::Drop => {
                    calls.abandon(call);
                    return drop(handle);
                }
            };
            match result.map(check) {
                Ok(Ok(kept)) => {
                    self.harness.complete(call, CallOutcome::Ok);
                    self.keep(call, kept).await;
                }
                Ok(Err(text)) => self.harness.complete(call, CallOutcome::WrongResult(text)),
                Err(error) => {
                    self.harness.complete(call, self.failed(&error));
                    self.recover(&error).await;
                }
            }
        })
    }

    fn ignores_queue_progress(&self, call: CallId) -> bool {
        self.harness.control == Some(Control::IgnoredModelQueueProgress)
            && self.harness.calls.is_on_model(call)
    }

    /// Shuts down the client after all tasks have ended. Half of the clients close their session
    /// explicitly. The other half only drop it.
    pub async fn shut_down(&self) {
        let state = self.release_session(&mut *self.state.lock().await);
        self.harness.check_for_key(&format!(
            "{:?} {:?} {:?}",
            state.service, state.training, state.sampler
        ));
        if let Some(service) = state.service
            && self.index.is_multiple_of(2)
        {
            self.close_session(service).await;
        }
    }

    /// Closes the session explicitly, while calls may be pending.
    pub async fn close(&self) {
        let service = self.state.lock().await.service.clone();
        if let Some(service) = service {
            let injector = &self.harness.network.injector;
            injector.record(Fault::CloseSession, Op::Finish);
            self.close_session(service).await;
        }
    }

    async fn close_session(&self, service: ServiceClient) {
        self.harness.session_closed(service.session_id());
        // A fault may make the request fail.
        let _ = service.close(FinishReason::Success, None).await;
    }

    async fn keep(&self, call: CallId, result: KeptResult) {
        match result {
            KeptResult::Nothing => {}
            KeptResult::State(path) => {
                self.state.lock().await.last_saved = Some(SavedState { call, path });
            }
            KeptResult::Sampler(sampler) => self.state.lock().await.sampler = Some(sampler),
        }
    }

    /// Drops the session, training or sampling client if it cannot be used any more after a call
    /// has failed with `error`.
    async fn recover(&self, error: &Error) {
        let mut state = self.state.lock().await;
        match error.kind() {
            ErrorKind::Closed | ErrorKind::SessionLost | ErrorKind::Aborted => {
                self.release_session(&mut state);
            }
            ErrorKind::NotFound | ErrorKind::ResultLost | ErrorKind::Protocol => {
                state.sampler = None;
            }
            _ => {}
        }
        if let Some(training) = &state.training
            && training.recover().is_err()
        {
            state.training = None;
        }
    }

    fn failed(&self, error: &Error) -> CallOutcome {
        self.harness.check_error_for_key(error);
        CallOutcome::failed(error)
    }
}

/// A call that was made, with its handle, or a call that a separate task will make.
enum MadeCall<T> {
    Now(ApiFuture<T>),
    Later(oneshot::Receiver<ApiFuture<T>>),
}

impl<T> MadeCall<T> {
    async fn handle(self) -> Option<ApiFuture<T>> {
        match self {
            Self::Now(handle) => Some(handle),
            Self::Later(receiver) => receiver.await.ok(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
