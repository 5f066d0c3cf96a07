//! The warning that a job waits in the server's queue: not too soon, not too often, one for each client.

use std::sync::PoisonError;
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_core::contain::contain;
use tinkers_wire::QueueState;

use crate::sync::Mutex;

/// Decides when a paused queue is worth a warning. It belongs to its client and goes with it.
#[derive(Debug)]
pub struct QueueLog {
    subject: String,
    kind: Subject,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Training,
    Sampling,
}

#[derive(Debug, Default)]
struct State {
    paused: Option<(QueueState, Timestamp)>,
    warned: Option<Timestamp>,
}

impl QueueLog {
    const EVERY: Duration = Duration::from_secs(60);
    const TRAINING_GRACE: Duration = Duration::from_secs(900);

    /// For training: a warning once the same pause has lasted 15 minutes, then once a minute.
    pub fn training(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            kind: Subject::Training,
            state: Mutex::new(State::default()),
        }
    }

    /// For sampling: a warning at once, then once a minute.
    pub fn sampling(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            kind: Subject::Sampling,
            state: Mutex::new(State::default()),
        }
    }

    /// Takes note of the queue's state; whether it warned.
    pub fn observe(&self, now: Timestamp, queue: &QueueState, reason: Option<&str>) -> bool {
        let due = self.is_due(now, queue);
        if due {
            let reason = reason.unwrap_or_else(|| self.usual_reason(queue));
            contain(|| tracing::warn!(subject = %self.subject, reason, "paused by the server"));
        }
        due
    }

    fn is_due(&self, now: Timestamp, queue: &QueueState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *queue == QueueState::Active {
            state.paused = None;
            return false;
        }
        let since = match &state.paused {
            Some((same, since)) if same == queue => *since,
            _ => now,
        };
        state.paused = Some((queue.clone(), since));
        let grace = match self.kind {
            Subject::Training => Self::TRAINING_GRACE,
            Subject::Sampling => Duration::ZERO,
        };
        let quiet = state
            .warned
            .is_none_or(|warned| now.since(warned) >= Self::EVERY);
        let due = now.since(since) >= grace && quiet;
        if due {
            state.warned = Some(now);
        }
        due
    }

    fn usual_reason(&self, queue: &QueueState) -> &'static str {
        match (queue, self.kind) {
            (QueueState::PausedRateLimit, Subject::Training) => {
                "the limit of concurrent training clients is reached"
            }
            (QueueState::PausedRateLimit, Subject::Sampling) => {
                "the limit of concurrent sampler weights is reached"
            }
            (QueueState::PausedCapacity, _) => "the server is short on capacity",
            _ => "the server gives no reason",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn sampling_warns_at_once_and_once_a_minute_however_many_ask() {
        let log = QueueLog::sampling("s");
        let warned = (0..600)
            .filter(|tick| log.observe(at(tick / 5), &QueueState::PausedCapacity, None))
            .count();
        assert_eq!(warned, 2);
    }

    #[test]
    fn training_warns_after_fifteen_minutes_of_the_same_pause() {
        let log = QueueLog::training("m");
        assert!(!log.observe(at(0), &QueueState::PausedCapacity, None));
        assert!(!log.observe(at(899), &QueueState::PausedCapacity, None));
        assert!(log.observe(at(900), &QueueState::PausedCapacity, None));
        assert!(!log.observe(at(930), &QueueState::Active, None));
        assert!(!log.observe(at(990), &QueueState::PausedCapacity, None));
        assert!(!log.observe(at(1000), &QueueState::PausedRateLimit, None));
        assert!(!log.observe(at(1890), &QueueState::PausedRateLimit, None));
        assert!(log.observe(at(1900), &QueueState::PausedRateLimit, None));
    }

    #[test]
    fn the_state_goes_with_its_client() {
        let one = QueueLog::sampling("a");
        assert!(one.observe(at(1), &QueueState::PausedCapacity, None));
        drop(one);
        assert!(QueueLog::sampling("a").observe(at(1), &QueueState::PausedCapacity, None));
    }
}
