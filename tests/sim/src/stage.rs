//! What everybody in a run shares, and how clients connect.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tinkers::{BodyFormat, Error, ServiceClient, SessionContext};
use tinkers_core::nesting::Mark;
use tinkers_core::{Clock, RecoveredErrors, Spawn, SplitMix};
use tinkers_session::{
    BaseUrl, Endpoint, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions,
    SessionParts,
};

use crate::book::{Book, CallId, Outcome};
use crate::chance::Chance;
use crate::control::{Control, NoTurn};
use crate::ledger::LedgerEngine;
use crate::listen::CANARY;
use crate::network::{Network, Way};
use crate::plan::Plan;
use crate::watch::Rule;

/// What everybody in a run shares.
#[derive(Debug)]
pub struct Stage {
    /// What is to happen.
    pub plan: Plan,
    /// The fault of the clients that is to be found, if any.
    pub control: Option<Control>,
    /// What was called.
    pub book: Book,
    /// What computes on the server.
    pub engine: Arc<LedgerEngine>,
    /// The way to the server.
    pub network: Arc<Network>,
    /// Tasks of the programs.
    pub caller_side: Arc<dyn Spawn>,
    /// Tasks of the client library.
    pub client_side: Arc<dyn Spawn>,
    /// Tasks of server, network and observers.
    pub server_side: Arc<dyn Spawn>,
    pub(crate) endpoints: Endpoints,
    /// Kept to the end, so that what was learned outlives a session that was lost.
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) chance: Chance,
    pub(crate) connects: AtomicU64,
    /// Whether a session is closed, by its id.
    pub(crate) closed: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
    /// The errors that the clients went on from.
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl Stage {
    /// Time.
    pub fn time(&self) -> &dyn Clock {
        &self.network.clock
    }

    /// A call ended.
    pub fn ended(&self, call: CallId, outcome: Outcome) {
        let short = match &outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Wrong(what) => format!("wrong: {what}"),
            Outcome::Failed { kind, sent, .. } => format!("{kind:?} {sent:?}"),
        };
        self.network
            .trace
            .note(format_args!("call {call}: {short}"));
        self.book.ended(call, self.time().now(), outcome);
    }

    /// A new session for a client.
    ///
    /// # Errors
    /// When the server cannot be reached or does not want it.
    pub async fn connect(&self, index: usize) -> Result<ServiceClient, Error> {
        let key = EndpointKey::new(BaseUrl::parse("http://simulated")?, CANARY.as_bytes());
        let endpoint = self.endpoints.get_or_create(key);
        self.network.watch.look_at(endpoint.limiter());
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.clone());
        let is_closed: Arc<AtomicBool> = Arc::default();
        let session: Arc<OnceLock<Weak<dyn SessionContext>>> = Arc::default();
        let way = |is_heart| {
            Arc::new(Way {
                network: Arc::clone(&self.network),
                client: index,
                is_heart,
                is_closed: Arc::clone(&is_closed),
                session: Arc::clone(&session),
                outside: Mark::here(),
            })
        };
        let time: Arc<dyn Clock> = Arc::new(self.network.clock.clone());
        let number = self.connects.fetch_add(1, Ordering::Relaxed);
        let parts = SessionParts {
            transport: way(false),
            time: Arc::clone(&time),
            jitter: Arc::new(SplitMix::new(self.chance.stream(number).bits())),
            endpoint,
            heartbeat: HeartbeatParts {
                transport: way(true),
                time,
                spawner: match self.control {
                    Some(Control::BlockedHeart) => Arc::new(NoTurn),
                    _ => Arc::clone(&self.client_side),
                },
            },
            spawner: Arc::clone(&self.client_side),
            recovered_errors: Arc::clone(&self.recovered_errors),
        };
        let plan = &self.plan.clients[index];
        let options = SessionOptions {
            progress_deadline: plan.progress_deadline,
            operation_deadline: plan.operation_deadline,
            bodies: plan.json.then_some(BodyFormat::Json),
            ..SessionOptions::default()
        };
        if self.control == Some(Control::KeyInLog) {
            tracing::info!(key = CANARY, "connecting");
        }
        let service = ServiceClient::over(Session::open(parts, options).await?);
        // Without a hold on it, since the session holds its way.
        let _ = session.set(Arc::downgrade(&service.context()));
        let now = self.time().now();
        self.network.watch.session_begins(service.session_id(), now);
        let session = service.session_id().to_owned();
        self.closed().insert(session, is_closed);
        Ok(service)
    }

    /// The session as the clients of a program see it.
    pub fn context(&self, service: &ServiceClient) -> Arc<dyn SessionContext> {
        let context = service.context();
        let context = match self.control {
            Some(control) => control.spoil(context, &self.network, &self.server_side),
            None => context,
        };
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        match &*endpoint {
            Some(endpoint) => self.network.turns.observe(context, endpoint.limiter()),
            None => context,
        }
    }

    /// The program closes a session now.
    pub fn closes(&self, session: &str) {
        self.let_go(session);
        if let Some(is_closed) = self.closed().get(session) {
            is_closed.store(true, Ordering::Relaxed);
        }
    }

    fn closed(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicBool>>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program has let go of a session.
    pub fn let_go(&self, session: &str) {
        self.network.watch.session_is_let_go(session);
    }

    /// The server has ended a session for want of heartbeats.
    pub(crate) fn session_expired(&self, session: &str) {
        let now = self.time().now();
        self.network
            .trace
            .note(format_args!("{session} has expired"));
        let expiry = self.plan.server.expiry;
        self.network.watch.session_expired(session, now, expiry);
    }

    /// Looks for the key in everything that an error says.
    pub fn look_for_key(&self, error: &Error) {
        let mut text = format!(
            "{error} {error:?} {}",
            String::from_utf8_lossy(error.body())
        );
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(" {cause} {cause:?}"));
            source = cause.source();
        }
        self.look_for_key_in(&text);
    }

    /// Looks for the key in a text.
    pub fn look_for_key_in(&self, text: &str) {
        if text.contains(CANARY) {
            self.network.watch.report(Rule::Key, text);
        }
    }

    /// In the end nothing is held.
    pub(crate) fn look_at_limits(&self) {
        let watch = &self.network.watch;
        let endpoint = self
            .endpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(endpoint) = endpoint else {
            return;
        };
        let now = endpoint.limiter().snapshot();
        for (name, lane) in [
            ("sample", now.sample),
            ("train", now.train),
            ("poll", now.poll),
            ("rest", now.rest),
        ] {
            let held = (
                lane.waiting,
                lane.uncollected,
                lane.slots,
                lane.bytes,
                lane.in_flight,
            );
            if held != (0, 0, 0, 0, 0) {
                watch.report(Rule::Baseline, format!("the lane of {name} still holds {held:?} (waiting, let through, slots, bytes, flights)"));
            }
        }
        drop(endpoint);
        let entries = self.endpoints.len();
        if entries > 0 {
            watch.report(
                Rule::Baseline,
                format!("{entries} entries are left in the registry"),
            );
        }
    }
}
