//! The running jobs of the engine and their purposes, and the jobs that are postponed during a capacity pause.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_wire::QueueState;

use crate::engine::{CheckpointRecord, Job, JobId, Work};
use crate::protocol::effect::Effect;
use crate::protocol::ids::{ExchangeId, OperationId};

/// The maximum time to hold a poll during a capacity pause. It is short, so that clients soon learn of the pause.
const PAUSED_POLL: Duration = Duration::from_secs(1);

/// The purpose of an engine job.
#[derive(Debug)]
pub(crate) enum Role {
    Operation(OperationId),
    /// The job deletes a checkpoint, either because a client asked for the deletion in this exchange, or because the checkpoint has
    /// expired.
    Delete(Option<ExchangeId>, Box<CheckpointRecord>),
    /// The job does work for which no client waits, such as unloading a model after its session has ended.
    Cleanup,
}

/// The engine jobs that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    last: u64,
    roles: BTreeMap<JobId, Role>,
    /// The end of the capacity pause. Until then, operations do not start.
    paused_until: Option<Timestamp>,
    /// The jobs that start when the capacity pause ends.
    postponed: Vec<Job>,
}

impl Jobs {
    /// Returns a new engine job number.
    pub(crate) fn next_id(&mut self) -> JobId {
        self.last += 1;
        JobId(self.last)
    }

    /// Starts the engine job `id` of an operation. During a capacity pause, postpones the job instead.
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

    /// Starts an engine job, even during a capacity pause.
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

    /// Cancels an engine job. A postponed job is started first, because an engine can only cancel a job that it knows.
    #[must_use]
    pub(crate) fn cancel(&mut self, id: JobId) -> Vec<Effect> {
        let postponed = self.postponed.iter().position(|job| job.id == id);
        let start = postponed.map(|at| Effect::Start(self.postponed.remove(at)));
        start.into_iter().chain([Effect::Cancel(id)]).collect()
    }

    /// Begins a capacity pause until `until`. Has no effect if the current pause ends later.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Returns whether there was a capacity pause that is over at `now`.
    pub(crate) fn is_pause_over(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| until <= now)
    }

    /// Ends the capacity pause and returns the effects that start the postponed jobs.
    #[must_use]
    pub(crate) fn resume(&mut self) -> Vec<Effect> {
        self.paused_until = None;
        let postponed = std::mem::take(&mut self.postponed);
        postponed.into_iter().map(Effect::Start).collect()
    }

    /// Returns the state of the queue as reported in poll responses, with the reason.
    pub(crate) fn queue_state(&self) -> (QueueState, Option<&'static str>) {
        match self.paused_until {
            None => (QueueState::Active, None),
            Some(_) => (
                QueueState::PausedCapacity,
                Some("the server is short of capacity"),
            ),
        }
    }

    /// Returns the maximum time to hold a poll: `longest`, or less during a capacity pause.
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
    fn capacity_pause_postpones_operations_but_not_cleanup_jobs() {
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
    fn cancelling_a_postponed_engine_job_starts_it_first() {
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
