//! The protocol as a state machine: requests, outcomes and the passing of time go in, effects come out.
//!
//! It does no I/O, reads no clock and takes no lock. A request is first read into a [`Command`](crate::Command), which
//! needs none of the state and may take its time; [`Protocol::apply`] is short.

mod agenda;
mod announce;
mod cancel;
mod check;
mod checkpoint;
mod gap;
mod goal;
mod happening;
mod ids;
mod kept;
mod lane;
mod listing;
mod load;
mod losses;
mod model;
mod operation;
mod payload;
mod retire;
mod sample;
mod sampler;
mod save;
mod session;
mod stamp;
mod train;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use tinkers_core::{Jitter, Moment};
use tinkers_wire::{LossFn, TinkerPath};

pub use payload::{Ended, Form, Payload};
pub use stamp::Stamp;
pub(crate) use stamp::http_date;

use self::agenda::{Agenda, Alarm};
use self::announce::Announcements;
use self::goal::Goal;
use self::happening::Pause;
use self::ids::Ids;
use self::kept::Kept;
use self::model::Model;
use self::operation::{Operation, Origin, Poll};
use self::sample::Sampling;
use self::sampler::Sampler;
use self::session::Session;
use crate::config::LocalConfig;
use crate::engine::{BaseModel, CheckpointRecord, EngineError, Job, JobId, Work};
use crate::http::{Answer, Request};
use crate::read::{Command, Refusal, gives_up_number, read};
use crate::window::WindowCounts;

/// The number of an exchange: one request and its answer. Unique in the server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// The number of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct OperationId(u64);

/// What the host has to do after a transition, in this order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Answer an exchange; each is answered once.
    Respond(ExchangeId, Answer),
    /// Hand a job to the engine.
    Start(Job),
    /// Tell the engine that nobody waits for a job any more.
    Cancel(JobId),
}

/// What a job is for.
#[derive(Debug)]
enum Role {
    Operation(OperationId),
    /// The deletion of a checkpoint, for the exchange that asked for it or since its time was up.
    Delete(Option<ExchangeId>, Box<CheckpointRecord>),
    /// Something that nobody waits for.
    Housekeeping,
}

/// The server's state.
#[derive(Debug)]
pub struct Protocol {
    config: Arc<LocalConfig>,
    bases: Vec<Arc<BaseModel>>,
    losses: Vec<LossFn>,
    ids: Ids,
    sessions: BTreeMap<String, Session>,
    models: BTreeMap<String, Model>,
    samplers: BTreeMap<String, Sampler>,
    operations: BTreeMap<OperationId, Operation>,
    kept: Kept,
    sampling: Sampling,
    polls: BTreeMap<ExchangeId, Poll>,
    announcements: Announcements,
    jobs: BTreeMap<JobId, Role>,
    checkpoints: BTreeMap<TinkerPath, CheckpointRecord>,
    /// How many saves of a path have been accepted and have not ended.
    saving: BTreeMap<TinkerPath, usize>,
    /// Paths that the engine is deleting.
    deleting: BTreeSet<TinkerPath>,
    agenda: Agenda,
    pause: Pause,
    /// Models from before a restart that are still at work.
    orphans: BTreeSet<String>,
    draining: bool,
    out: Vec<Effect>,
}

impl Protocol {
    /// A server with nothing but what its engine brings. `chance` makes its ids.
    pub fn new(
        config: Arc<LocalConfig>,
        chance: Arc<dyn Jitter>,
        bases: Vec<BaseModel>,
        losses: Vec<LossFn>,
        checkpoints: Vec<CheckpointRecord>,
        at: Stamp,
    ) -> Self {
        let sampling = Sampling::under(config.window.clone());
        let mut protocol = Self {
            config,
            bases: bases.into_iter().map(Arc::new).collect(),
            losses,
            ids: Ids::new(chance),
            sessions: BTreeMap::new(),
            models: BTreeMap::new(),
            samplers: BTreeMap::new(),
            operations: BTreeMap::new(),
            kept: Kept::default(),
            sampling,
            polls: BTreeMap::new(),
            announcements: Announcements::default(),
            jobs: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            saving: BTreeMap::new(),
            deleting: BTreeSet::new(),
            agenda: Agenda::default(),
            pause: Pause::default(),
            orphans: BTreeSet::new(),
            draining: false,
            out: Vec::new(),
        };
        for record in checkpoints {
            protocol.keep_checkpoint(at, record);
        }
        protocol
    }

