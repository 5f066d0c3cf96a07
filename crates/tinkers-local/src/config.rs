//! How a server behaves: limits, times and its key.

use std::fmt;
use std::time::Duration;

use crate::dialect::Dialect;
use crate::window::Window;

/// Limits and times of a server. The defaults suit development.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The one key that is taken; any key, or none, when `None`.
    pub api_key: Option<ApiKey>,
    /// A session without a heartbeat for so long ends.
    pub session_expiry: Duration,
    /// How long a poll is held before it is told to try again.
    pub long_poll: Duration,
    /// How long a result that nobody fetched is kept after its operation ended.
    pub keep_results: Duration,
    /// How long a result is kept after it was first fetched.
    pub keep_fetched: Duration,
    /// How many bytes of results are kept in all. Above that, those that were fetched go first, then the oldest.
    pub max_result_bytes: usize,
    /// Results above so many bytes are announced before they are sent, to clients that ask for that.
    pub large_result: usize,
    /// The longest body after decompression, in bytes.
    pub max_body: usize,
    /// The most data that clients put into one request; what they are told, and not a limit.
    pub chunk_len: usize,
    /// Whether clients are told that a repeated number is applied once. It is either way; a client that does not know treats
    /// a lost reply with more care.
    pub announces_deduplication: bool,
    /// Whether clients are told to ask for all of a sampling session's samples with one poll at a time, `retrieve_futures`. They
    /// may do so either way.
    pub session_polls: bool,
    /// The most samples of one request.
    pub max_samples: u32,
    /// The most submissions of one model that wait for their turn, the most samples of the server that have not ended, and the
    /// most that have ended without their client having been told.
    pub max_queued: usize,
    /// The most bytes of bodies that do so.
    pub max_queued_bytes: usize,
    /// How long accepted requests of a model wait for an earlier `seq_id` that has not come. Then they fail and name it, and
    /// the number counts as passed. A number whose request was refused with a 4xx is not waited for once a later one is
    /// there.
    pub gap_timeout: Duration,
    /// How long a sample continues after the connection of its last poll was cut, unless it is polled for again.
    pub left_timeout: Duration,
    /// The most unnamed sampler weights of one model that are held in memory; those used last stay.
    pub max_snapshots: usize,
    /// A bound on samples in flight that answers 429, and the route `GET /scripted/counts` that tells what it saw; neither
    /// unless set. For load work.
    pub window: Option<Window>,
    /// What is accepted and how it is answered, where servers of other makes differ.
    pub dialect: Dialect,
}

impl Default for LocalConfig {
    /// Expiry 300 s, polls 30 s, results one hour and five minutes once fetched, 512 MiB of them, large from 1 MiB, bodies up to 64 MiB, 60 s for a
    /// missing number, 30 s for a sample whose client has gone; the dialect of the official service.
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
            left_timeout: Duration::from_secs(30),
            max_snapshots: 32,
            window: None,
            dialect: Dialect::default(),
        }
    }
}

impl LocalConfig {
    /// The same, taking this key alone.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(ApiKey(key.into()));
        self
    }

    /// Whether this key is taken.
    pub(crate) fn takes(&self, given: &[u8]) -> bool {
        let key = self.api_key.as_ref();
        key.is_none_or(|key| key.matches(given))
    }
}

/// A key that is not shown.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Whether `given` is this key, in a time that does not depend on how much of it is right.
    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let differing = (0..given.len()).fold(0u8, |bits, i| {
            // Indexing modulo the length keeps the work a function of what was given alone.
            bits | given[i] ^ own.get(i % own.len().max(1)).copied().unwrap_or(0)
        });
        differing == 0 && given.len() == own.len()
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
    fn only_the_whole_key_matches_and_it_is_never_shown() {
        let config = LocalConfig::default().with_api_key("tml-abab");
        let key = config.api_key.clone().unwrap();
        assert!(key.matches(b"tml-abab"));
        for wrong in ["", "tml-aba", "tml-ababtml-abab", "tml-abac", "TML-abab"] {
            assert!(!key.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{config:?}").contains("abab"));
    }
}
