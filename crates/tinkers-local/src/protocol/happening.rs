//! Larger misfortunes than those of one request: a pause for want of capacity, the end of all sessions, a restart.

use std::collections::BTreeSet;
use std::time::Duration;

use tinkers_core::Moment;
use tinkers_wire::QueueState;

use super::agenda::Alarm;
use super::operation::{Origin, State};
use super::{Announcements, Effect, Goal, OperationId, Protocol, Stamp};
use crate::engine::{Job, Work};

/// While the server pauses, a poll is held no longer than this before it is told so.
const PAUSED_POLL: Duration = Duration::from_secs(1);

/// Work that is put off for want of capacity.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Option<Moment>,
    jobs: Vec<Job>,
}

impl Pause {
    /// What polls are told of the queue, and why.
    pub(super) fn queue(&self) -> (QueueState, Option<&'static str>) {
        match self.until {
            None => (QueueState::Active, None),
            Some(_) => (
                QueueState::PausedCapacity,
                Some("the server is short of capacity"),
            ),
        }
    }

    /// How long a poll is held at most.
    pub(super) fn hold(&self, longest: Duration) -> Duration {
        match self.until {
            None => longest,
            Some(_) => longest.min(PAUSED_POLL),
        }
    }
}

impl Protocol {
    /// Starts no work for `length` from now on: what comes is accepted and waits, what runs goes on, and polls for one result are
    /// told `paused_capacity`. A pause that is already longer stays.
    pub fn pause_capacity(&mut self, at: Stamp, length: Duration) -> Vec<Effect> {
        let until = at.now.after(length);
        self.pause.until = self.pause.until.max(Some(until));
        self.agenda.add(until, Alarm::Resume);
        let held: Vec<_> = self.polls.keys().copied().collect();
        for exchange in held {
            self.poll_is_due(exchange);
        }
        std::mem::take(&mut self.out)
    }

    /// Ends all sessions as if none had sent a heartbeat for too long.
    pub fn expire_sessions(&mut self, at: Stamp) -> Vec<Effect> {
        self.end_all_sessions(at, "it went too long without a heartbeat");
        std::mem::take(&mut self.out)
    }

    /// Forgets sessions, models, samplers and results, as a process does that ends and is started again; checkpoints stay. Jobs
    /// are cancelled, but for saves under way, which are done as if they had been done before. No exchange is answered: the host
    /// has to cut them.
    pub fn restart(&mut self, at: Stamp) -> Vec<Effect> {
        self.resume();
        self.end_all_sessions(at, "the server was started again");
        self.cancel_all();
        let (operations, models) = (&self.operations, &self.models);
        // The engine may be told to forget a model only when it has done with it.
        self.orphans = models
            .iter()
            .filter(|(_, model)| {
                let running = model.lane.running().and_then(|id| operations.get(&id));
                running.is_some_and(|operation| !matches!(operation.goal, Goal::Unload))
            })
            .map(|(id, _)| id.clone())
            .chain(std::mem::take(&mut self.orphans))
            .collect();
        self.sessions.clear();
        self.models.clear();
        self.samplers.clear();
        self.polls.clear();
        self.announcements = Announcements::default();
        let is_running = |state: &State| matches!(state, State::Running(_));
        let gone: Vec<OperationId> = (self.operations.iter())
            .filter(|(_, operation)| !is_running(&operation.state))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.forget(id);
        }
        for operation in self.operations.values_mut() {
            operation.waiters.clear();
            operation.abandoned = true;
        }
        self.ids.start_again();
        // What the end of the sessions had to say goes to nobody.
        self.out
            .retain(|effect| !matches!(effect, Effect::Respond(..)));
        std::mem::take(&mut self.out)
    }

    /// A pause may be over.
    pub(super) fn resume_is_due(&mut self, at: Stamp) {
        if self.pause.until.is_some_and(|until| until <= at.now) {
            self.resume();
        }
    }

    fn resume(&mut self) {
        let pause = std::mem::take(&mut self.pause);
        self.out.extend(pause.jobs.into_iter().map(Effect::Start));
    }

    /// Hands a job to the engine, or puts it off.
    pub(super) fn start_job(&mut self, job: Job) {
        match self.pause.until {
            Some(_) => self.pause.jobs.push(job),
            None => self.out.push(Effect::Start(job)),
        }
    }

    /// The engine is about to be told that nobody waits for a job: if that was put off, the engine has to know it first.
    pub(super) fn start_for_cancel(&mut self, id: crate::engine::JobId) {
        if let Some(at) = self.pause.jobs.iter().position(|job| job.id == id) {
            let job = self.pause.jobs.remove(at);
            self.out.push(Effect::Start(job));
        }
    }

    /// An operation from before a restart has ended: nothing of it stays, nor of its model.
    pub(super) fn leftover_ended(&mut self, id: OperationId, origin: Option<&Origin>) {
        if !self.operations.get(&id).is_some_and(|left| left.abandoned) {
            return;
        }
        self.forget(id);
        if let Some(Origin::Model(model, _)) = origin
            && self.orphans.remove(model)
        {
            self.housekeeping(Work::UnloadModel {
                model: model.clone(),
            });
        }
    }

    fn end_all_sessions(&mut self, at: Stamp, how: &'static str) {
        let live: BTreeSet<String> = self.sessions.keys().cloned().collect();
        for id in live {
            if self.live_session(&id).is_ok() {
                self.end_session(at, &id, how);
            }
        }
    }

    /// What no session's end has cancelled: samples without a session, and models that were being unloaded.
    fn cancel_all(&mut self) {
        let running: Vec<OperationId> = (self.operations.iter())
            .filter(|(_, operation)| {
                operation.cancelled.is_none() && !matches!(operation.goal, Goal::Unload)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in running {
            self.cancel(id, "the server was started again");
        }
    }
}