    /// Reads a request without any state: `Err` is its answer already.
    ///
    /// # Errors
    /// When the key, the route or the body is wrong.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the answer, and is not passed on"
    )]
    pub fn read(config: &LocalConfig, request: &Request) -> Result<Command, Answer> {
        read(config, request)
    }

    /// Applies a request. The answer is among the effects, or comes with a later transition.
    pub fn apply(&mut self, at: Stamp, exchange: ExchangeId, command: Command) -> Vec<Effect> {
        let numbered = command.numbered();
        match self.dispatch(at, exchange, command) {
            Ok(Some(answer)) => self.respond(exchange, answer),
            Ok(None) => {}
            Err(refusal) => {
                match numbered {
                    Some(numbered) if gives_up_number(refusal.status()) => {
                        self.number_refused(&numbered);
                    }
                    // It will come again under its number.
                    Some(numbered) => self.number_attempted(at, &numbered),
                    None => {}
                }
                self.respond(exchange, refusal.into_answer());
            }
        }
        std::mem::take(&mut self.out)
    }

    fn dispatch(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        command: Command,
    ) -> Result<Option<Answer>, Refusal> {
        let answer = match command {
            Command::Health => Answer::ok(&json!({ "status": "ok" })),
            Command::Capabilities => self.capabilities(),
            Command::ClientConfig => self.client_config(),
            Command::DynamicConfig => Self::dynamic_config(),
            Command::Telemetry => Answer::ok(&json!({ "status": "accepted" })),
            Command::CreateSession(body) => self.create_session(at, body),
            Command::Heartbeat(body) => self.heartbeat(at, &body)?,
            Command::FinishSession(id, body) => self.finish_session(at, &id, &body)?,
            Command::CreateModel(body, digest) => self.create_model(at, *body, digest)?,
            Command::ModelInfo(body) => self.model_info(&body)?,
            Command::UnloadModel(body) => self.unload_model(at, &body)?,
            Command::Pass(body, way, digest) => self.pass(at, *body, way, digest)?,
            Command::OptimStep(body, digest) => self.optim_step(at, &body, digest)?,
            Command::SaveWeights(body, digest) => self.save_weights(at, *body, digest)?,
            Command::SaveForSampler(body, digest) => self.save_for_sampler(at, *body, digest)?,
            Command::LoadWeights(body, digest) => self.load_weights(at, *body, digest)?,
            Command::WeightsInfo(body) => self.weights_info(&body)?,
            Command::CreateSamplingSession(body, digest) => self.create_sampler(body, digest)?,
            Command::Sampler(id) => self.sampler_info(&id)?,
            Command::Sample(body, digest) => self.sample(at, body, digest)?,
            Command::Retrieve(body, form) => return self.retrieve(at, exchange, &body, form),
            Command::RetrieveAll(body) => return self.retrieve_futures(at, exchange, body),
            Command::Cancel(body) => self.cancel_future(&body)?,
            Command::TrainingRuns(page, project) => self.list_runs(page, project.as_deref()),
            Command::TrainingRun(id) => self.run_info(&id)?,
            Command::RunCheckpoints(id) => self.list_run_checkpoints(&id)?,
            Command::Checkpoints(page) => self.list_checkpoints(page),
            Command::DeleteCheckpoint { run, checkpoint } => {
                return self.delete_checkpoint(exchange, &run, &checkpoint);
            }
            Command::Sessions(page) => self.list_sessions(page),
            Command::Session(id) => self.session_info(&id)?,
            Command::WindowCounts => match self.window_counts(at.now) {
                Some(counts) => Answer::ok(&counts.json()),
                None => return Err(Refusal::not_found("this server has no window")),
            },
        };
        Ok(Some(answer))
    }

    /// A job has ended.
    pub fn outcome(&mut self, at: Stamp, job: JobId, ended: Ended) -> Vec<Effect> {
        match self.jobs.remove(&job) {
            Some(Role::Operation(id)) => {
                let (origin, result) = self.operation_ended(id, ended.0);
                self.conclude(at, id, result);
                if let Some(Origin::Model(model, _)) = &origin {
                    self.lane_ended(model);
                }
                self.leftover_ended(id, origin.as_ref());
            }
            Some(Role::Delete(exchange, record)) => self.deleted(at, exchange, *record, ended.0),
            Some(Role::Housekeeping) => {
                if let Err(error) = ended.0 {
                    tracing::warn!(%error, "the engine could not clean up");
                }
            }
            None => tracing::warn!(
                job = job.0,
                "the engine reported a job that is not under way"
            ),
        }
        std::mem::take(&mut self.out)
    }

    /// The exchange's other side has gone: it will not be answered.
    pub fn disconnected(&mut self, at: Stamp, exchange: ExchangeId) -> Vec<Effect> {
        if let Some(poll) = self.forget_poll(exchange) {
            self.left(at, &[poll.operation]);
        }
        self.disconnect_held(at, exchange);
        std::mem::take(&mut self.out)
    }

    /// Does what is due at `at`.
    pub fn tick(&mut self, at: Stamp) -> Vec<Effect> {
        while let Some(alarm) = self.agenda.pop_due(at.now) {
            match alarm {
                Alarm::Poll(exchange) => self.poll_is_due(exchange),
                Alarm::Resume => self.resume_is_due(at),
                Alarm::Session(id) => self.session_is_due(at, &id),
                Alarm::Result(id) => self.result_is_due(at, id),
                Alarm::Left(id) => self.left_is_due(at, id),
                Alarm::Gap(model) => self.gap_is_due(at, &model),
                Alarm::Checkpoint(path) => self.checkpoint_is_due(at, &path),
            }
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Protocol::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.agenda.next()
    }

    /// What the window of [`LocalConfig::window`] saw up to `now`; `None` without one.
    pub fn window_counts(&mut self, now: Moment) -> Option<WindowCounts> {
        self.sampling.window_counts(now)
    }

    /// The server is about to stop: held polls are told to try again, and none is held from now on.
    pub fn drain(&mut self) -> Vec<Effect> {
        self.draining = true;
        let held: Vec<ExchangeId> = self.polls.keys().copied().collect();
        for exchange in held.into_iter().chain(self.announcements.held()) {
            self.poll_is_due(exchange);
        }
        std::mem::take(&mut self.out)
    }

    fn respond(&mut self, exchange: ExchangeId, answer: Answer) {
        self.out.push(Effect::Respond(exchange, answer));
    }

    /// A job whose outcome nobody waits for.
    fn housekeeping(&mut self, work: Work) {
        let id = self.ids.next_job();
        self.jobs.insert(id, Role::Housekeeping);
        self.out.push(Effect::Start(Job { id, work }));
    }
}
