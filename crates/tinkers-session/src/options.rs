//! What a session is made of, and what the caller may choose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{BodyFormat, Clock, Error, Jitter, RecoveredErrors, Spawn, Transport};
use tinkers_dispatch::LimiterSettings;

use crate::endpoint::Endpoint;

/// The seams that a session works over.
#[derive(Debug)]
pub struct SessionParts {
    /// Sends everything but heartbeats.
    pub transport: Arc<dyn Transport>,
    /// Tells the time. Clocks of sessions that share an endpoint must agree on their origin.
    pub time: Arc<dyn Clock>,
    /// Spreads the repeats.
    pub jitter: Arc<dyn Jitter>,
    /// Starts tasks on the I/O runtime.
    pub spawner: Arc<dyn Spawn>,
    /// What is shared with every other session of the same server and key.
    pub endpoint: Endpoint,
    /// What the heartbeat works over.
    pub heartbeat: HeartbeatParts,
    /// Counts the errors that the session and its clients go on from, those of the way to the session included.
    pub recovered_errors: Arc<RecoveredErrors>,
}

/// The heartbeat's own seams, so that nothing else that happens in the process can hold it up: in production a thread with
/// a runtime and connections of its own.
#[derive(Debug)]
pub struct HeartbeatParts {
    /// Sends heartbeats.
    pub transport: Arc<dyn Transport>,
    /// Tells the time between them.
    pub time: Arc<dyn Clock>,
    /// Runs the loop. Kept for as long as the session lives.
    pub spawner: Arc<dyn Spawn>,
}

/// What the caller may choose about a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// Labels.
    pub tags: Vec<String>,
    /// The caller's own notes.
    pub user_metadata: BTreeMap<String, String>,
    /// The project that the session belongs to.
    pub project_id: Option<String>,
    /// A name to find the session by; need not be unique.
    pub display_name: Option<String>,
    /// How long an operation may go without news before it counts as stalled. Two hours by default.
    pub progress_deadline: Duration,
    /// How long an operation may take in all, news or not. As long as it takes by default.
    pub operation_deadline: Option<Duration>,
    /// The form of the bodies of passes. Found out by default.
    pub bodies: Option<BodyFormat>,
    /// Limits of the caller's own. What holds is the strictest of these, the server's, and those of all other sessions of the same
    /// server and key.
    pub limits: Option<LimiterSettings>,
    /// The pause between heartbeats. 10 s by default; a third of the expiry at most.
    pub heartbeat_period: Duration,
    /// How long the server keeps a session without heartbeats, unless it says so itself. 120 s by default.
    pub expiry: Duration,
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
            bodies: None,
            limits: None,
            heartbeat_period: Duration::from_secs(10),
            expiry: Duration::from_secs(120),
        }
    }
}

impl SessionOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
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
        self.limits.as_ref().map_or(Ok(()), check_limits)
    }
}

/// Refuses limits that could have no effect.
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
        if settings.flights.is_some() {
            let expected = "none: requests in flight are limited for the class sample alone";
            return Err(Error::invalid(format!("limits.{class}.flights"), expected));
        }
    }
    for (class, settings) in &classes[1..] {
        if settings.bytes.is_some() {
            let expected = "none: bytes are limited for the classes sample and train alone";
            return Err(Error::invalid(format!("limits.{class}.bytes"), expected));
        }
    }
    if max_hint.is_zero() {
        return Err(Error::invalid("limits.max_hint", "a duration above zero"));
    }
    Ok(())
}
