//! The handle on a session.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tinkers_core::{Caller, RecoveredErrorCounts, Spawn, Task};
use tinkers_dispatch::{ByteBudget, LimitRequest};
use tinkers_wire::ClientConfig;

use crate::endpoint::Endpoint;
use crate::events::SessionEvents;
use crate::life::Life;
use crate::options::SessionOptions;

/// A session on a server: opened with [`Session::open`], kept alive by heartbeats, ended by [`Session::close`].
///
/// It is shared as `Arc<Session>`, which is also an `Arc<dyn SessionContext>`. When the last share is dropped the heartbeats
/// stop and the server is told nothing: the session ends there by itself, after its expiry.
pub struct Session {
    pub(crate) id: String,
    pub(crate) options: SessionOptions,
    pub(crate) caller: Caller,
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) endpoint: Endpoint,
    pub(crate) config: ClientConfig,
    /// The limits that this session asks for, among all that share the endpoint.
    pub(crate) _limits: LimitRequest,
    pub(crate) response_bytes: ByteBudget,
    pub(crate) model_seq: AtomicU64,
    pub(crate) sampling_seq: AtomicU64,
    pub(crate) life: Arc<Life>,
    pub(crate) tasks: Mutex<Option<Tasks>>,
}

/// What runs for a session in the background. Dropping it stops it.
pub(crate) struct Tasks {
    pub(crate) _heartbeat: Task,
    pub(crate) _refresh: Task,
    /// The heartbeat's thread, which ends with its last owner.
    pub(crate) _heart: Arc<dyn Spawn>,
}

impl Session {
    /// The server's id of the session.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What happens to the session: heartbeats that fail, and its end.
    pub fn events(&self) -> SessionEvents {
        self.life.events.subscribe()
    }

    /// The errors that this session and its clients took and went on from, so far.
    pub fn recovered_errors(&self) -> RecoveredErrorCounts {
        self.caller.recovered_errors.snapshot()
    }

    /// The endpoint that the session shares with others of the same server and key.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever listens for events hears that there will be no more.
        self.life.close();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("server", self.endpoint.key().address())
            .field("open", &self.life.check_open().is_ok())
            .finish_non_exhaustive()
    }
}
