//! A record of every exchange, for tests to assert on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, StatusCode};
use tinkers_core::{Moment, RouteClass, Time};

use crate::faults::Struck;
use crate::http::Request;
use crate::read::{Command, Digest, class_of};

/// What arrived at a server, in order. Clones are the same journal.
///
/// ```
/// # use std::sync::Arc;
/// # use tinkers_core::{HttpRequest, ManualClock, RouteClass, Transport};
/// # use tinkers_local::{InProcess, Journal, LocalServer, ScriptedEngine, TokioSpawn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let journal = Journal::new();
/// let server = LocalServer::builder(
///     Arc::new(ScriptedEngine::default()),
///     Arc::new(ManualClock::new()),
///     Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
/// )
/// .journal(journal.clone())
/// .build()
/// .unwrap();
/// let health = HttpRequest::new(http::Method::GET, "/api/v1/healthz", RouteClass::Control);
/// InProcess::new(server).send(health).await.unwrap();
/// let entries = journal.entries();
/// assert_eq!((entries[0].number, entries[0].route.as_str()), (1, "/api/v1/healthz"));
/// assert_eq!(entries[0].status, Some(200));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Entry>>>);

/// One exchange.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// 1 for the first request that arrived.
    pub number: usize,
    /// When it arrived, on the server's clock.
    pub at: Moment,
    /// The method.
    pub method: Method,
    /// The path without its query.
    pub route: String,
    /// The class that the route belongs to.
    pub class: RouteClass,
    /// The headers, without the key.
    pub headers: HeaderMap,
    /// The request's own number: `seq_id`, `model_seq_id` or `sampling_session_seq_id`.
    pub seq_id: Option<u64>,
    /// The length of the body as sent, in bytes.
    pub body_bytes: usize,
    /// A fingerprint of the body as it was understood; equal for retries.
    pub digest: u64,
    /// Whether the fault script struck it.
    pub faulted: bool,
    /// The rule that struck it.
    pub struck_by: Option<Struck>,
    /// When it ended, on the server's clock: it was answered, cut, or the client left. `None` while it is under way.
    pub ended_at: Option<Moment>,
    /// The status; `None` while there is no answer, and for ever when the connection was cut.
    pub status: Option<u16>,
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// All entries, in the order of arrival.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// The entries of one route (its path), in the order of arrival.
    pub fn of(&self, route: &str) -> Vec<Entry> {
        self.lock()
            .iter()
            .filter(|entry| entry.route == route)
            .cloned()
            .collect()
    }

    /// Writes down an arrival.
    pub(crate) fn arrive(
        &self,
        request: &Request,
        command: Option<&Command>,
        time: &Arc<dyn Time>,
        struck_by: Option<&Struck>,
    ) -> Arrival {
        let mut headers = request.headers.clone();
        headers.remove("x-api-key");
        headers.remove("authorization");
        let digest = command
            .and_then(Command::fingerprint)
            .unwrap_or_else(|| Digest::of("raw", &request.body).hash());
        let mut entries = self.lock();
        let number = entries.len() + 1;
        entries.push(Entry {
            number,
            at: time.now(),
            method: request.method.clone(),
            route: request.route().to_owned(),
            class: class_of(request.route()),
            headers,
            seq_id: command.and_then(Command::seq_id),
            body_bytes: request.body.len(),
            digest,
            faulted: struck_by.is_some(),
            struck_by: struck_by.cloned(),
            ended_at: None,
            status: None,
        });
        Arrival {
            journal: self.clone(),
            time: Arc::clone(time),
            number,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry whose answer is to come.
#[derive(Debug)]
pub(crate) struct Arrival {
    journal: Journal,
    time: Arc<dyn Time>,
    number: usize,
}

impl Arrival {
    /// Writes down the answer's status.
    pub(crate) fn answered(&self, status: StatusCode) {
        if let Some(entry) = self.journal.lock().get_mut(self.number - 1) {
            entry.status = Some(status.as_u16());
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let now = self.time.now();
        if let Some(entry) = self.journal.lock().get_mut(self.number - 1) {
            entry.ended_at = Some(now);
        }
    }
}
