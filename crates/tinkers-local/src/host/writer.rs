//! The thread that writes changes of records to the store, and then sends the responses that had to wait for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::oneshot;

use crate::engine::EngineError;
use crate::http::LazyResponse;
use crate::read::Refusal;
use crate::store::{Change, RecordStore, StoreError};

/// How long the thread waits before it tries again to write changes that could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// A response with the sender to the connection that waits for it.
pub(super) type Delivery = (oneshot::Sender<LazyResponse>, LazyResponse);

/// The changes and the responses of a transition. The responses are sent when the changes are stored.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    has_changes: bool,
    responses: Vec<Delivery>,
    /// A sender that is dropped when the changes are stored, or cannot be stored.
    flushed: Option<oneshot::Sender<()>>,
}

/// What the thread tells the server.
#[derive(Debug, Default)]
struct Progress {
    /// The number of batches whose responses have not been sent.
    pending: AtomicUsize,
    /// Whether the last write has failed.
    is_failing: AtomicBool,
}

/// The thread that owns the store. Dropping the writer waits until all changes are written, or cannot be written.
pub(super) struct Writer {
    batches: Option<Sender<Batch>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread of a store.
    pub(super) fn start(store: Box<dyn RecordStore>) -> Result<Self, EngineError> {
        let (batches, receiver) = channel();
        let progress = Arc::<Progress>::default();
        let thread = Thread {
            store,
            batches: receiver,
            progress: Arc::clone(&progress),
            unwritten: BTreeMap::new(),
            waiting: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("tinkers-store".to_owned())
            .spawn(|| thread.run());
        let thread = thread.map_err(|error| {
            EngineError::server(format!("cannot start the thread of the store: {error}"))
        })?;
        Ok(Self {
            batches: Some(batches),
            progress,
            thread: Some(thread),
        })
    }

    /// Returns whether the last write has failed. A change that is made now could not be stored.
    pub(super) fn is_failing(&self) -> bool {
        self.progress.is_failing.load(Ordering::Acquire)
    }

    /// Takes the changes and the responses of a transition. Returns the responses that may be sent at once, because neither this transition
    /// nor an earlier one has changes that are not stored. Must be called in the order of the transitions.
    pub(super) fn deliver(&self, changes: Vec<Change>, responses: Vec<Delivery>) -> Vec<Delivery> {
        let is_stored = self.progress.pending.load(Ordering::Acquire) == 0;
        if changes.is_empty() && (is_stored || responses.is_empty()) {
            return responses;
        }
        self.send(Batch {
            has_changes: !changes.is_empty(),
            changes,
            responses,
            flushed: None,
        });
        Vec::new()
    }

    /// Returns a receiver that completes when all changes so far are stored, or cannot be stored.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.send(Batch {
            flushed: Some(sender),
            ..Batch::default()
        });
        receiver
    }

    fn send(&self, batch: Batch) {
        self.progress.pending.fetch_add(1, Ordering::AcqRel);
        if let Some(batches) = &self.batches
            && batches.send(batch).is_err()
        {
            // The connections of the dropped responses are closed.
            tracing::error!("the store panicked; restart the server");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // The thread logs its own failures.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// The state of the thread.
struct Thread {
    store: Box<dyn RecordStore>,
    batches: Receiver<Batch>,
    progress: Arc<Progress>,
    /// The changes that are not written, by table and key. A later change of a record replaces an earlier one.
    unwritten: BTreeMap<(&'static str, String), Option<Bytes>>,
    /// The batches whose responses wait for the changes.
    waiting: Vec<Batch>,
}

impl Thread {
    fn run(mut self) {
        loop {
            let first = if self.waiting.is_empty() {
                let ended = |_| RecvTimeoutError::Disconnected;
                self.batches.recv().map_err(ended)
            } else {
                self.batches.recv_timeout(RETRY)
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            // All batches that wait already are written together.
            let batches: Vec<Batch> = first.into_iter().chain(self.batches.try_iter()).collect();
            for batch in batches {
                self.add(batch);
            }
            self.write();
            if is_last {
                return;
            }
        }
    }

    fn add(&mut self, mut batch: Batch) {
        for change in batch.changes.drain(..) {
            let key = (change.table, change.key);
            self.unwritten.insert(key, change.value);
        }
        self.waiting.push(batch);
    }

    /// Writes all changes, and sends the responses that wait for them. If the changes cannot be written, the responses go on waiting.
    fn write(&mut self) {
        let changes = self.unwritten.iter().map(|((table, key), value)| Change {
            table,
            key: key.clone(),
            value: value.clone(),
        });
        let changes: Vec<Change> = changes.collect();
        let written = match changes.is_empty() {
            true => Ok(()),
            false => self.store.commit(&changes),
        };
        let was_failing = self
            .progress
            .is_failing
            .swap(written.is_err(), Ordering::AcqRel);
        match written {
            Ok(()) if was_failing => tracing::info!("the records can be written again"),
            Ok(()) => {}
            Err(error) => {
                if !was_failing {
                    let error = chain(&error);
                    tracing::error!(
                        error,
                        "the records cannot be written; trying again each second"
                    );
                }
                self.refuse_reads();
                return;
            }
        }
        self.unwritten.clear();
        // Dropping a batch drops its sender of `flushed`.
        for batch in self.waiting.drain(..) {
            for (sender, response) in batch.responses {
                // The client may have disconnected meanwhile.
                let _ = sender.send(response);
            }
            self.progress.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Thread {
    /// Refuses the waiting requests that have changed nothing, so that their clients ask again. Those that have changed something go on
    /// waiting: a repeated request would double the change.
    fn refuse_reads(&mut self) {
        for batch in &mut self.waiting {
            batch.flushed = None;
            if batch.has_changes {
                continue;
            }
            for (sender, _) in batch.responses.drain(..) {
                // The client may have disconnected meanwhile.
                let _ = sender.send(unwritable());
            }
        }
    }
}

/// A server whose store has panicked makes no more changes, as if the store failed.
impl Drop for Thread {
    fn drop(&mut self) {
        self.progress.is_failing.store(true, Ordering::Release);
    }
}

/// Returns the response to a request that cannot be served because the records cannot be written.
pub(super) fn unwritable() -> LazyResponse {
    let reason = "the server cannot store its records at the moment; see its log";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Returns the text of an error with that of its cause.
pub(super) fn chain(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
