//! The configuration of a server: limits, timeouts and its API key.

use std::fmt;
use std::time::Duration;

use crate::dialect::Dialect;
use crate::window::Window;

/// The configuration of a server. The defaults suit development.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The API key that requests must send. If `None`, any key is accepted and none is required.
    pub api_key: Option<ApiKey>,
    /// The time without a heartbeat after which a session ends.
    pub session_expiry: Duration,
    /// How long a poll for a result is held open before the server responds with "try again".
    pub long_poll: Duration,
    /// How long a result is kept after the end of its operation if it is not fetched.
    pub keep_results: Duration,
    /// How long a result is kept after it was first fetched.
    pub keep_fetched: Duration,
    /// The maximum total size of the kept results, in bytes. Above the limit, fetched results are dropped first, then the oldest
    /// ones.
    pub max_result_bytes: usize,
    /// The size in bytes above which the server announces a result before it sends the result, to clients that ask for
    /// announcements.
    pub large_result: usize,
    /// The maximum size of a request body after decompression, in bytes.
    pub max_body: usize,
    /// The maximum number of data per request as announced to clients. It is not enforced.
    pub chunk_len: usize,
    /// Whether the server tells clients that it deduplicates requests by `seq_id`. The server deduplicates in any case; a client
    /// that was not told must be more careful after a lost response.
    pub announces_deduplication: bool,
    /// Whether the server asks clients to poll for all samples of a sampling session at once, with `retrieve_futures`. The route is
    /// served in any case.
    pub session_polls: bool,
    /// The maximum number of samples per request.
    pub max_samples: u32,
    /// The maximum for each of three counts: the queued requests of a model, the running samples of the server, and the completed
    /// samples that a client has not acknowledged.
    pub max_queued: usize,
    /// The maximum total size of request bodies in bytes: of the queued requests of a model, and of the running samples of the
    /// server.
    pub max_queued_bytes: usize,
    /// How long accepted requests of a model wait for a missing earlier `seq_id`. After this time, the waiting requests fail with an
    /// error that names the missing number, and the number can no longer be used. Requests do not wait for the number of a request
    /// that was refused with a 4xx status before they were accepted.
    pub gap_timeout: Duration,
    /// How long a sample keeps running after the connection of its last poll was cut. A new poll keeps the sample alive.
    pub disconnect_timeout: Duration,
    /// The maximum number of copies of weights in memory per model, which sampler saves without a name create. Beyond this number, the
    /// least recently used copy is dropped.
    pub max_snapshots: usize,
    /// A limit on the samples in flight, for load tests. The server answers submissions beyond the limit with 429, and reports its
    /// counters at `GET /scripted/counts`.
    pub window: Option<Window>,
    /// The differences from the official service: which requests the server accepts, and how it responds.
    pub dialect: Dialect,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            api_key: None,
            session_expiry: Duration::from_secs(300),
            long_poll: Duration::from_secs(30),
            keep_results: Duration::from_secs(3600),
            keep_fetched: Duration::from_secs(300),
            max_result_bytes: 512 << 20,
            large_result: 1 << 20,
            max_body: 64 << 20,
            chunk_len: 1024,
            announces_deduplication: true,
            session_polls: true,
            max_samples: 1024,
            max_queued: 65_536,
            max_queued_bytes: 512 << 20,
            gap_timeout: Duration::from_secs(60),
            disconnect_timeout: Duration::from_secs(30),
            max_snapshots: 32,
            window: None,
            dialect: Dialect::default(),
        }
    }
}

impl LocalConfig {
    /// Requires this API key.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(ApiKey(key.into()));
        self
    }

    /// Returns whether the server accepts a request with the key `given`.
    pub(crate) fn accepts_key(&self, given: &[u8]) -> bool {
        let key = self.api_key.as_ref();
        key.is_none_or(|key| key.matches(given))
    }
}

/// An API key. Its `Debug` output does not contain the key.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Returns whether `given` is this key. The comparison takes the same time wherever the first difference is.
    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        let key = self.0.as_bytes();
        let differing = (0..given.len()).fold(0u8, |bits, i| {
            // The modulo keeps the index valid; the number of steps depends on the length of `given` only.
            bits | given[i] ^ key.get(i % key.len().max(1)).copied().unwrap_or(0)
        });
        differing == 0 && given.len() == key.len()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_key_matches_only_completely_and_is_hidden_in_debug() {
        let config = LocalConfig::default().with_api_key("tml-abab");
        let key = config.api_key.clone().unwrap();
        assert!(key.matches(b"tml-abab"));
        for wrong in ["", "tml-aba", "tml-ababtml-abab", "tml-abac", "TML-abab"] {
            assert!(!key.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{config:?}").contains("abab"));
    }
}
