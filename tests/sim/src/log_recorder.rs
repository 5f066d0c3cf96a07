//! A log subscriber that records the log of a run: lines that contain the API key, the number of
//! lines about each request, and recovered errors.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The API key of all clients. The simulator searches the log and the errors for it.
pub const CANARY_KEY: &str = "tml-canary-d41d8cd98f00b204";

/// A recorder of all log lines of a run. Clones share the recorded lines.
#[derive(Clone, Default)]
pub struct LogRecorder {
    summary: Arc<Mutex<LogSummary>>,
    span_count: Arc<AtomicU64>,
    on_session_expired: Arc<OnceLock<OnSessionExpired>>,
    on_client_line: Arc<OnceLock<OnClientLine>>,
}

/// A callback that receives the id of an expired session.
type OnSessionExpired = Box<dyn Fn(&str) + Send + Sync>;
/// A callback that runs after each log line of a client.
type OnClientLine = Box<dyn Fn() + Send + Sync>;

/// The beginnings of the client's log messages that do not report a recovered error (an error from
/// which the client recovers and which it counts). They report no error, or an error that is
/// returned to the caller or counted elsewhere.
const UNCOUNTED_MESSAGES: [&str; 15] = [
    // The limiter counts these.
    "rate limited",
    "sending the first request after a pause",
    "requests are accepted again",
    "in-flight window changed",
    "clients of one server and key request different limits",
    // The session reports these as events.
    "the server has ended the session",
    "a heartbeat got through again",
    // Logged once for each outage. The failed attempts are counted.
    "the server is failing; sending some retries early",
    "the server does not answer; requests are repeated",
    "the server answers again",
    // This is logged once for each text.
    "deprecation notice",
    // This is logged at most once a minute. The attempts are counted.
    "the server requires payment",
    "paused by the server",
    // These are about metrics that cannot be merged over the chunks of a request.
    "metric dropped from the merged result: a chunk has no value",
    "metric dropped from the merged result: its chunks differ",
];

/// A summary of the log of a run.
#[derive(Debug, Clone, Default)]
pub struct LogSummary {
    /// The number of lines at the levels `INFO`, `WARN` and `ERROR` that mention a request, by
    /// request id.
    pub lines_by_request: BTreeMap<String, u64>,
    /// The lines that contain the API key.
    pub lines_with_key: Vec<String>,
    /// The number of log lines of clients that report an error from which the client has recovered,
    /// by the kind of the error.
    pub recovered_errors: BTreeMap<String, u64>,
    /// The log lines of clients that neither report a recovered error nor begin with one of
    /// `UNCOUNTED_MESSAGES`. Each of them is a violation, because its error may not be counted.
    pub uncounted_lines: Vec<String>,
}

impl LogRecorder {
    /// Registers a callback that receives the id of each session that expires on the server. Only
    /// the first registered callback is used.
    pub fn on_session_expired(&self, callback: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.on_session_expired.set(Box::new(callback));
    }

    /// Registers a callback that runs after each log line of a client. No lock is held while the
    /// callback runs. Only the first registered callback is used.
    pub fn on_client_line(&self, callback: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_client_line.set(Box::new(callback));
    }

    /// Returns a summary of the lines that were logged so far.
    pub fn summary(&self) -> LogSummary {
        self.lock().clone()
    }

    fn check_for_key(&self, line: &LogLine) {
        if line.text.contains(CANARY_KEY) {
            self.lock().lines_with_key.push(line.text.clone());
        }
    }

    fn add_client_line(&self, line: &LogLine) {
        let mut summary = self.lock();
        if let Some(kind) = &line.recovered_error {
            *summary.recovered_errors.entry(kind.clone()).or_default() += 1;
            return;
        }
        let mut known = UNCOUNTED_MESSAGES.iter();
        if !known.any(|known| line.message.starts_with(known)) {
            summary.uncounted_lines.push(line.text.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogSummary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a log target (a module path) belongs to a crate of the client library.
fn is_of_client(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    match name.strip_prefix("tinkers_") {
        Some(name) => !matches!(name, "local" | "engine" | "sim"),
        None => name == "tinkers",
    }
}

/// A log line: its formatted text and its fields.
#[derive(Default)]
struct LogLine {
    text: String,
    request_id: Option<String>,
    session: Option<String>,
    recovered_error: Option<String>,
    message: String,
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let unquoted = || Some(format!("{value:?}").trim_matches('"').to_owned());
        match field.name() {
            "request_id" => self.request_id = unquoted(),
            "session" => self.session = unquoted(),
            "recovered_error" => self.recovered_error = unquoted(),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
        let _ = write!(self.text, "{}={value:?} ", field.name());
    }
}

impl Subscriber for LogRecorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = LogLine::default();
        span.record(&mut line);
        self.check_for_key(&line);
        Id::from_u64(self.span_count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = LogLine::default();
        values.record(&mut line);
        self.check_for_key(&line);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = LogLine::default();
        event.record(&mut line);
        self.check_for_key(&line);
        if let (Some(session), Some(callback)) = (&line.session, self.on_session_expired.get())
            && line.text.contains("too long without a heartbeat")
        {
            callback(session);
        }
        let is_of_client = is_of_client(event.metadata().target());
        if is_of_client {
            self.add_client_line(&line);
        }
        if *event.metadata().level() <= Level::INFO
            && let Some(id) = line.request_id
        {
            *self.lock().lines_by_request.entry(id).or_default() += 1;
        }
        if is_of_client && let Some(callback) = self.on_client_line.get() {
            callback();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl fmt::Debug for LogRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogRecorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_summary_lists_client_errors_that_have_no_counter() {
        let recorder = LogRecorder::default();
        tracing::subscriber::with_default(recorder.clone(), || {
            tracing::debug!(target: "tinkers_session::refresh", recovered_error = "refresh", "as it was");
            tracing::debug!(target: "tinkers_dispatch::after", "rate limited");
            tracing::debug!(target: "tinkers_futures::retrieve", "a poll failed");
            tracing::warn!(target: "tinkers_local::server", "a job failed");
        });
        let summary = recorder.summary();
        assert_eq!(
            summary.recovered_errors,
            BTreeMap::from([("refresh".to_owned(), 1)])
        );
        assert_eq!(
            summary.uncounted_lines.len(),
            1,
            "{:?}",
            summary.uncounted_lines
        );
    }
}
