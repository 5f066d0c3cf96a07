//! How often answers that may be final are doubted.

use std::collections::BTreeMap;

use http::StatusCode;

/// The doubts since the server last said that it works on the operation. Each status has a count of its own, so that a server that
/// comes up again, and says now this and now that, is not taken at its first word.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    counts: BTreeMap<u16, u32>,
}

impl Doubts {
    /// Whether an answer of this status is doubted once more, where it is `times` times in all.
    pub(crate) fn once_more(&mut self, status: StatusCode, times: u32) -> bool {
        let count = self.counts.entry(status.as_u16()).or_default();
        *count += 1;
        *count <= times
    }

    /// The server works on it, so that what it said before was in passing.
    pub(crate) fn clear(&mut self) {
        self.counts.clear();
    }
}
