//! Errors that the client took and went on from, counted by what they were in the way of.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contain::contain;

/// What an error was in the way of that no caller was told of, since the client goes on without it.
///
/// Each is a line in the log as well, with its [name](RecoveredError::name) in the field `recovered_error`. Refusals for the rate are no
/// recovered_errors where limits count them; the control lane has none, so there they are repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveredError {
    /// An attempt of a call that was made once more.
    Repeat,
    /// An attempt that waits until a bill is settled.
    Billing,
    /// A poll for one result, which is asked for again.
    Poll,
    /// A poll for all results of a sampling client, which are asked for again.
    SharedPoll,
    /// The last acknowledgement of a sampling client: the server keeps its results for a while longer.
    Acknowledgement,
    /// A sample that the server lost, which was sampled anew.
    LostSample,
    /// A save whose reply was lost, which was looked for or made once more.
    LostSave,
    /// A request in a form, or on a route, that the server does not take; another one was tried.
    Fallback,
    /// The freeing of a model: it takes up room on the server until the session ends.
    Unload,
    /// The lost reply to a creation that was repeated: the server may have made one that nobody uses.
    Orphan,
    /// An outcome, good or bad, that nobody waits for: its call had failed already, or its handle was gone.
    Undelivered,
    /// A heartbeat that did not get through.
    Heartbeat,
    /// A refresh of the session's flags, which stay as they were.
    Refresh,
    /// The document that an unknown server has of itself.
    Document,
    /// The end of a session that the server knows nothing of.
    Close,
    /// A connection that broke, idle or not, and a request that was sent again on another one.
    Connection,
    /// A certificate of the system's that cannot be read.
    Certificate,
}

impl RecoveredError {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Repeat,
        Self::Billing,
        Self::Poll,
        Self::SharedPoll,
        Self::Acknowledgement,
        Self::LostSample,
        Self::LostSave,
        Self::Fallback,
        Self::Unload,
        Self::Orphan,
        Self::Undelivered,
        Self::Heartbeat,
        Self::Refresh,
        Self::Document,
        Self::Close,
        Self::Connection,
        Self::Certificate,
    ];

    /// The name in logs and tables, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Billing => "billing",
            Self::Poll => "poll",
            Self::SharedPoll => "shared_poll",
            Self::Acknowledgement => "acknowledgement",
            Self::LostSample => "lost_sample",
            Self::LostSave => "lost_save",
            Self::Fallback => "fallback",
            Self::Unload => "unload",
            Self::Orphan => "orphan",
            Self::Undelivered => "undelivered",
            Self::Heartbeat => "heartbeat",
            Self::Refresh => "refresh",
            Self::Document => "document",
            Self::Close => "close",
            Self::Connection => "connection",
            Self::Certificate => "certificate",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// How often each kind of [`RecoveredError`] met one session. It is written with one atomic addition, and orders nothing.
#[derive(Debug, Default)]
pub struct RecoveredErrors([AtomicU64; RecoveredError::ALL.len()]);

impl RecoveredErrors {
    /// One more, for a place that logs it in words of its own.
    pub fn count(&self, recovered_error: RecoveredError) {
        self.0[recovered_error.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// One more, with the error in a line of the log.
    pub fn note(&self, recovered_error: RecoveredError, error: &dyn fmt::Display) {
        self.count(recovered_error);
        contain(
            || tracing::debug!(recovered_error = recovered_error.name(), %error, "going on after an error"),
        );
    }

    /// What was counted so far, one kind read after the other.
    pub fn snapshot(&self) -> RecoveredErrorCounts {
        RecoveredErrorCounts(
            RecoveredError::ALL
                .map(|recovered_error| self.0[recovered_error.index()].load(Ordering::Relaxed)),
        )
    }
}

/// [`RecoveredErrors`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveredErrorCounts([u64; RecoveredError::ALL.len()]);

impl RecoveredErrorCounts {
    /// How often this one came.
    pub const fn of(&self, recovered_error: RecoveredError) -> u64 {
        self.0[recovered_error.index()]
    }

    /// How many came in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each kind, with how often it came.
    pub fn iter(&self) -> impl Iterator<Item = (RecoveredError, u64)> {
        RecoveredError::ALL.into_iter().zip(self.0)
    }
}

impl fmt::Debug for RecoveredErrorCounts {
    /// Those that came at all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let came = self.iter().filter(|(_, count)| *count > 0);
        f.debug_map()
            .entries(came.map(|(recovered_error, count)| (recovered_error.name(), count)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_counter_and_a_name_of_its_own() {
        let recovered_errors = RecoveredErrors::default();
        for (times, recovered_error) in (1..).zip(RecoveredError::ALL) {
            (0..times).for_each(|_| recovered_errors.count(recovered_error));
        }
        let counts = recovered_errors.snapshot();
        for (times, recovered_error) in (1..).zip(RecoveredError::ALL) {
            assert_eq!(counts.of(recovered_error), times, "{recovered_error:?}");
        }
        let kinds = RecoveredError::ALL.len() as u64;
        assert_eq!(counts.total(), kinds * (kinds + 1) / 2);
        let mut names = RecoveredError::ALL.map(RecoveredError::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RecoveredError::ALL.len());
    }

    #[test]
    fn what_never_came_is_not_shown() {
        let recovered_errors = RecoveredErrors::default();
        recovered_errors.note(RecoveredError::Poll, &"cut off");
        assert_eq!(
            format!("{:?}", recovered_errors.snapshot()),
            r#"{"poll": 1}"#
        );
    }
}
