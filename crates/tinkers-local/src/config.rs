//! The configuration of a server: access, limits and timeouts.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::access::AccessControl;
use crate::dialect::Dialect;
use crate::quirks::Quirk;
use crate::read::Route;
use crate::window::Window;

/// The configuration of an embedded server. The defaults suit development.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Who may use the server: API keys, their exchange for tokens, and required headers. By default, requests may send any API key or none.
    pub access: AccessControl,
    /// The time without a heartbeat after which a session ends.
    pub session_expiry: Duration,
    /// How long a poll for a result is held open before the server responds with "try again".
    pub long_poll: Duration,
    /// How long the server stores a result after the end of its operation if no client fetches the result.
    pub keep_results: Duration,
    /// How long the server stores a result after it was first fetched.
    pub keep_fetched: Duration,
    /// The maximum total size of the stored results, in bytes. Above the limit, fetched results are dropped first, then the oldest
    /// results.
    pub max_result_bytes: usize,
    /// The size in bytes from which a result counts as large. If a poll for a large result contains `allow_metadata_only`, the
    /// response is only a notice with the size of the result. The client fetches the result itself with a poll that does not
    /// contain this field.
    pub large_result: usize,
    /// The maximum size of a request body after decompression, in bytes.
    pub max_body: usize,
    /// The maximum number of training examples (datums) per request that the server announces to clients. The server does not
    /// enforce it.
    pub chunk_len: usize,
    /// Whether the server announces to clients that it applies a request only once if a client sends it again with the same
    /// `seq_id`. The server does so even without the announcement, but a client that does not know this must be more careful when
    /// it retries after a lost response.
    pub announces_deduplication: bool,
    /// Whether the server tells clients to poll for all samples of a sampling session with one request (`retrieve_futures`),
    /// instead of one request per sample. The server has this route even if this is `false`.
    pub session_polls: bool,
    /// The maximum number of samples per request.
    pub max_samples: u32,
    /// The maximum for each of three numbers: the queued requests of a model, the running samples of the server, and the completed
    /// samples that the server stores until their clients acknowledge them.
    pub max_queued: usize,
    /// The maximum total size of request bodies in bytes. The limit applies separately to the queued requests of each model and to
    /// all running samples of the server.
    pub max_queued_bytes: usize,
    /// How long accepted requests of a model wait for a missing lower `seq_id`. After this time, the waiting requests fail with an
    /// error that names the missing `seq_id`, and this `seq_id` can no longer be used. A request does not wait for a lower `seq_id`
    /// if the request with that `seq_id` arrived before and was refused with a 4xx status.
    pub gap_timeout: Duration,
    /// How long a sample keeps running after its client closed the connection during a poll for the sample. If the client polls
    /// again within this time, the sample is not cancelled.
    pub disconnect_timeout: Duration,
    /// The maximum number of copies of weights that the server holds in memory for each model. A request that saves weights for
    /// sampling without a name creates such a copy. Beyond this number, the least recently used copy is dropped.
    pub max_snapshots: usize,
    /// A limit on the number of samples in flight (accepted and not yet ended), for load tests. The server refuses sample requests
    /// beyond the limit with 429, and reports its statistics at `GET /scripted/counts`. `None` for no such limit.
    pub window: Option<Window>,
    /// The differences from the official service: which requests the server accepts, and how it responds.
    pub dialect: Dialect,
    /// The quirks of other servers that this server imitates, in addition to the differences in `dialect`.
    pub quirks: BTreeSet<Quirk>,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            access: AccessControl::default(),
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
            quirks: BTreeSet::new(),
        }
    }
}

impl LocalConfig {
    /// Requires an API key, and accepts this one.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.access = self.access.with_key(key);
        self
    }

    /// Imitates a quirk of another server.
    #[must_use]
    pub fn with_quirk(mut self, quirk: Quirk) -> Self {
        self.quirks.insert(quirk);
        self
    }

    /// Returns whether the server has a route. Servers without keys have no routes for keys.
    pub(crate) fn serves(&self, route: Route) -> bool {
        let is_configured = match route {
            Route::AuthToken => self.access.exchanges_keys(),
            Route::ApiKey => self.access.needs_key(),
            _ => true,
        };
        is_configured && !self.dialect.absent.contains(&route)
    }
}
