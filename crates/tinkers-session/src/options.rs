//! The parts and the options of a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_auth::Auth;
use tinkers_core::{
    BodyFormat, ClassTimeouts, Clock, Error, Jitter, RecoveredErrors, RetryPolicy, Spawn, Transport,
};
use tinkers_dispatch::LimiterSettings;

use crate::endpoint::Endpoint;

/// The parts from which a session is built: its transport, clock, spawner and other implementations.
#[derive(Debug)]
pub struct SessionParts {
    /// The transport that sends all requests except heartbeats.
    pub transport: Arc<dyn Transport>,
    /// The clock for timeouts, pauses and deadlines. Sessions that share an endpoint must use clocks with the same origin.
    pub time: Arc<dyn Clock>,
    /// The random generator that spreads retry delays, so that clients do not retry at the same time.
    pub jitter: Arc<dyn Jitter>,
    /// The spawner of tasks on the I/O runtime.
    pub spawner: Arc<dyn Spawn>,
    /// The state that all sessions with the same server and API key share.
    pub endpoint: Endpoint,
    /// The transport, clock and spawner of heartbeats.
    pub heartbeat: HeartbeatParts,
    /// The authentication of the transports, for servers that require an exchange of the API key for a token. `None` if the transports
    /// need no authentication: the session then cannot be opened on such a server.
    pub auth: Option<Arc<Auth>>,
    /// The counters of errors from which the session and its clients recovered, for example by a retry. Errors before the session is open
    /// are counted, too.
    pub recovered_errors: Arc<RecoveredErrors>,
}

/// The transport, clock and spawner of heartbeats. They are separate, so that no other work can delay a heartbeat: in production heartbeats
/// have a thread with its own runtime and connections.
#[derive(Debug)]
pub struct HeartbeatParts {
    /// The transport that sends the heartbeats.
    pub transport: Arc<dyn Transport>,
    /// The clock that determines when heartbeats are sent.
    pub time: Arc<dyn Clock>,
    /// The spawner that runs the heartbeat loop. The session drops the spawner at its end.
    pub spawner: Arc<dyn Spawn>,
}

/// The options of a session, such as its tags, deadlines, rate limits and retry policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// The tags of the session, which the server shows in its list of sessions.
    pub tags: Vec<String>,
    /// The metadata that the server stores with the session.
    pub user_metadata: BTreeMap<String, String>,
    /// The id of the project that the session belongs to.
    pub project_id: Option<String>,
    /// The display name of the session, which need not be unique.
    pub display_name: Option<String>,
    /// The time without progress after which an operation fails as stalled. Two hours by default.
    pub progress_deadline: Duration,
    /// The time limit of a whole operation, including its waits in queues, retries and polls. None by default.
    pub operation_deadline: Option<Duration>,
    /// The body format of forward-backward requests, protobuf or JSON. By default, the client detects which format the server accepts.
    pub body_format: Option<BodyFormat>,
    /// The rate limits that the session requests. The strictest limits apply: of these limits, of the server's limits, and of the limits of
    /// all other sessions with the same server and API key.
    pub limits: Option<LimiterSettings>,
    /// The interval of heartbeats. 10 s by default; at most a third of the session expiry.
    pub heartbeat_period: Duration,
    /// The session expiry: the time after which the server ends a session without heartbeats. Applies if the server's configuration does
    /// not set it. 120 s by default.
    pub expiry: Duration,
    /// Whether the session reports telemetry events to the server: its start and end, failed operations, and recovered errors. Off by default.
    pub telemetry: bool,
    /// The timeouts of HTTP requests for each route class, such as training, sampling and polls.
    pub timeouts: ClassTimeouts,
    /// The retry policy: which failed requests are retried, how often, and after which pauses.
    pub retry_policy: RetryPolicy,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            user_metadata: BTreeMap::new(),
            project_id: None,
            display_name: None,
            progress_deadline: Duration::from_secs(2 * 60 * 60),
            operation_deadline: None,
            body_format: None,
            limits: None,
            heartbeat_period: Duration::from_secs(10),
            expiry: Duration::from_secs(120),
            telemetry: false,
            timeouts: ClassTimeouts::default(),
            retry_policy: RetryPolicy::new(),
        }
    }
}

impl SessionOptions {
    /// Checks that the options are valid.
    ///
    /// # Errors
    /// `InvalidInput` with the name of the first invalid option.
    pub fn check(&self) -> Result<(), Error> {
        for (field, value) in [
            ("progress_deadline", Some(self.progress_deadline)),
            ("operation_deadline", self.operation_deadline),
            ("heartbeat_period", Some(self.heartbeat_period)),
            ("expiry", Some(self.expiry)),
        ] {
            if value.is_some_and(|value| value.is_zero()) {
                return Err(Error::invalid(field, "a duration above zero"));
            }
        }
        for (field, value) in [
            ("project_id", &self.project_id),
            ("display_name", &self.display_name),
        ] {
            if value.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(Error::invalid(field, "a text that is not empty"));
            }
        }
        self.timeouts.check()?;
        self.retry_policy.check()?;
        self.limits.as_ref().map_or(Ok(()), check_limits)
    }
}

/// Checks that the limits contain no value that the rate limiter would ignore. For example, the number of requests in flight can be limited
/// only for the class `Sample`.
fn check_limits(limits: &LimiterSettings) -> Result<(), Error> {
    let LimiterSettings {
        sample: _,
        train,
        poll,
        rest,
        max_hint,
    } = limits;
    let classes = [("train", train), ("poll", poll), ("rest", rest)];
    for (class, settings) in classes {
        if settings.max_in_flight.is_some() {
            let expected = "none: requests in flight are limited for the class sample only";
            return Err(Error::invalid(
                format!("limits.{class}.max_in_flight"),
                expected,
            ));
        }
    }
    for (class, settings) in &classes[1..] {
        if settings.bytes.is_some() {
            let expected = "none: bytes are limited for the classes sample and train only";
            return Err(Error::invalid(format!("limits.{class}.bytes"), expected));
        }
    }
    if max_hint.is_zero() {
        return Err(Error::invalid("limits.max_hint", "a duration above zero"));
    }
    Ok(())
}
