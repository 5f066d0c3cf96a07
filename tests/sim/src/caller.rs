//! A user's program: tasks that share clients, make calls, and go on after failures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tinkers::{
    AdamParams, ApiFuture, CreateLoraTrainingClient, CreateSamplingClient,
    CreateTrainingClientFromState, Error, ErrorKind, FinishReason, LossFn, RestoreOptimizer,
    SamplingClient, SaveAndSample, SaveForSampler, SaveState, ServiceClient, TrainingClient,
};
use tinkers_core::{BoxFuture, Phase, Sent, Stalled};
use tokio::sync::Mutex;

use crate::book::{CallId, Entry, Outcome};
use crate::control::Control;
use crate::fault::Kind;
use crate::ledger;
use crate::op::Op;
use crate::plan::{Behaviour, CROWD, Step, TaskPlan, Verb};
use crate::results::{Gift, passed, sampled, saved_by};
use crate::stage::Stage;

/// How often a program tries to get a client before it gives up.
const TRIES: u32 = 40;
/// The pause before it tries again.
const PAUSE: Duration = Duration::from_secs(30);

/// A client of the program, which its tasks share.
pub struct Client {
    stage: Arc<Stage>,
    index: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    service: Option<ServiceClient>,
    training: Option<TrainingClient>,
    sampler: Option<SamplingClient>,
    /// The last save, by its call and path.
    saved: Option<(CallId, String)>,
    gave_up: bool,
}

/// What a step works with.
#[derive(Clone)]
struct Hands {
    service: ServiceClient,
    training: TrainingClient,
    sampler: SamplingClient,
    saved: Option<(CallId, String)>,
}

impl Client {
    /// A client that has not connected yet.
    pub fn new(stage: Arc<Stage>, index: usize) -> Self {
        Self {
            stage,
            index,
            state: Mutex::default(),
        }
    }

    /// Works a task off.
    pub async fn run(&self, task: TaskPlan) {
        for step in task.steps {
            self.stage.time().sleep(step.pause).await;
            let Some(hands) = self.hands().await else {
                return;
            };
            self.step(&hands, step).await;
        }
    }

    /// Everything that a step needs, made anew where it was lost.
    async fn hands(&self) -> Option<Hands> {
        let mut state = self.state.lock().await;
        for _ in 0..TRIES {
            if state.gave_up {
                return None;
            }
            match self.complete(&mut state).await {
                Ok(hands) => return Some(hands),
                Err(error) => {
                    let trace = &self.stage.network.trace;
                    trace.note(format_args!(
                        "client {} has to try again: {error}",
                        self.index
                    ));
                    if matches!(error.kind(), ErrorKind::Closed | ErrorKind::SessionLost) {
                        self.start_anew(&mut state);
                    }
                    // A checkpoint that cannot be used any more must not be in the way for ever.
                    if error.kind() == ErrorKind::OperationFailed {
                        state.saved = None;
                    }
                    self.stage.time().sleep(PAUSE).await;
                }
            }
        }
        state.gave_up = true;
        None
    }

    /// Lets go of everything but the last save.
    fn start_anew(&self, state: &mut State) -> State {
        let empty = State {
            saved: state.saved.clone(),
            gave_up: state.gave_up,
            ..State::default()
        };
        let before = std::mem::replace(state, empty);
        if let Some(service) = &before.service {
            self.stage.let_go(service.session_id());
        }
        before
    }

    async fn complete(&self, state: &mut State) -> Result<Hands, Error> {
        let service = match &state.service {
            Some(service) => service.clone(),
            None => {
                let service = self.stage.connect(self.index).await?;
                state.service.insert(service).clone()
            }
        };
        let context = self.stage.context(&service);
        let training = match &state.training {
            Some(training) => training.clone(),
            None => {
                let creation = match &state.saved {
                    Some((_, path)) => {
                        CreateTrainingClientFromState::new(context, path, RestoreOptimizer::Yes)
                            .create()
                    }
                    None => {
                        CreateLoraTrainingClient::new(context, self.stage.plan.engine.base_model())
                            .rank(4)
                            .create()
                    }
                };
                let training = self.made(Verb::CreateModel, creation).await?;
                state.training.insert(training).clone()
            }
        };
        let sampler = match &state.sampler {
            Some(sampler) => sampler.clone(),
            None => {
                let context = self.stage.context(&service);
                let creation =
                    CreateSamplingClient::new(context, self.stage.plan.engine.base_model())
                        .create();
                let sampler = self.made(Verb::CreateSampler, creation).await?;
                state.sampler.insert(sampler).clone()
            }
        };
        Ok(Hands {
            service,
            training,
            sampler,
            saved: state.saved.clone(),
        })
    }

    async fn made<T: Send>(&self, verb: Verb, creation: ApiFuture<T>) -> Result<T, Error> {
        let call = self.record(verb, None, None);
        let made = creation.await;
        let outcome = match &made {
            Ok(_) => Outcome::Ok,
            Err(error) => self.failed(error),
        };
        self.stage.ended(call, outcome);
        made
    }

