//! The state that all parts of a run share, and the creation of sessions.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tinkers::{BodyFormat, Error, ServiceClient, SessionContext};
use tinkers_core::nesting::NestedMark;
use tinkers_core::{Clock, RecoveredErrors, Spawn, SplitMix};
use tinkers_session::{
    BaseUrl, Endpoint, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions,
    SessionParts,
};

use crate::call_log::{CallId, CallLog, CallOutcome};
use crate::client_transport::ClientTransport;
use crate::control::{Control, IdleSpawner};
use crate::invariant::Invariant;
use crate::log_recorder::CANARY_KEY;
use crate::network::Network;
use crate::plan::Plan;
use crate::recording_engine::RecordingEngine;
use crate::rng::Rng;

/// The state that all parts of a simulation run share.
#[derive(Debug)]
pub struct Harness {
    /// The plan of the run.
    pub plan: Plan,
    /// The negative control of the run, if any: a bug that is built into the client or the engine.
    pub control: Option<Control>,
    /// The log of the calls that the programs have made.
    pub calls: CallLog,
    /// The engine of the embedded server.
    pub engine: Arc<RecordingEngine>,
    /// The simulated network.
    pub network: Arc<Network>,
    /// The spawner for tasks of the simulated programs.
    pub program_spawner: Arc<dyn Spawn>,
    /// The spawner for tasks of the client library.
    pub client_spawner: Arc<dyn Spawn>,
    /// The spawner for tasks of the server, the network and the harness.
    pub server_spawner: Arc<dyn Spawn>,
    pub(crate) endpoints: Endpoints,
    /// The endpoint of the server, which holds the client's rate limiter. It is kept until the end
    /// of the run, so that the limits that the client has learned outlive a lost session.
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) rng: Rng,
    pub(crate) session_count: AtomicU64,
    /// For each session id, a flag that is set when the program closes the session. The transport
    /// reads it to find submissions after the close.
    pub(crate) closed_flags: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
    /// The numbers of errors from which the clients have recovered, for example by a retry, as the
    /// client library has counted them.
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl Harness {
    /// Returns the clock of the run.
    pub fn clock(&self) -> &dyn Clock {
        &self.network.clock
    }

    /// Records the outcome of a call, with the current time as its completion time.
    pub fn complete(&self, call: CallId, outcome: CallOutcome) {
        let text = match &outcome {
            CallOutcome::Ok => "ok".to_owned(),
            CallOutcome::WrongResult(text) => format!("wrong result: {text}"),
            CallOutcome::Failed { kind, sent, .. } => format!("{kind:?} {sent:?}"),
        };
        self.network.trace.push(format_args!("call {call}: {text}"));
        self.calls.complete(call, self.clock().now(), outcome);
    }

    /// Creates a session for a client.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached or rejects the session.
    pub async fn create_session(&self, client: usize) -> Result<ServiceClient, Error> {
        let key = EndpointKey::new(BaseUrl::parse("http://simulated")?, CANARY_KEY.as_bytes());
        let endpoint = self.endpoints.get_or_create(key);
        self.network.monitor.set_limiter(endpoint.limiter());
        *self.lock_endpoint() = Some(endpoint.clone());
        let is_closed: Arc<AtomicBool> = Arc::default();
        let session: Arc<OnceLock<Weak<dyn SessionContext>>> = Arc::default();
        let transport = |is_heartbeat| {
            Arc::new(ClientTransport {
                network: Arc::clone(&self.network),
                client,
                is_heartbeat,
                is_closed: Arc::clone(&is_closed),
                session: Arc::clone(&session),
                outermost: NestedMark::here(),
            })
        };
        let clock: Arc<dyn Clock> = Arc::new(self.network.clock.clone());
        let number = self.session_count.fetch_add(1, Ordering::Relaxed);
        let parts = SessionParts {
            auth: None,
            transport: transport(false),
            time: Arc::clone(&clock),
            jitter: Arc::new(SplitMix::new(self.rng.fork(number).bits())),
            endpoint,
            heartbeat: HeartbeatParts {
                transport: transport(true),
                time: clock,
                spawner: match self.control {
                    Some(Control::BlockedHeartbeat) => Arc::new(IdleSpawner),
                    _ => Arc::clone(&self.client_spawner),
                },
            },
            spawner: Arc::clone(&self.client_spawner),
            recovered_errors: Arc::clone(&self.recovered_errors),
        };
        let plan = &self.plan.clients[client];
        let options = SessionOptions {
            progress_deadline: plan.progress_deadline,
            operation_deadline: plan.operation_deadline,
            body_format: plan.json.then_some(BodyFormat::Json),
            ..SessionOptions::default()
        };
        if self.control == Some(Control::KeyInLog) {
            tracing::info!(key = CANARY_KEY, "connecting");
        }
        let service = ServiceClient::from_session(Session::open(parts, options).await?);
        // The reference is weak, because the session owns its transport.
        let _ = session.set(Arc::downgrade(&service.context()));
        let id = service.session_id();
        let now = self.clock().now();
        self.network.monitor.session_created(id, now);
        self.lock_closed_flags().insert(id.to_owned(), is_closed);
        Ok(service)
    }

    /// Returns the session through which the clients of a program make calls. It contains the bug
    /// of the negative control, if any, and reports its admissions to the fairness monitor.
    pub fn session_context(&self, service: &ServiceClient) -> Arc<dyn SessionContext> {
        let session = service.context();
        let session = match self.control {
            Some(control) => control.inject(session, &self.network, &self.server_spawner),
            None => session,
        };
        match &*self.lock_endpoint() {
            Some(endpoint) => self.network.fairness.observe(session, endpoint.limiter()),
            None => session,
        }
    }

    /// Records that the program has just closed a session. The client must send no submission in
    /// this session from now on.
    pub fn session_closed(&self, session: &str) {
        self.session_released(session);
        if let Some(is_closed) = self.lock_closed_flags().get(session) {
            is_closed.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the program no longer uses a session. From now on, the monitor does not report
    /// the expiry of the session as a violation.
    pub fn session_released(&self, session: &str) {
        self.network.monitor.session_released(session);
    }

    /// Records that a session has expired on the server, because the server received no heartbeats
    /// in time.
    pub(crate) fn session_expired(&self, session: &str) {
        let now = self.clock().now();
        self.network.trace.push(format_args!("{session} expired"));
        let expiry = self.plan.server.expiry;
        self.network.monitor.session_expired(session, now, expiry);
    }

    /// Checks that the text of an error and of its sources does not contain the API key.
    pub fn check_error_for_key(&self, error: &Error) {
        let mut text = format!(
            "{error} {error:?} {}",
            String::from_utf8_lossy(error.body())
        );
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(" {cause} {cause:?}"));
            source = cause.source();
        }
        self.check_for_key(&text);
    }

    /// Checks that a text does not contain the API key.
    pub fn check_for_key(&self, text: &str) {
        if text.contains(CANARY_KEY) {
            self.network.monitor.report(Invariant::KeySecrecy, text);
        }
    }

    /// Checks at the end of the run that no request waits in the rate limiter or holds one of its
    /// permits, and that the registry of endpoints (servers with their rate limiters) is empty.
    pub(crate) fn check_limits(&self) {
        let monitor = &self.network.monitor;
        let Some(endpoint) = self.lock_endpoint().take() else {
            return;
        };
        let snapshot = endpoint.limiter().snapshot();
        for (name, class) in [
            ("sample", snapshot.sample),
            ("train", snapshot.train),
            ("poll", snapshot.poll),
            ("rest", snapshot.rest),
        ] {
            let held = (
                class.waiting,
                class.uncollected,
                class.slots,
                class.bytes,
                class.in_flight,
            );
            if held != (0, 0, 0, 0, 0) {
                let text = format!(
                    "the class {name} still holds {held:?} (waiting, uncollected, slots, bytes, in flight)"
                );
                monitor.report(Invariant::NoLeaks, text);
            }
        }
        drop(endpoint);
        let entries = self.endpoints.len();
        if entries > 0 {
            let text = format!("{entries} entries are left in the registry");
            monitor.report(Invariant::NoLeaks, text);
        }
    }

    pub(crate) fn lock_endpoint(&self) -> MutexGuard<'_, Option<Endpoint>> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_closed_flags(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicBool>>> {
        let flags = self.closed_flags.lock();
        flags.unwrap_or_else(PoisonError::into_inner)
    }
}
