//! Counters of recovered errors, by operation.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::user_code::catch_panic;

/// The kind of an error that the client recovered from without returning it to the user. The kinds are named after the operation that
/// failed.
///
/// Each recovered error is logged with its [name](RecoveredError::name) in the field `recovered_error`. Rate-limited responses are not
/// among these kinds, since the limiter counts them. Only rate-limited responses to control requests count here, as
/// [`RecoveredError::Repeat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveredError {
    /// An attempt of a call failed, for example because its connection was cut before the response, and the client sent the request again.
    Repeat,
    /// An attempt got a 402 response, and waits until the bill is paid.
    Billing,
    /// A poll for one result failed and was repeated.
    Poll,
    /// A poll for all results of a sampling client failed and was repeated.
    SharedPoll,
    /// The last acknowledgement of received results by a sampling client failed. So the server stores the results for longer than
    /// necessary.
    Acknowledgement,
    /// The server lost a sample, and the client sampled it again.
    LostSample,
    /// The response to a save was lost, and the client looked up or repeated the save.
    LostSave,
    /// The server does not support the format or the route of a request, and the client used another format or route.
    Fallback,
    /// A request to unload a model failed. The model takes memory on the server until the session ends.
    Unload,
    /// The response to the creation of an object, such as a sampler, was lost, and the client repeated the request. The server may have
    /// created two objects, one of which is never used.
    Orphan,
    /// The outcome of an operation was discarded, since its call had failed or its handle was dropped before the operation ended.
    Undelivered,
    /// A heartbeat failed.
    Heartbeat,
    /// A refresh of the server's dynamic configuration failed. The old configuration stays in use.
    Refresh,
    /// A report of telemetry events failed, and its events were dropped.
    Telemetry,
    /// The OpenAPI document of a server whose software is unknown could not be read.
    Document,
    /// The server lacks an optional route or cannot serve it, such as its configuration. The client uses the defaults of the protocol.
    MissingRoute,
    /// The request to close a session failed, since the server no longer knows the session.
    Close,
    /// A connection broke while it was idle, or broke before the server could read the request, which was then sent on another connection.
    Connection,
    /// A root certificate of the operating system could not be read.
    Certificate,
    /// An exchange of the credential for a token failed, or its credential command did. The client tries again, and keeps the current token
    /// in use until it expires.
    TokenRefresh,
    /// An abandoned sample could not be cancelled. The server computes it to the end.
    Cancellation,
}

impl RecoveredError {
    /// All kinds of errors from which the client recovers.
    pub const ALL: [Self; 21] = [
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
        Self::Telemetry,
        Self::Document,
        Self::MissingRoute,
        Self::Close,
        Self::Connection,
        Self::Certificate,
        Self::TokenRefresh,
        Self::Cancellation,
    ];

    /// Returns the name of this kind in logs and tables, in snake case.
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
            Self::Telemetry => "telemetry",
            Self::Document => "document",
            Self::MissingRoute => "missing_route",
            Self::Close => "close",
            Self::Connection => "connection",
            Self::Certificate => "certificate",
            Self::TokenRefresh => "token_refresh",
            Self::Cancellation => "cancellation",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// The numbers of errors from which one session has recovered, by kind. Counting an error is one relaxed atomic addition.
#[derive(Debug, Default)]
pub struct RecoveredErrors([AtomicU64; RecoveredError::ALL.len()]);

impl RecoveredErrors {
    /// Adds one to the number of errors of this kind. Does not log the error: the caller does.
    pub fn count(&self, recovered_error: RecoveredError) {
        self.0[recovered_error.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one to the number of errors of this kind, and logs `error`.
    pub fn record(&self, recovered_error: RecoveredError, error: &dyn fmt::Display) {
        self.count(recovered_error);
        catch_panic(
            || tracing::debug!(recovered_error = recovered_error.name(), %error, "recovered from an error"),
        );
    }

    /// Returns a copy of the current numbers of errors. The numbers are read one after the other, not at one instant.
    pub fn snapshot(&self) -> RecoveredErrorCounts {
        RecoveredErrorCounts(
            RecoveredError::ALL
                .map(|recovered_error| self.0[recovered_error.index()].load(Ordering::Relaxed)),
        )
    }
}

/// A copy of the numbers in [`RecoveredErrors`]: for each kind of error, how often the session has recovered from such an error.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveredErrorCounts([u64; RecoveredError::ALL.len()]);

impl RecoveredErrorCounts {
    /// Returns the number of recovered errors of one kind.
    pub const fn of(&self, recovered_error: RecoveredError) -> u64 {
        self.0[recovered_error.index()]
    }

    /// Returns the number of recovered errors of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns an iterator over all kinds of recovered errors, with the number of errors of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (RecoveredError, u64)> {
        RecoveredError::ALL.into_iter().zip(self.0)
    }
}

impl fmt::Debug for RecoveredErrorCounts {
    /// Formats the kinds of errors that have occurred, with the number of each. Omits kinds without errors.
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
    fn each_kind_of_recovered_error_has_its_own_counter_and_name() {
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
    fn debug_output_of_recovered_errors_omits_kinds_without_errors() {
        let recovered_errors = RecoveredErrors::default();
        recovered_errors.record(RecoveredError::Poll, &"connection closed");
        assert_eq!(
            format!("{:?}", recovered_errors.snapshot()),
            r#"{"poll": 1}"#
        );
    }
}
