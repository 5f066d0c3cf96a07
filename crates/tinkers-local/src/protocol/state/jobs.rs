//! The running jobs of the engine and their purposes, and the jobs that are postponed during a capacity pause.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_wire::{QueueState, TinkerPath};

use crate::engine::{CheckpointRecord, Job, JobId, Work};
use crate::protocol::effect::Effect;
use crate::protocol::ids::{ExchangeId, OperationId};

/// The maximum time for which a poll is held open during a simulated lack of capacity. It is short, so that clients soon learn of
/// the lack.
const PAUSED_POLL: Duration = Duration::from_secs(1);

/// The purpose of an engine job, which determines what happens with its outcome.
#[derive(Debug)]
pub(crate) enum Role {
    Operation(OperationId),
    /// The job deletes a checkpoint: because a client asked for it in this exchange or, without an exchange, because the checkpoint
    /// has expired.
    Delete(Option<ExchangeId>, Box<CheckpointRecord>),
    /// The job copies the checkpoint at this path, for a client that asked for it in this exchange. The record is that of the copy.
    Copy(ExchangeId, TinkerPath, Box<CheckpointRecord>),
    /// The job frees resources, such as the memory of a model after its session has ended. No client waits for its outcome.
    Cleanup,
}

/// The engine jobs that have not ended, including those that are postponed by a simulated lack of capacity.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    last: u64,
    roles: BTreeMap<JobId, Role>,
    /// The end of the simulated lack of capacity, until which operations do not start. `None` if there is no such lack.
    paused_until: Option<Timestamp>,
    /// The jobs of operations that will start at the end of the simulated lack of capacity.
    postponed: Vec<Job>,
}

impl Jobs {
    /// Returns a new number for an engine job.
    pub(crate) fn next_id(&mut self) -> JobId {
        self.last += 1;
        JobId(self.last)
    }

    /// Starts the engine job `id` of an operation. During a simulated lack of capacity, postpones the job instead.
    #[must_use]
    pub(crate) fn start_operation(
        &mut self,
        id: JobId,
        operation: OperationId,
        work: Work,
    ) -> Option<Effect> {
        self.roles.insert(id, Role::Operation(operation));
        let job = Job { id, work };
        if self.paused_until.is_some() {
            self.postponed.push(job);
            return None;
        }
        Some(Effect::Start(job))
    }

    /// Starts an engine job that does not belong to an operation, even during a simulated lack of capacity.
    #[must_use]
    pub(crate) fn start(&mut self, role: Role, work: Work) -> Effect {
        let id = self.next_id();
        self.roles.insert(id, role);
        Effect::Start(Job { id, work })
    }

    /// Removes an engine job that has ended, and returns the purpose of the job.
    pub(crate) fn ended(&mut self, id: JobId) -> Option<Role> {
        self.roles.remove(&id)
    }

    /// Cancels an engine job. If the job is postponed by a simulated lack of capacity, it is started first, because an engine can
    /// only cancel a job that it knows.
    #[must_use]
    pub(crate) fn cancel(&mut self, id: JobId) -> Vec<Effect> {
        let postponed = self.postponed.iter().position(|job| job.id == id);
        let start = postponed.map(|at| Effect::Start(self.postponed.remove(at)));
        start.into_iter().chain([Effect::Cancel(id)]).collect()
    }

    /// Begins a simulated lack of capacity until `until`. Has no effect if a current one ends later.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Returns whether there is a simulated lack of capacity that has to be ended at `now`.
    pub(crate) fn is_pause_over(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| until <= now)
    }

    /// Ends the simulated lack of capacity. Returns the effects that start the jobs that were postponed.
    #[must_use]
    pub(crate) fn resume(&mut self) -> Vec<Effect> {
        self.paused_until = None;
        let postponed = std::mem::take(&mut self.postponed);
        postponed.into_iter().map(Effect::Start).collect()
    }

    /// Returns the state of the queue for poll responses, active or paused, and the reason for a pause.
    pub(crate) fn queue_state(&self) -> (QueueState, Option<&'static str>) {
        match self.paused_until {
            None => (QueueState::Active, None),
            Some(_) => (
                QueueState::PausedCapacity,
                Some("the server is short of capacity"),
            ),
        }
    }

    /// Returns how long a poll may be held open: `longest`, or at most one second during a simulated lack of capacity.
    pub(crate) fn poll_hold(&self, longest: Duration) -> Duration {
        match self.paused_until {
            None => longest,
            Some(_) => longest.min(PAUSED_POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work::DropSnapshot {
            sampler: "s".to_owned(),
        }
    }

    fn started(effects: &[Effect]) -> Vec<u64> {
        let started = effects.iter().filter_map(|effect| match effect {
            Effect::Start(job) => Some(job.id.0),
            _ => None,
        });
        started.collect()
    }

    #[test]
    fn simulated_lack_of_capacity_postpones_all_jobs_except_cleanup() {
        let at = |seconds| Timestamp::ORIGIN.after(Duration::from_secs(seconds));
        let mut jobs = Jobs::default();
        jobs.pause(at(5));
        jobs.pause(at(3));
        let id = jobs.next_id();
        assert!(jobs.start_operation(id, OperationId(1), work()).is_none());
        assert_eq!(started(&[jobs.start(Role::Cleanup, work())]), [2]);
        assert_eq!(jobs.poll_hold(Duration::from_secs(9)), PAUSED_POLL);
        assert!(!jobs.is_pause_over(at(4)) && jobs.is_pause_over(at(5)));
        assert_eq!(started(&jobs.resume()), [1]);
        assert!(!jobs.is_pause_over(at(9)));
        assert_eq!(jobs.queue_state().0, QueueState::Active);
        let id = jobs.next_id();
        assert!(jobs.start_operation(id, OperationId(2), work()).is_some());
    }

    #[test]
    fn postponed_engine_job_is_started_before_it_is_cancelled() {
        let mut jobs = Jobs::default();
        jobs.pause(Timestamp::ORIGIN);
        let id = jobs.next_id();
        assert!(jobs.start_operation(id, OperationId(1), work()).is_none());
        let effects = jobs.cancel(id);
        assert!(
            matches!(&effects[..], [Effect::Start(job), Effect::Cancel(last)] if job.id == id && *last == id)
        );
        assert!(matches!(&jobs.cancel(id)[..], [Effect::Cancel(_)]));
        assert!(jobs.resume().is_empty());
        assert!(matches!(
            jobs.ended(id),
            Some(Role::Operation(OperationId(1)))
        ));
        assert!(jobs.ended(id).is_none());
    }
}
