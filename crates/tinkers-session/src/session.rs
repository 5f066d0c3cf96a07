//! The session: its state, its background tasks, and its handle.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tinkers_auth::{Auth, Identity};
use tinkers_core::{Caller, RecoveredErrorCounts, Spawn, Task};
use tinkers_dispatch::{ByteSemaphore, LimitRequest};
use tinkers_wire::ClientConfig;

use crate::cancel_queue::CancelQueue;
use crate::endpoint::Endpoint;
use crate::events::SessionEvents;
use crate::options::SessionOptions;
use crate::session_state::SessionState;
use crate::telemetry::{Telemetry, TelemetryCounts};

/// A session on a Tinker server. [`Session::open`] opens the session, heartbeats keep it alive, and [`Session::close`] ends it.
///
/// Training and sampling clients share the session as an `Arc<dyn SessionContext>`. Dropping the last handle stops the heartbeats, but
/// sends no request: the server ends the session after its expiry.
pub struct Session {
    pub(crate) id: String,
    pub(crate) options: SessionOptions,
    pub(crate) caller: Caller,
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) endpoint: Endpoint,
    pub(crate) config: ClientConfig,
    /// The guard of the rate limits that this session requests from the limiter, which it shares with other sessions. The limits apply
    /// until the guard is dropped.
    pub(crate) _limits: LimitRequest,
    pub(crate) response_bytes: ByteSemaphore,
    pub(crate) model_seq: AtomicU64,
    pub(crate) sampling_seq: AtomicU64,
    pub(crate) state: Arc<SessionState>,
    /// `None` if telemetry is off.
    pub(crate) telemetry: Option<Arc<Telemetry>>,
    pub(crate) auth: Option<Arc<Auth>>,
    /// The abandoned samples that are still to be cancelled on the server.
    pub(crate) cancels: Arc<CancelQueue>,
    pub(crate) tasks: Mutex<Option<Tasks>>,
}

/// The background tasks of a session. Dropping this value stops the tasks.
pub(crate) struct Tasks {
    pub(crate) _heartbeat: Task,
    pub(crate) _refresh: Task,
    pub(crate) _cancels: Task,
    pub(crate) _telemetry: Option<Task>,
    /// The background refresh of the token, if the server requires one.
    pub(crate) _token_refresh: Option<Task>,
    /// The spawner of the heartbeat loop. Owns the dedicated thread on which heartbeats are sent.
    pub(crate) _heartbeat_spawner: Arc<dyn Spawn>,
}

impl Session {
    /// Returns the id that the server assigned to the session.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the address of the session in the console of the hosted service, or `None` if the session runs on another server.
    pub fn console_url(&self) -> Option<String> {
        let is_hosted = self.endpoint.key().address().is_hosted_service();
        is_hosted.then(|| format!("https://tinker.thinkingmachines.ai/sessions/{}", self.id))
    }

    /// Returns the user of the session's credential, if the credential or the token for which it was exchanged names one.
    pub fn identity(&self) -> Option<Identity> {
        self.auth.as_ref()?.identity()
    }

    /// Returns the authentication of the session, or `None` if its transports need none.
    pub fn auth(&self) -> Option<&Arc<Auth>> {
        self.auth.as_ref()
    }

    /// Returns the options with which the session was opened.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Returns the spawner of tasks on the I/O runtime.
    pub fn shared_spawner(&self) -> Arc<dyn Spawn> {
        Arc::clone(&self.spawner)
    }

    /// Subscribes to the events of the session, such as messages of the server, pauses until a bill is paid, failing heartbeats, and the end of
    /// the session.
    pub fn events(&self) -> SessionEvents {
        self.state.events.subscribe()
    }

    /// Returns the number of errors of each kind from which this session and its clients have recovered.
    pub fn recovered_errors(&self) -> RecoveredErrorCounts {
        self.caller.recovered_errors.snapshot()
    }

    /// Returns the numbers of telemetry events of this session. All are zero if telemetry is off.
    pub fn telemetry(&self) -> TelemetryCounts {
        self.telemetry
            .as_ref()
            .map_or_else(TelemetryCounts::default, |telemetry| telemetry.counts())
    }

    /// Returns the endpoint of the session: the state, such as the rate limiter, that all sessions with the same server and API key share.
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
