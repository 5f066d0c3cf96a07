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
}

/// What is done when the server says that a session expired.
type WhenExpired = Box<dyn Fn(&str) + Send + Sync>;

/// What was logged so far.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Lines of the level `INFO` and above.
    pub lines: u64,
    /// The same by the id of the request that they speak of.
    pub by_request: BTreeMap<String, u64>,
    /// Lines in which the key was found.
    pub with_key: Vec<String>,
}

impl Listener {
    /// Calls `then` with each session that the server ends for want of heartbeats. Only the first call counts.
    pub fn when_expired(&self, then: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.expired.set(Box::new(then));
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

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Line {
    text: String,
    request_id: Option<String>,
    session: Option<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let plain = || Some(format!("{value:?}").trim_matches('"').to_owned());
        match field.name() {
            "request_id" => self.request_id = plain(),
            "session" => self.session = plain(),
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
        if *event.metadata().level() <= Level::INFO {
            let mut heard = self.lock();
            heard.lines += 1;
            if let Some(id) = line.request_id {
                *heard.by_request.entry(id).or_default() += 1;
            }
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
