//! The protocol as a state machine: its inputs are requests, outcomes of jobs and time, its outputs are effects.
//!
//! It does no I/O, reads no clock and takes no lock. A request is first parsed into a [`Command`](crate::Command), which does not
//! need the state and may take long; [`Protocol::apply`] is short.
//!
//! The state consists of the parts in [`state`]. [`Protocol`] composes them: each other file of this module handles the commands
//! of one kind by calling the methods of those parts.

mod cancel;
mod check;
mod conclude;
mod create_model;
mod create_sampler;
mod delete_checkpoint;
mod effect;
mod gap;
mod ids;
mod lifecycle;
mod listing;
mod load;
mod losses;
mod optimizer;
mod ownership;
mod payload;
mod rest;
mod retrieve;
mod retrieve_futures;
mod sample;
mod save;
mod server_faults;
mod session;
mod stamp;
mod state;
mod train;
mod unload;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tinkers_core::{Jitter, Timestamp};
use tinkers_wire::{LossFn, TinkerPath};

pub use effect::Effect;
pub use ids::ExchangeId;
pub use payload::{Ended, Form, Payload};
pub use stamp::Stamp;

use self::state::agenda::{Agenda, Alarm};
use self::state::catalog::Catalog;
use self::state::checkpoints::Checkpoints;
use self::state::completions::CompletionLog;
use self::state::jobs::{Jobs, Role};
use self::state::models::Models;
use self::state::operations::Operations;
use self::state::polls::Polls;
use self::state::records::{CheckpointChange, Records};
use self::state::sample_limit::SampleLimit;
use self::state::samplers::Samplers;
use self::state::sessions::Sessions;
use self::state::traces::Traces;
use crate::access::Owner;
use crate::config::LocalConfig;
use crate::engine::{BaseModel, CheckpointRecord, JobId};
use crate::http::{LazyResponse, Request};
use crate::read::{AuthorizedCommand, Command, Refusal, gives_up_number, read};
use crate::store::{StoreError, StoredRecord};
use crate::window::WindowCounts;

/// How long changes of records that no response promises, such as the usage, are collected before they are written.
const RECORDS_DELAY: Duration = Duration::from_secs(1);

/// The server as a state machine without I/O: its state (such as sessions, models and results), and the changes of the state by
/// requests, job outcomes and time.
#[derive(Debug)]
pub struct Protocol {
    config: Arc<LocalConfig>,
    catalog: Catalog,
    sessions: Sessions,
    models: Models,
    samplers: Samplers,
    records: Records,
    traces: Traces,
    checkpoints: Checkpoints,
    operations: Operations,
    samples: SampleLimit,
    polls: Polls,
    completions: CompletionLog,
    jobs: Jobs,
    agenda: Agenda,
    /// Whether the postponed changes of records will be written at a time in the agenda.
    records_are_planned: bool,
    /// Whether the server is shutting down. It then responds to polls at once instead of holding them open.
    is_draining: bool,
    effects: Vec<Effect>,
}

impl Protocol {
    /// Creates the protocol state of a new server with these base models, loss functions and checkpoints of the engine. The server
    /// generates ids with `random`.
    pub fn new(
        config: Arc<LocalConfig>,
        random: Arc<dyn Jitter>,
        bases: Vec<BaseModel>,
        losses: Vec<LossFn>,
        checkpoints: Vec<CheckpointRecord>,
        at: Stamp,
    ) -> Self {
        let mut protocol = Self {
            catalog: Catalog::new(bases, losses),
            operations: Operations::new(Arc::clone(&random)),
            sessions: Sessions::new(random),
            models: Models::default(),
            samplers: Samplers::default(),
            records: Records::default(),
            traces: Traces::default(),
            checkpoints: Checkpoints::default(),
            samples: SampleLimit::new(config.queue_limit(), config.window.clone()),
            polls: Polls::default(),
            completions: CompletionLog::default(),
            jobs: Jobs::default(),
            agenda: Agenda::default(),
            records_are_planned: false,
            is_draining: false,
            effects: Vec::new(),
            config,
        };
        for record in checkpoints {
            protocol
                .checkpoints
                .insert(&mut protocol.agenda, at, record);
        }
        protocol
    }

    /// Restores the records of an earlier process from a store. Sessions that had not ended have ended with that process. From now on, the
    /// effects contain the changes of records.
    ///
    /// # Errors
    ///
    /// If a record cannot be decoded.
    pub fn restore(&mut self, at: Stamp, stored: Vec<StoredRecord>) -> Result<(), StoreError> {
        self.records = Records::load(stored)?;
        self.records.end_all_sessions();
        let changes: Vec<(String, CheckpointChange)> = self
            .records
            .checkpoints
            .iter()
            .map(|(path, change)| (path.to_owned(), change.clone()))
            .collect();
        for (path, change) in changes {
            let is_replaced = path.parse::<TinkerPath>().is_ok_and(|path| {
                let checkpoints = &mut self.checkpoints;
                !checkpoints.restore(&mut self.agenda, at, &path, &change)
            });
            if is_replaced {
                self.records.checkpoints.remove(&path);
            }
        }
        Ok(())
    }

