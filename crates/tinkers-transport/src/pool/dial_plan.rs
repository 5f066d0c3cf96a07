//! The number of connections that a pool opens for its waiters.

use std::time::Duration;

use tinkers_core::Timestamp;

/// The plan of how many connections to open. It depends on the number of requests that a new connection is expected to carry.
pub(super) struct DialPlan {
    /// The number of connections that are being opened.
    pub(super) opening: usize,
    /// The number of concurrent requests that a new connection is expected to carry.
    pub(super) expected_requests: usize,
    /// The `connect` timeout of the request that last began to wait for a connection. It is the time limit of the next attempts to open a
    /// connection.
    pub(super) connect_timeout: Duration,
    /// The time at which a new connection last turned out to carry fewer requests than expected. More connections are then opened for the
    /// requests that still wait, and their `connect` timeout starts again at this time.
    pub(super) shortfall_at: Timestamp,
}

impl DialPlan {
    /// Creates a plan for new connections. Each connection is expected to carry `streams` requests if `may_multiplex`, and one request
    /// otherwise.
    pub(super) fn new(may_multiplex: bool, streams: usize) -> Self {
        Self {
            opening: 0,
            // Until the first connection is open, multiplexing is expected where it is possible: an extra round trip with an HTTP/1.1
            // server is cheaper than fifty connections to an HTTP/2 server.
            expected_requests: if may_multiplex { streams } else { 1 },
            connect_timeout: Duration::ZERO,
            shortfall_at: Timestamp::ORIGIN,
        }
    }

    /// Returns whether the connections that are being opened are expected to carry all `waiters` requests that wait for a connection.
    pub(super) fn covers(&self, waiters: usize) -> bool {
        waiters <= self.opening * self.expected_requests
    }

    /// Returns the number of connections to open now for the `waiters` requests that wait for a connection, but at most `room`. Adds this
    /// number to `opening`.
    pub(super) fn start(&mut self, waiters: usize, room: usize) -> usize {
        let covered = self.opening * self.expected_requests;
        let uncovered = waiters.saturating_sub(covered);
        let dials = uncovered.div_ceil(self.expected_requests).min(room);
        self.opening += dials;
        dials
    }

    /// Updates the expected number of requests per connection, after a connection that carries `capacity` requests was opened at `now`.
    pub(super) fn record_capacity(&mut self, capacity: usize, now: Timestamp) {
        if capacity < self.expected_requests {
            self.shortfall_at = now;
        }
        self.expected_requests = capacity;
    }
}
