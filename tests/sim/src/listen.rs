//! Listens to everything that is logged: for keys, and for what is said too often.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The key of all clients. It must turn up nowhere.
pub const CANARY: &str = "tml-canary-d41d8cd98f00b204";

/// What was logged. Clones share it.
#[derive(Clone, Default)]
pub struct Listener {
    heard: Arc<Mutex<Heard>>,
    spans: Arc<AtomicU64>,
    expired: Arc<OnceLock<WhenExpired>>,
    logged: Arc<OnceLock<WhenLogged>>,
}

/// How lines of the client begin that tell of no error, or of one that is told or counted elsewhere.
const HARMLESS: [&str; 16] = [
    // The limits count these.
    "rate limited",
    "probing whether requests are taken again",
    "requests are taken again",
    "in-flight window changed",
    "clients of one server and key ask for different limits",
    // The session's events tell of these.
    "the server has ended the session",
    "a heartbeat got through again",
    // Everybody who waits is told, and who comes later.
    "the poll for a client's results ended",
    // Once for an outage, of what each attempt counts.
    "the server fails; it is asked again",
    "the server does not answer; requests are repeated",
    "the server answers again",
    // Each text once.
    "deprecation notice",
    // Warnings, once a minute, of what each attempt counts.
    "billing holds the job",
    "paused by the server",
    // A figure that the server left out, or that has no meaning for several chunks.
    "left out of the merge: some chunk lacks it",
    "left out of the merge: it has no reduction",
];

/// Whether a line is the client's, by where it was written.
fn is_of_client(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    match name.strip_prefix("tinkers_") {
        Some(name) => !matches!(name, "local" | "engine" | "sim"),
        None => name == "tinkers",
    }
}

/// What is done when the server says that a session expired.
type WhenExpired = Box<dyn Fn(&str) + Send + Sync>;
/// What is done after each line of a client.
type WhenLogged = Box<dyn Fn() + Send + Sync>;

/// What was logged so far.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Lines of the level `INFO` and above.
    pub lines: u64,
    /// The same by the id of the request that they speak of.
    pub by_request: BTreeMap<String, u64>,
    /// Lines in which the key was found.
    pub with_key: Vec<String>,
    /// Lines of the clients on errors that they went on from, by kind.
    pub recovered_errors: BTreeMap<String, u64>,
    /// Lines of the clients that are none of these and not known to be harmless.
    pub uncounted: Vec<String>,
}

impl Listener {
    /// Calls `then` with each session that the server ends for want of heartbeats. Only the first call counts.
    pub fn when_expired(&self, then: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.expired.set(Box::new(then));
    }

    /// Calls `then` after each line of a client, without a lock. Only the first call counts.
    pub fn when_logged(&self, then: impl Fn() + Send + Sync + 'static) {
        let _ = self.logged.set(Box::new(then));
    }

    /// What was logged so far.
    pub fn heard(&self) -> Heard {
        self.lock().clone()
    }

    fn look(&self, line: &str) {
        if line.contains(CANARY) {
            self.lock().with_key.push(line.to_owned());
        }
    }

    /// A line of a client: an error that it went on from, or nothing of the kind.
    fn keep(&self, line: &Line) {
        let mut heard = self.lock();
        if let Some(recovered_error) = &line.recovered_error {
            *heard
                .recovered_errors
                .entry(recovered_error.clone())
                .or_default() += 1;
        } else if !HARMLESS.iter().any(|known| line.message.starts_with(known)) {
            heard.uncounted.push(line.text.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Line {
    text: String,
    request_id: Option<String>,
    session: Option<String>,
    recovered_error: Option<String>,
    message: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let plain = || Some(format!("{value:?}").trim_matches('"').to_owned());
        match field.name() {
            "request_id" => self.request_id = plain(),
            "session" => self.session = plain(),
            "recovered_error" => self.recovered_error = plain(),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
        let _ = write!(self.text, "{}={value:?} ", field.name());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line::default();
        span.record(&mut line);
        self.look(&line.text);
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line::default();
        values.record(&mut line);
        self.look(&line.text);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.look(&line.text);
        if let (Some(session), Some(then)) = (&line.session, self.expired.get())
            && line.text.contains("too long without a heartbeat")
        {
            then(session);
        }
        let is_of_client = is_of_client(event.metadata().target());
        if is_of_client {
            self.keep(&line);
        }
        if *event.metadata().level() <= Level::INFO {
            let mut heard = self.lock();
            heard.lines += 1;
            if let Some(id) = line.request_id {
                *heard.by_request.entry(id).or_default() += 1;
            }
        }
        if is_of_client && let Some(then) = self.logged.get() {
            then();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_counter_is_found_and_the_servers_lines_are_not_ours() {
        let listener = Listener::default();
        tracing::subscriber::with_default(listener.clone(), || {
            tracing::debug!(target: "tinkers_session::refresh", recovered_error = "refresh", "as it was");
            tracing::debug!(target: "tinkers_dispatch::after", "rate limited");
            tracing::debug!(target: "tinkers_futures::retrieve", "a poll failed");
            tracing::warn!(target: "tinkers_local::server", "a job failed");
        });
        let heard = listener.heard();
        assert_eq!(
            heard.recovered_errors,
            BTreeMap::from([("refresh".to_owned(), 1)])
        );
        assert_eq!(heard.uncounted.len(), 1, "{:?}", heard.uncounted);
    }
}
