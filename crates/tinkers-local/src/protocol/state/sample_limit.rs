//! The limits on the samples in flight.

use std::collections::BTreeMap;

use tinkers_core::Timestamp;

use super::model_queue::QueueLimit;
use crate::protocol::ids::OperationId;
use crate::protocol::stamp::Stamp;
use crate::read::Refusal;
use crate::window::{Window, WindowCounts, WindowLimiter};

/// The limits on unfinished samples: on their number, on the total size of their request bodies and, for load tests, the limit of a
/// `Window`.
#[derive(Debug)]
pub(crate) struct SampleLimit {
    bodies: BTreeMap<OperationId, usize>,
    bytes: usize,
    limit: QueueLimit,
    window: Option<WindowLimiter>,
}

impl SampleLimit {
    pub(crate) fn new(limit: QueueLimit, window: Option<Window>) -> Self {
        Self {
            bodies: BTreeMap::new(),
            bytes: 0,
            limit,
            window: window.map(WindowLimiter::new),
        }
    }

    /// Returns the statistics of the `Window`, the limit on samples in flight for load tests. Returns `None` if none is configured.
    pub(crate) fn window_counts(&mut self, now: Timestamp) -> Option<WindowCounts> {
        self.window.as_mut().map(|window| window.counts(now))
    }

    /// Checks that the limits allow one more sample, with a request body of `bytes`. The limit for load tests counts the sample as
    /// in flight from now on.
    ///
    /// # Errors
    ///
    /// If the number or the total size of the running samples is at its maximum, or if the in-flight limit is reached.
    pub(crate) fn admit(&mut self, at: Stamp, bytes: usize) -> Result<(), Refusal> {
        let has_room = self.bodies.len() < self.limit.requests
            && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.limit.bytes);
        if !has_room {
            let reason = "too many samples are under way already; come back later";
            return Err(Refusal::busy(reason));
        }
        let Some(window) = &mut self.window else {
            return Ok(());
        };
        window.submit(at).map_err(|hint| {
            let reason = "as many samples are in flight as the server takes; come back later";
            Refusal::limited(reason, hint)
        })
    }

    /// Records the operation and the body size of a sample that the limits have allowed. It counts towards the limits until it
    /// ends.
    pub(crate) fn add(&mut self, id: OperationId, bytes: usize) {
        self.bodies.insert(id, bytes);
        self.bytes += bytes;
    }

    /// Records the end of an operation. If it is a sample, it no longer counts towards the limits.
    pub(crate) fn ended(&mut self, now: Timestamp, id: OperationId) {
        let Some(bytes) = self.bodies.remove(&id) else {
            return;
        };
        self.bytes -= bytes;
        if let Some(window) = &mut self.window {
            window.ended(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn number_and_total_body_size_of_running_samples_are_limited() {
        let at = Stamp {
            now: Timestamp::ORIGIN,
            wall: SystemTime::UNIX_EPOCH,
        };
        let limit = QueueLimit {
            requests: 2,
            bytes: 100,
        };
        let mut samples = SampleLimit::new(limit, None);
        // If no sample is running, one body that exceeds the limit is admitted.
        assert!(samples.admit(at, 200).is_ok());
        samples.add(OperationId(1), 200);
        assert!(samples.admit(at, 1).is_err());
        samples.ended(at.now, OperationId(1));
        samples.ended(at.now, OperationId(1));
        samples.add(OperationId(2), 50);
        assert!(samples.admit(at, 50).is_ok());
        assert!(samples.admit(at, 51).is_err());
        samples.add(OperationId(3), 0);
        assert!(samples.admit(at, 0).is_err());
        assert!(samples.window_counts(at.now).is_none());
    }
}
