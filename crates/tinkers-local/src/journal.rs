//! A record of every exchange, to assert on or to write down.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tinkers_core::{Clock, RouteClass, Timestamp};

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
#[derive(Clone, Default)]
pub struct Journal {
    book: Arc<Mutex<Book>>,
    reader: Option<Arc<Reader>>,
}

type Reader = dyn Fn(&Entry) + Send + Sync;

#[derive(Debug, Default)]
struct Book {
    arrived: usize,
    entries: Vec<Entry>,
}

/// One exchange.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// 1 for the first request that arrived.
    pub number: usize,
    /// When it arrived, on the server's clock.
    pub at: Timestamp,
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
    pub ended_at: Option<Timestamp>,
    /// The status; `None` while there is no answer, and for ever when the connection was cut.
    pub status: Option<u16>,
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// A journal that keeps nothing: each entry is shown to `reader` when its exchange has ended, so not in the order of arrival.
    /// It is called on the server's threads, several at a time, and must not take long.
    pub fn read_by(reader: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        Self {
            book: Arc::default(),
            reader: Some(Arc::new(reader)),
        }
    }

    /// All entries, in the order of arrival; none where a reader takes them.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// The entries of one route (its path), in the order of arrival.
    pub fn of(&self, route: &str) -> Vec<Entry> {
        self.lock()
            .entries
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
        time: &Arc<dyn Clock>,
        struck_by: Option<&Struck>,
    ) -> Arrival {
        let mut headers = request.headers.clone();
        headers.remove("x-api-key");
        headers.remove("authorization");
        let digest = command
            .and_then(Command::fingerprint)
            .unwrap_or_else(|| Digest::of("raw", &request.body).hash());
        let mut entry = Entry {
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
        let mut book = self.lock();
        book.arrived += 1;
        entry.number = book.arrived;
        let place = match &self.reader {
            Some(reader) => Place::Own(Box::new(entry), Arc::clone(reader)),
            None => {
                book.entries.push(entry);
                Place::Kept(self.clone(), book.entries.len() - 1)
            }
        };
        drop(book);
        Arrival {
            place,
            time: Arc::clone(time),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// One JSON object in one line, without its end. Times are in seconds since `start`, the digest is 16 hexadecimal digits, and
    /// what is not known is `null`. There is no header in it, no query and no body.
    ///
    /// ```json
    /// {"number": 7, "at_s": 1.5, "took_s": 0.002, "method": "POST", "route": "/api/v1/asample", "class": "sample", "seq_id": 3,
    ///  "status": 429, "bytes": 212, "faulted": true, "rule": 1, "rule_name": "busy", "digest": "00f1e2d3c4b5a697"}
    /// ```
    pub fn to_json_line(&self, start: Timestamp) -> String {
        let took = self.ended_at.map(|end| end.since(self.at).as_secs_f64());
        let by = self.struck_by.as_ref();
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
            "rule": by.map(|by| by.number),
            "rule_name": by.and_then(|by| by.name.as_deref()),
            "digest": format!("{:016x}", self.digest),
        })
        .to_string()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("book", &self.book)
            .finish_non_exhaustive()
    }
}

/// An entry whose answer is to come.
pub(crate) struct Arrival {
    place: Place,
    time: Arc<dyn Clock>,
}

enum Place {
    Kept(Journal, usize),
    Own(Box<Entry>, Arc<Reader>),
}

impl Arrival {
    /// Writes down the answer's status.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.write(|entry| entry.status = Some(status.as_u16()));
    }

    fn write(&mut self, write: impl FnOnce(&mut Entry)) {
        match &mut self.place {
            Place::Kept(journal, at) => {
                if let Some(entry) = journal.lock().entries.get_mut(*at) {
                    write(entry);
                }
            }
            Place::Own(entry, _) => write(entry),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let now = self.time.now();
        self.write(|entry| entry.ended_at = Some(now));
        if let Place::Own(entry, reader) = &self.place {
            reader(entry);
        }
    }
}
