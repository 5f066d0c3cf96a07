//! Bounded retries of poll responses that may be transient or final.

use tinkers_core::TransportErrorKind;

/// The cause of a retry of a poll. The number of retries for each cause is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryCause {
    /// The server responded with this status.
    Status(u16),
    /// The transport failed with an error of this kind.
    Transport(TransportErrorKind),
    /// The server responded with a 2xx status and a body that cannot be decoded.
    Body,
}

/// The number of retries of a poll for each cause since the server last reported progress.
///
/// Each cause is counted separately, so that a restarting server with alternating responses does not use up one limit early.
#[derive(Debug, Default)]
pub(crate) struct StatusRetries(Vec<(RetryCause, u32)>);

impl StatusRetries {
    /// Counts a retry for `cause`. Returns whether this retry is allowed: `cause` may have at most `limit` retries.
    pub(crate) fn may_retry(&mut self, cause: RetryCause, limit: u32) -> bool {
        let index = self.0.iter().position(|(known, _)| *known == cause);
        let index = index.unwrap_or_else(|| {
            self.0.push((cause, 0));
            self.0.len() - 1
        });
        let count = &mut self.0[index].1;
        *count += 1;
        *count <= limit
    }
}
