//! Counters of recovered errors, by operation.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::contain::contain;

/// An error that the client recovered from without returning it to a caller, by the operation that failed.
///
/// Each is logged with its [name](RecoveredError::name) in the field `recovered_error`. Rate-limited responses count only for the class
/// control, as [`RecoveredError::Repeat`]; the limiter counts those of the other classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveredError {
    /// An attempt of a call, which was retried.
    Repeat,
    /// An attempt that waits until the bill is paid.
    Billing,
    /// A poll for one result, which was repeated.
    Poll,
    /// A poll for all results of a sampling client, which was repeated.
    SharedPoll,
    /// The last acknowledgement of a sampling client. The server keeps its results longer.
    Acknowledgement,
    /// A sample that the server lost, which was sampled again.
    LostSample,
    /// A save whose response was lost, which was looked up or repeated.
    LostSave,
    /// A request with a format or route that the server does not support, which was replaced by another one.
    Fallback,
    /// The unload of a model. It takes memory on the server until the session ends.
    Unload,
    /// A creation whose response was lost, which was repeated. The server may keep an unused object.
    Orphan,
    /// An outcome of an operation whose call had failed or whose handle was dropped.
    Undelivered,
    /// A heartbeat.
    Heartbeat,
    /// A refresh of the dynamic configuration, which stays as it was.
    Refresh,
    /// The OpenAPI document of an unknown server.
    Document,
    /// The close of a session that the server does not know.
    Close,
    /// A broken connection, idle or with a request that was sent again on another one.
    Connection,
    /// An unreadable certificate of the system.
    Certificate,
}

impl RecoveredError {
    /// All kinds.
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

    /// Returns the name in logs and tables, in snake case.
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

/// The counters of recovered errors of one session. Counting is one relaxed atomic addition.
#[derive(Debug, Default)]
pub struct RecoveredErrors([AtomicU64; RecoveredError::ALL.len()]);

impl RecoveredErrors {
    /// Counts an error that the caller logs itself.
    pub fn count(&self, recovered_error: RecoveredError) {
        self.0[recovered_error.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs an error.
    pub fn note(&self, recovered_error: RecoveredError, error: &dyn fmt::Display) {
        self.count(recovered_error);
        contain(
            || tracing::debug!(recovered_error = recovered_error.name(), %error, "recovered from an error"),
        );
    }

    /// Returns the counts, read one after the other.
    pub fn snapshot(&self) -> RecoveredErrorCounts {
        RecoveredErrorCounts(
            RecoveredError::ALL
                .map(|recovered_error| self.0[recovered_error.index()].load(Ordering::Relaxed)),
        )
    }
}

/// A snapshot of [`RecoveredErrors`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveredErrorCounts([u64; RecoveredError::ALL.len()]);

impl RecoveredErrorCounts {
    /// Returns the count of one kind.
    pub const fn of(&self, recovered_error: RecoveredError) -> u64 {
        self.0[recovered_error.index()]
    }

    /// Returns the total count.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns an iterator over all kinds and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (RecoveredError, u64)> {
        RecoveredError::ALL.into_iter().zip(self.0)
    }
}

impl fmt::Debug for RecoveredErrorCounts {
    /// Shows the counts above zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.iter().filter(|(_, count)| *count > 0);
        f.debug_map()
            .entries(counted.map(|(recovered_error, count)| (recovered_error.name(), count)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_counter_and_name() {
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
    fn debug_output_omits_zero_counts() {
        let recovered_errors = RecoveredErrors::default();
        recovered_errors.note(RecoveredError::Poll, &"connection closed");
        assert_eq!(
            format!("{:?}", recovered_errors.snapshot()),
            r#"{"poll": 1}"#
        );
    }
}
