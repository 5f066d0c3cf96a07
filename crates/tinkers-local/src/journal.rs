//! The journal: a record of every exchange, for assertions and logs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tinkers_core::{Clock, RouteClass, Timestamp};

use crate::faults::RuleId;
use crate::http::Request;
use crate::read::{Command, Digest, class_of};

/// A record of the exchanges of a server (requests with their responses), in order of arrival. Clones share the same entries.
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
#[derive(Clone, Default)]
pub struct Journal {
    recorded: Arc<Mutex<Recorded>>,
    callback: Option<Arc<EntryCallback>>,
}

type EntryCallback = dyn Fn(&JournalEntry) + Send + Sync;

#[derive(Debug, Default)]
struct Recorded {
    /// The number of requests that have arrived so far. It is the number of the newest entry.
    arrived: usize,
    entries: Vec<JournalEntry>,
}

/// A recorded exchange: a request and its response.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The number of the request in order of arrival, from 1.
    pub number: usize,
    /// The time at which the request arrived, on the clock of the server.
    pub at: Timestamp,
    /// The HTTP method of the request.
    pub method: Method,
    /// The path of the request, without the query.
    pub route: String,
    /// The route class of the request, such as `sample` or `poll`.
    pub class: RouteClass,
    /// The headers of the request, without the API key.
    pub headers: HeaderMap,
    /// The sequence number in the request body: `seq_id`, `model_seq_id` or `sampling_session_seq_id`.
    pub seq_id: Option<u64>,
    /// The length of the request body as sent, in bytes.
    pub body_bytes: usize,
    /// A hash of the decoded request body. Retries of the same request have the same hash.
    pub digest: u64,
    /// Whether a rule of the fault script injected a fault into the request.
    pub faulted: bool,
    /// The rule of the fault script that injected a fault into the request. `None` if the request got no fault.
    pub struck_by: Option<RuleId>,
    /// The time at which the exchange ended, on the clock of the server. An exchange ends when the server has responded, the
    /// connection was cut or the client has disconnected. `None` until then.
    pub ended_at: Option<Timestamp>,
    /// The status of the response. `None` if there is no response yet, or if the exchange ended without a response.
    pub status: Option<u16>,
}

impl Journal {
    /// Creates an empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a journal that stores no entries, but passes each entry to `callback` when the response is sent or the connection
    /// ends. So the order can differ from the order of arrival. The callback runs on the threads of the server, possibly
    /// concurrently, and must not block.
    pub fn read_by(callback: impl Fn(&JournalEntry) + Send + Sync + 'static) -> Self {
        Self {
            recorded: Arc::default(),
            callback: Some(Arc::new(callback)),
        }
    }

    /// Returns all entries in order of arrival. Returns none if the journal passes its entries to a callback.
    pub fn entries(&self) -> Vec<JournalEntry> {
        self.lock().entries.clone()
    }

    /// Returns the entries of the requests for this path, in order of arrival.
    pub fn of(&self, route: &str) -> Vec<JournalEntry> {
        self.lock()
            .entries
            .iter()
            .filter(|entry| entry.route == route)
            .cloned()
            .collect()
    }

    /// Adds an entry for a request that has just arrived. Returns the entry, to which the response is added later.
    pub(crate) fn arrive(
        &self,
        request: &Request,
        command: Option<&Command>,
        time: &Arc<dyn Clock>,
        struck_by: Option<&RuleId>,
    ) -> Arrival {
        let mut headers = request.headers.clone();
        headers.remove("x-api-key");
        headers.remove("authorization");
        let digest = command
            .and_then(Command::fingerprint)
            .unwrap_or_else(|| Digest::of("raw", &request.body).hash());
        let mut entry = JournalEntry {
            number: 0,
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
        };
        let mut recorded = self.lock();
        recorded.arrived += 1;
        entry.number = recorded.arrived;
        let entry = match &self.callback {
            Some(callback) => OpenEntry::Passed(Box::new(entry), Arc::clone(callback)),
            None => {
                recorded.entries.push(entry);
                OpenEntry::Kept(self.clone(), recorded.entries.len() - 1)
            }
        };
        drop(recorded);
        Arrival {
            entry,
            time: Arc::clone(time),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalEntry {
    /// Returns the entry as one line of JSON, without a line feed. Times are in seconds since `start`, the digest has 16
    /// hexadecimal digits, and absent values are `null`. The headers, the query and the body are left out.
    ///
    /// ```json
    /// {"number": 7, "at_s": 1.5, "took_s": 0.002, "method": "POST", "route": "/api/v1/asample", "class": "sample", "seq_id": 3,
    ///  "status": 429, "bytes": 212, "faulted": true, "rule": 1, "rule_name": "busy", "digest": "00f1e2d3c4b5a697"}
    /// ```
    pub fn to_json_line(&self, start: Timestamp) -> String {
        let took = self.ended_at.map(|end| end.since(self.at).as_secs_f64());
        let rule = self.struck_by.as_ref();
        json!({
            "number": self.number,
            "at_s": self.at.since(start).as_secs_f64(),
            "took_s": took,
            "method": self.method.as_str(),
            "route": self.route,
            "class": self.class.name(),
            "seq_id": self.seq_id,
            "status": self.status,
            "bytes": self.body_bytes,
            "faulted": self.faulted,
            "rule": rule.map(|rule| rule.number),
            "rule_name": rule.and_then(|rule| rule.name.as_deref()),
            "digest": format!("{:016x}", self.digest),
        })
        .to_string()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("recorded", &self.recorded)
            .finish_non_exhaustive()
    }
}

/// The journal entry of a request whose exchange has not ended. Dropping this value records the time of the end.
pub(crate) struct Arrival {
    entry: OpenEntry,
    time: Arc<dyn Clock>,
}

enum OpenEntry {
    /// An entry that is stored in the journal, identified by its index in the list of entries.
    Kept(Journal, usize),
    /// An entry that is passed to the callback of the journal when the exchange ends.
    Passed(Box<JournalEntry>, Arc<EntryCallback>),
}

impl Arrival {
    /// Records the status of the response in the journal entry.
    pub(crate) fn responded(&mut self, status: StatusCode) {
        self.write(|entry| entry.status = Some(status.as_u16()));
    }

    fn write(&mut self, write: impl FnOnce(&mut JournalEntry)) {
        match &mut self.entry {
            OpenEntry::Kept(journal, index) => {
                if let Some(entry) = journal.lock().entries.get_mut(*index) {
                    write(entry);
                }
            }
            OpenEntry::Passed(entry, _) => write(entry),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let now = self.time.now();
        self.write(|entry| entry.ended_at = Some(now));
        if let OpenEntry::Passed(entry, callback) = &self.entry {
            callback(entry);
        }
    }
}
