//! The jobs of the engine: their purposes, and the ones that wait while the engine is paused.

use std::collections::BTreeMap;
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_wire::QueueState;

use crate::engine::{CheckpointRecord, Job, JobId, Work};
use crate::protocol::effect::Effect;
use crate::protocol::ids::{ExchangeId, OperationId};

/// The longest hold of a poll during a pause, so that clients learn of the pause soon.
const PAUSED_POLL: Duration = Duration::from_secs(1);

/// The purpose of a job.
#[derive(Debug)]
pub(crate) enum Role {
    Operation(OperationId),
    /// The deletion of a checkpoint: for the exchange that asked for it, or at the checkpoint's expiry.
    Delete(Option<ExchangeId>, Box<CheckpointRecord>),
    /// Work whose result is not needed.
    Cleanup,
}

/// The jobs that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    last: u64,
    roles: BTreeMap<JobId, Role>,
    /// The end of the pause, during which jobs of operations are not started.
    paused_until: Option<Timestamp>,
    /// Jobs that wait for the end of the pause.
    postponed: Vec<Job>,
}

impl Jobs {
    /// Returns the number of a new job.
    pub(crate) fn next_id(&mut self) -> JobId {
        self.last += 1;
        JobId(self.last)
    }

    /// Starts the job `id` of an operation, or postpones it during a pause.
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

    /// Starts a job regardless of a pause.
    #[must_use]
    pub(crate) fn start(&mut self, role: Role, work: Work) -> Effect {
        let id = self.next_id();
        self.roles.insert(id, role);
        Effect::Start(Job { id, work })
    }

    /// Removes a job that has ended and returns its purpose.
    pub(crate) fn ended(&mut self, id: JobId) -> Option<Role> {
        self.roles.remove(&id)
    }

    /// Cancels a job. The engine has to know a job to cancel it, so a postponed one is started first.
    #[must_use]
    pub(crate) fn cancel(&mut self, id: JobId) -> Vec<Effect> {
        let postponed = self.postponed.iter().position(|job| job.id == id);
        let start = postponed.map(|at| Effect::Start(self.postponed.remove(at)));
        start.into_iter().chain([Effect::Cancel(id)]).collect()
    }

    /// Pauses until `until`. Does not shorten a longer pause.
    pub(crate) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// Returns whether a pause is over at `now`.
    pub(crate) fn is_pause_over(&self, now: Timestamp) -> bool {
        self.paused_until.is_some_and(|until| until <= now)
    }

    /// Ends the pause and starts the postponed jobs.
    #[must_use]
    pub(crate) fn resume(&mut self) -> Vec<Effect> {
        self.paused_until = None;
        let postponed = std::mem::take(&mut self.postponed);
        postponed.into_iter().map(Effect::Start).collect()
    }

    /// Returns the state of the queue as polls report it, with the reason.
    pub(crate) fn queue_state(&self) -> (QueueState, Option<&'static str>) {
        match self.paused_until {
            None => (QueueState::Active, None),
            Some(_) => (
                QueueState::PausedCapacity,
                Some("the server is short of capacity"),
            ),
        }
    }

    /// Returns how long a poll may be held, given the `longest` hold outside of a pause.
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
    fn pause_postpones_operations_only() {
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
    fn postponed_job_is_started_before_it_is_cancelled() {
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