    async fn step(&self, hands: &Hands, step: Step) {
        // All calls of a step are made here, one after the other, before anything is waited for.
        let calls: Vec<BoxFuture<'_, ()>> = step
            .calls
            .into_iter()
            .flat_map(|(verb, behaviour)| self.call(hands, verb, behaviour))
            .collect();
        join_all(calls).await;
    }

    fn call<'a>(
        &'a self,
        hands: &Hands,
        verb: Verb,
        behaviour: Behaviour,
    ) -> Vec<BoxFuture<'a, ()>> {
        let training = &hands.training;
        let model = Some(training.model_id().to_owned());
        let one = |work| vec![work];
        self.stage.network.misfortune.handled(behaviour, verb);
        match verb {
            Verb::Forward(count) => {
                let call = self.record(verb, model, None);
                let data = ledger::data(call, count.into());
                let training = training.clone();
                let made = self.submit(move || training.forward(data, LossFn::CrossEntropy));
                one(self.wait(call, behaviour, made, move |output| passed(&output, count)))
            }
            Verb::ForwardBackward(count) => {
                let call = self.record(verb, model, None);
                let data = ledger::data(call, count.into());
                let training = training.clone();
                let made =
                    self.submit(move || training.forward_backward(data, LossFn::CrossEntropy));
                one(self.wait(call, behaviour, made, move |output| passed(&output, count)))
            }
            Verb::OptimStep => {
                let call = self.record(verb, model, None);
                let training = training.clone();
                let rate = ledger::rate(call);
                let made = self.submit(move || training.optim_step(AdamParams::new(rate)));
                one(self.wait(call, behaviour, made, |_| Ok(Gift::Nothing)))
            }
            Verb::SaveState => {
                let call = self.record(verb, model, None);
                let training = training.clone();
                let save = SaveState::named(ledger::save_name(true, call));
                let made = self.submit(move || training.save_state(save));
                one(self.wait(call, behaviour, made, move |saved| {
                    saved_by(call, saved.path.as_ref())
                }))
            }
            Verb::SaveForSampler => {
                let call = self.record(verb, model, None);
                let training = training.clone();
                let save = SaveForSampler::named(ledger::save_name(false, call));
                let made = self.submit(move || training.save_weights_for_sampler(save));
                one(self.wait(call, behaviour, made, |_| Ok(Gift::Nothing)))
            }
            Verb::Export => {
                let call = self.record(verb, model, None);
                let training = training.clone();
                let made = self.submit(move || training.save_weights_and_get_sampling_client());
                one(self.wait(call, behaviour, made, |sampler| Ok(Gift::Sampler(sampler))))
            }
            Verb::Load => match &hands.saved {
                Some((saved, path)) => {
                    let call = self.record(verb, model, Some(*saved));
                    let (training, path) = (training.clone(), path.clone());
                    let made = self.submit(move || training.load_state_with_optimizer(path));
                    one(self.wait(call, behaviour, made, |_| Ok(Gift::Nothing)))
                }
                None => Vec::new(),
            },
            Verb::Sample(count) => (0..count)
                .inspect(|_| {
                    if count == CROWD {
                        self.stage.network.misfortune.met(Kind::Crowd, Op::Sample);
                    }
                })
                .map(|_| {
                    let call = self.record(verb, None, None);
                    let last = call % 250;
                    let made = hands
                        .sampler
                        .sample(ledger::prompt(call))
                        .max_tokens(2)
                        .send();
                    self.wait(call, behaviour, Made::Now(made), move |reply| {
                        sampled(&reply, last, self.stage.engine.real())
                    })
                })
                .collect(),
            Verb::Capabilities => {
                let call = self.record(verb, None, None);
                let service = hands.service.clone();
                one(Box::pin(async move {
                    let outcome = match service.capabilities().await {
                        Ok(_) => Outcome::Ok,
                        Err(error) => self.failed(&error),
                    };
                    self.stage.ended(call, outcome);
                }))
            }
            Verb::CreateModel | Verb::CreateSampler => Vec::new(),
        }
    }

    fn record(&self, verb: Verb, model: Option<String>, loads: Option<CallId>) -> CallId {
        let now = self.stage.time().now();
        let limit = self.stage.plan.clients[self.index].operation_deadline;
        self.stage.book.call(Entry {
            client: self.index,
            verb,
            model,
            loads,
            called_at: now,
            deadline: limit.map(|limit| now.after(limit + self.stage.plan.latest_end())),
            outcome: None,
            ended: 0,
            left: false,
            is_late: false,
        })
    }

    /// Makes the call; a faulty client makes it when it comes to it.
    fn submit<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> ApiFuture<T> + Send + 'static,
    ) -> Made<T> {
        if self.stage.control != Some(Control::OvertakingSubmit) {
            return Made::Now(make());
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let later = async move {
            let _ = sender.send(make());
        };
        self.stage.caller_side.spawn(Box::pin(later)).detach();
        Made::Later(receiver)
    }

    /// What the program does with a handle.
    fn wait<'a, T: Send + 'static>(
        &'a self,
        call: CallId,
        behaviour: Behaviour,
        made: Made<T>,
        take: impl FnOnce(T) -> Result<Gift, String> + Send + 'a,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(mut handle) = made.handle().await else {
                return;
            };
            let time = self.stage.time();
            let result = match behaviour {
                Behaviour::Await if self.is_queue_unheard(call) => self.unheard(&mut handle).await,
                Behaviour::Await => handle.await,
                Behaviour::AwaitLate(pause) => {
                    // When it ended is seen when it is looked at.
                    self.stage.book.looked_at_late(call, pause);
                    time.sleep(pause).await;
                    handle.await
                }
                Behaviour::Within(limit) => match handle.within(limit).await {
                    Err(error) if error.kind() == ErrorKind::Timeout => {
                        return self.stage.book.left(call);
                    }
                    other => other,
                },
                Behaviour::Cancel(after) => {
                    match time.deadline(time.now().after(after), &mut handle).await {
                        Some(result) => result,
                        None => {
                            self.stage.book.left(call);
                            return handle.cancel();
                        }
                    }
                }
                Behaviour::Drop => {
                    self.stage.book.left(call);
                    return drop(handle);
                }
            };
            match result {
                Ok(value) => match take(value) {
                    Ok(gift) => {
                        self.stage.ended(call, Outcome::Ok);
                        self.keep(call, gift).await;
                    }
                    Err(wrong) => self.stage.ended(call, Outcome::Wrong(wrong)),
                },
                Err(error) => {
                    self.stage.ended(call, self.failed(&error));
                    self.after(&error).await;
                }
            }
        })
    }

    fn is_queue_unheard(&self, call: CallId) -> bool {
        self.stage.control == Some(Control::ModelQueueUnheard) && self.stage.book.is_of_model(call)
    }

    /// Awaits a call of a faulty client, to which nothing but its own news count while it is in its model's queue.
    async fn unheard<T: Send + 'static>(&self, handle: &mut ApiFuture<T>) -> Result<T, Error> {
        let time = self.stage.time();
        let limit = self.stage.plan.clients[self.index].progress_deadline;
        loop {
            let last_news = handle.progress().last_news;
            let ended = time.deadline(last_news.after(limit), &mut *handle).await;
            if let Some(result) = ended {
                return result;
            }
            let progress = handle.progress();
            if progress.phase != Phase::Admission {
                return handle.await;
            }
            if progress.last_news == last_news {
                let message = "no news of the operation";
                let error = Error::new(ErrorKind::Stalled, Sent::MaybeSent, message);
                return Err(error.with_stalled(Stalled {
                    phase: Phase::Admission,
                    since: limit,
                }));
            }
        }
    }

    /// The program is over: half of them say so to the server, the others just go.
    pub async fn leave(&self) {
        let state = self.start_anew(&mut *self.state.lock().await);
        self.stage.look_for_key_in(&format!(
            "{:?} {:?} {:?}",
            state.service, state.training, state.sampler
        ));
        if let Some(service) = state.service
            && self.index.is_multiple_of(2)
        {
            self.stage.closes(service.session_id());
            // Whether the server hears of it is the network's business.
            let _ = service.close(FinishReason::Success, None).await;
        }
    }

    /// Closes the session, whatever is under way.
    pub async fn close(&self) {
        let service = self.state.lock().await.service.clone();
        let Some(service) = service else {
            return;
        };
        let network = &self.stage.network;
        network.misfortune.met(Kind::Close, Op::Finish);
        self.stage.closes(service.session_id());
        let _ = service.close(FinishReason::Success, None).await;
    }

    async fn keep(&self, call: CallId, gift: Gift) {
        match gift {
            Gift::Nothing => {}
            Gift::Saved(path) => self.state.lock().await.saved = Some((call, path)),
            Gift::Sampler(sampler) => self.state.lock().await.sampler = Some(sampler),
        }
    }

    /// What a careful program does after a failure.
    async fn after(&self, error: &Error) {
        let mut state = self.state.lock().await;
        match error.kind() {
            ErrorKind::Closed | ErrorKind::SessionLost | ErrorKind::Aborted => {
                self.start_anew(&mut state);
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

    fn failed(&self, error: &Error) -> Outcome {
        self.stage.look_for_key(error);
        Outcome::failed(error)
    }
}

/// A call that was made, or will be.
enum Made<T> {
    Now(ApiFuture<T>),
    Later(tokio::sync::oneshot::Receiver<ApiFuture<T>>),
}

impl<T> Made<T> {
    async fn handle(self) -> Option<ApiFuture<T>> {
        match self {
            Self::Now(handle) => Some(handle),
            Self::Later(later) => later.await.ok(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