    /// Parses a request. The result does not depend on the protocol state.
    ///
    /// # Errors
    /// Returns the response to send if the API key, the route or the request body is invalid.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the response and is used at once"
    )]
    pub fn read(
        config: &LocalConfig,
        request: &Request,
    ) -> Result<AuthorizedCommand, LazyResponse> {
        read(config, request)
    }

    /// Applies a request to the protocol state. Returns the effects, such as the response. If the request has to wait, for example
    /// a poll, its response is an effect of a later call.
    pub fn apply(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        authorized: AuthorizedCommand,
    ) -> Vec<Effect> {
        self.begin(at);
        let AuthorizedCommand { owner, command } = authorized;
        let numbered = command.numbered();
        let checked = self.check_owner(&owner, &command);
        match checked.and_then(|()| self.dispatch(at, exchange, &owner, command)) {
            Ok(Some(response)) => self.respond(exchange, response),
            Ok(None) => {}
            Err(refusal) => {
                match numbered {
                    Some(numbered) if gives_up_number(refusal.status()) => {
                        self.number_refused(&owner, &numbered);
                    }
                    // The client will retry the request under the same number.
                    Some(numbered) => self.number_attempted(at, &owner, &numbered),
                    None => {}
                }
                self.respond(exchange, refusal.into_response());
            }
        }
        self.take_effects(at)
    }

    fn dispatch(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        owner: &Owner,
        command: Command,
    ) -> Result<Option<LazyResponse>, Refusal> {
        let response = match command {
            Command::Health => LazyResponse::ok(&json!({ "status": "ok" })),
            Command::Capabilities => self.capabilities(),
            Command::ClientConfig => self.client_config(),
            Command::DynamicConfig => Self::dynamic_config(),
            Command::ExchangeKey(key) => self.config.access.exchange(key)?,
            Command::DescribeKey(key) => self.config.access.describe(key),
            Command::RevokeKey(key) => self.config.access.revoke(key),
            Command::Telemetry => LazyResponse::ok(&json!({ "status": "accepted" })),
            Command::CreateSession(body) => self.create_session(at, owner, body),
            Command::Heartbeat(body) => self.heartbeat(at, &body)?,
            Command::FinishSession(id, body) => self.finish_session(at, &id, body)?,
            Command::CreateModel(body, digest) => self.create_model(at, *body, digest)?,
            Command::ModelInfo(body) => self.model_info(&body)?,
            Command::UnloadModel(body) => self.unload_model(at, &body)?,
            Command::Pass(body, prefix, digest) => self.pass(at, *body, prefix, digest)?,
            Command::OptimStep(body, digest) => self.optim_step(at, &body, digest)?,
            Command::SaveWeights(body, digest) => self.save_weights(at, *body, digest)?,
            Command::SaveForSampler(body, digest) => self.save_for_sampler(at, *body, digest)?,
            Command::LoadWeights(body, digest) => self.load_weights(at, *body, digest)?,
            Command::WeightsInfo(body) => self.weights_info(&body)?,
            Command::CreateSamplingSession(body, digest) => self.create_sampler(body, digest)?,
            Command::Sampler(id) => self.sampler_info(&id)?,
            Command::Sample(body, digest) => self.sample(at, owner, body, digest)?,
            Command::Retrieve(body, form) => return self.retrieve(at, exchange, &body, form),
            Command::RetrieveAll(body) => return self.retrieve_futures(at, exchange, body),
            Command::Cancel(body) => self.cancel_future(&body)?,
            Command::TrainingRuns(page, project) => self.list_runs(owner, page, project.as_deref()),
            Command::TrainingRun(id) => self.run_info(owner, &id)?,
            Command::RunCheckpoints(id) => self.list_run_checkpoints(&id)?,
            Command::Checkpoints(page) => self.list_checkpoints(owner, page),
            Command::DeleteCheckpoint { run, checkpoint } => {
                return self.delete_checkpoint(exchange, &run, &checkpoint);
            }
            Command::SetPublic {
                run,
                checkpoint,
                public,
            } => self.set_public(at, owner, &run, &checkpoint, public)?,
            Command::SetTtl {
                run,
                checkpoint,
                body,
            } => self.set_ttl(at, owner, &run, &checkpoint, &body)?,
            Command::CopyWeights(body) => return self.copy_weights(at, exchange, owner, &body),
            Command::SearchCheckpoints(body) => self.search_checkpoints(owner, &body)?,
            Command::SearchSessions(body) => self.search_sessions(owner, &body)?,
            Command::AssignProject(id, body) => self.assign_project(at, owner, &id, &body)?,
            Command::Sessions(page) => self.list_sessions(owner, page),
            Command::Session(id) => self.session_info(&id)?,
            Command::Audit(query) => self.audit_log(at, owner, &query)?,
            Command::Usage(period) => self.usage(at, owner, &period)?,
            Command::Storage(project) => self.storage_usage(owner, project.as_deref()),
            Command::ExportTrace(id, host) => self.export_trace(at, &id, host.as_deref())?,
            Command::Trace(secret) => self.trace(at, &secret)?,
            Command::WindowCounts => match self.window_counts(at.now) {
                Some(counts) => LazyResponse::ok(&counts.json()),
                None => return Err(Refusal::not_found("this server has no window")),
            },
        };
        Ok(Some(response))
    }

    /// Applies the outcome of an engine job to the protocol state. Returns the effects, such as responses to polls for the result.
    pub fn outcome(&mut self, at: Stamp, job: JobId, ended: Ended) -> Vec<Effect> {
        self.begin(at);
        match self.jobs.ended(job) {
            Some(Role::Operation(id)) => self.operation_ended(at, id, ended.0),
            Some(Role::Delete(exchange, record)) => {
                self.checkpoint_deleted(at, exchange, *record, ended.0);
            }
            Some(Role::Copy(exchange, source, record)) => {
                self.checkpoint_copied(at, exchange, &source, *record, ended.0);
            }
            Some(Role::Cleanup) => {
                if let Err(error) = ended.0 {
                    tracing::warn!(%error, "the engine could not clean up");
                }
            }
            None => tracing::warn!(job = job.0, "the engine reported an unknown job"),
        }
        self.take_effects(at)
    }

    /// Handles the disconnect of a client before the response: ends its poll. If it polled for samples and does not poll again,
    /// they are cancelled later.
    pub fn disconnected(&mut self, at: Stamp, exchange: ExchangeId) -> Vec<Effect> {
        if let Some(poll) = self.polls.release(&mut self.agenda, exchange) {
            self.poll_disconnected(at, &[poll.operation]);
        }
        self.completion_poll_disconnected(at, exchange);
        self.take_effects(at)
    }

    /// Handles the deadlines that have passed at `at`, such as timeouts of polls and the expiry of results.
    pub fn tick(&mut self, at: Stamp) -> Vec<Effect> {
        self.begin(at);
        while let Some(alarm) = self.agenda.pop_due(at.now) {
            match alarm {
                Alarm::Poll(exchange) => self.poll_is_due(exchange),
                Alarm::Resume => self.resume_is_due(at),
                Alarm::Session(id) => self.session_is_due(at, &id),
                Alarm::Result(id) => self.result_is_due(at, id),
                Alarm::Abandoned(id) => self.abandonment_is_due(at, id),
                Alarm::Gap(model) => self.gap_is_due(at, &model),
                Alarm::Checkpoint(path) => self.checkpoint_is_due(at, &path),
                Alarm::Records => self.records_are_due(),
            }
        }
        self.take_effects(at)
    }

    /// Returns the time of the next deadline, at which the caller has to call [`Protocol::tick`]. Returns `None` if there is no
    /// deadline.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.agenda.next()
    }

    /// Returns the statistics of the limit on samples in flight up to `now`, or `None` if [`LocalConfig::window`] is not set.
    pub fn window_counts(&mut self, now: Timestamp) -> Option<WindowCounts> {
        self.samples.window_counts(now)
    }

    /// Prepares for shutdown: responds with "try again" to all polls that are held open, and holds no more polls open. Changes of records
    /// that could be written later are written now.
    pub fn drain(&mut self, at: Stamp) -> Vec<Effect> {
        self.is_draining = true;
        let held = self.polls.exchanges().into_iter();
        for exchange in held.chain(self.completions.exchanges()) {
            self.poll_is_due(exchange);
        }
        self.flush(at)
    }

    /// Makes all changes of records part of the effects, also those that could be written later.
    pub fn flush(&mut self, at: Stamp) -> Vec<Effect> {
        self.records.expedite();
        self.take_effects(at)
    }

    /// Begins a transition: sets the current date and time.
    fn begin(&mut self, at: Stamp) {
        self.checkpoints.set_date(at);
        self.operations.set_now(at.now);
    }

    /// Ends a transition: returns its effects, with the changes of records that have to be stored before its responses are sent.
    fn take_effects(&mut self, at: Stamp) -> Vec<Effect> {
        let changes = self.records.take_changes();
        if !changes.is_empty() {
            self.effects.push(Effect::Store(changes));
        }
        if self.records.has_later_changes() && !self.records_are_planned {
            self.records_are_planned = true;
            self.agenda.add(at.now.after(RECORDS_DELAY), Alarm::Records);
        }
        std::mem::take(&mut self.effects)
    }

    /// Makes the changes of records that were postponed part of the effects of this transition.
    fn records_are_due(&mut self) {
        self.records_are_planned = false;
        self.records.expedite();
    }

    fn respond(&mut self, exchange: ExchangeId, response: LazyResponse) {
        self.effects.push(Effect::Respond(exchange, response));
    }
}
