//! The handle of a session.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tinkers_core::{Caller, RecoveredErrorCounts, Spawn, Task};
use tinkers_dispatch::{ByteSemaphore, LimitRequest};
use tinkers_wire::ClientConfig;

use crate::endpoint::Endpoint;
use crate::events::SessionEvents;
use crate::options::SessionOptions;
use crate::session_state::SessionState;

/// A session on a server. It is opened by [`Session::open`], kept alive by heartbeats, and ended by [`Session::close`].
///
/// It is shared as `Arc<Session>`, which is also an `Arc<dyn SessionContext>`. Dropping the last handle stops the heartbeats without
/// a request; the server ends the session after its expiry.
pub struct Session {
    pub(crate) id: String,
    pub(crate) options: SessionOptions,
    pub(crate) caller: Caller,
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) endpoint: Endpoint,
    pub(crate) config: ClientConfig,
    /// The limits that this session requests from the shared limiter.
    pub(crate) _limits: LimitRequest,
    pub(crate) response_bytes: ByteSemaphore,
    pub(crate) model_seq: AtomicU64,
    pub(crate) sampling_seq: AtomicU64,
    pub(crate) state: Arc<SessionState>,
    pub(crate) tasks: Mutex<Option<Tasks>>,
}

/// The background tasks of a session. Dropping them stops them.
pub(crate) struct Tasks {
    pub(crate) _heartbeat: Task,
    pub(crate) _refresh: Task,
    /// Owns the thread of the heartbeats.
    pub(crate) _heartbeat_spawner: Arc<dyn Spawn>,
}

impl Session {
    /// Returns the server's id of the session.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Subscribes to the events of the session.
    pub fn events(&self) -> SessionEvents {
        self.state.events.subscribe()
    }

    /// Returns the counters of recovered errors of this session and its clients.
    pub fn recovered_errors(&self) -> RecoveredErrorCounts {
        self.caller.recovered_errors.snapshot()
    }

    /// Returns the endpoint, which is shared with other sessions of the same server and key.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the event streams of all subscribers.
        self.state.close();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("server", self.endpoint.key().address())
            .field("open", &self.state.check_open().is_ok())
            .finish_non_exhaustive()
    }
}
