//! Rate-limited warnings about an operation queue that the server has paused.

use std::sync::PoisonError;
use std::time::Duration;

use tinkers_core::Timestamp;
use tinkers_core::user_code::catch_panic;
use tinkers_wire::QueueState;

use crate::sync::Mutex;

/// A log of warnings that the server has paused the queue of a client's requests. Each client has its own log.
#[derive(Debug)]
pub struct QueueLog {
    subject: String,
    kind: ClientKind,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientKind {
    Training,
    Sampling,
}

#[derive(Debug, Default)]
struct State {
    paused: Option<(QueueState, Timestamp)>,
    warned: Option<Timestamp>,
}

impl QueueLog {
    /// The minimum interval between two warnings that the server has paused the queue.
    const INTERVAL: Duration = Duration::from_secs(60);
    const TRAINING_GRACE: Duration = Duration::from_secs(900);

    /// Creates the log of a training client. It warns when the server has paused the queue for 15 minutes, then once a minute.
    pub fn training(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            kind: ClientKind::Training,
            state: Mutex::new(State::default()),
        }
    }

    /// Creates the log of a sampling client. It warns as soon as the server pauses the queue, then once a minute.
    pub fn sampling(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            kind: ClientKind::Sampling,
            state: Mutex::new(State::default()),
        }
    }

    /// Records the state of the server's queue. Returns whether a warning was logged.
    pub fn observe(&self, now: Timestamp, queue: &QueueState, reason: Option<&str>) -> bool {
        let due = self.is_due(now, queue);
        if due {
            let reason = reason.unwrap_or_else(|| self.default_reason(queue));
            catch_panic(|| tracing::warn!(subject = %self.subject, reason, "paused by the server"));
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
            ClientKind::Training => Self::TRAINING_GRACE,
            ClientKind::Sampling => Duration::ZERO,
        };
        let is_interval_over = state
            .warned
            .is_none_or(|warned| now.since(warned) >= Self::INTERVAL);
        let due = now.since(since) >= grace && is_interval_over;
        if due {
            state.warned = Some(now);
        }
        due
    }

    fn default_reason(&self, queue: &QueueState) -> &'static str {
        match (queue, self.kind) {
            (QueueState::PausedRateLimit, ClientKind::Training) => {
                "the limit of concurrent training clients is reached"
            }
            (QueueState::PausedRateLimit, ClientKind::Sampling) => {
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
    fn paused_sampling_queue_is_logged_at_once_and_once_a_minute() {
        let log = QueueLog::sampling("s");
        let warned = (0..600)
            .filter(|tick| log.observe(at(tick / 5), &QueueState::PausedCapacity, None))
            .count();
        assert_eq!(warned, 2);
    }

    #[test]
    fn paused_training_queue_is_logged_after_fifteen_minutes() {
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
    fn new_client_logs_a_paused_queue_again() {
        let one = QueueLog::sampling("a");
        assert!(one.observe(at(1), &QueueState::PausedCapacity, None));
        drop(one);
        assert!(QueueLog::sampling("a").observe(at(1), &QueueState::PausedCapacity, None));
    }

    #[test]
    fn logged_reason_of_a_paused_queue_depends_on_the_client_kind() {
        let (training, sampling) = (QueueLog::training("m"), QueueLog::sampling("s"));
        for (log, state, reason) in [
            (&training, QueueState::PausedRateLimit, "training clients"),
            (&sampling, QueueState::PausedRateLimit, "sampler weights"),
            (&training, QueueState::PausedCapacity, "capacity"),
        ] {
            assert!(log.default_reason(&state).contains(reason), "{reason}");
        }
    }
}
