//! The thread that writes changes of records to the store, and then sends the responses that had to wait for them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

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
struct Batch {
    changes: Vec<Change>,
    responses: Vec<Delivery>,
    /// A sender that is dropped when the changes are stored.
    _flushed: Option<oneshot::Sender<()>>,
}

/// The thread that owns the store. Dropping the writer waits until all changes are written, or cannot be written.
pub(super) struct Writer {
    batches: Option<Sender<Batch>>,
    /// The number of batches whose responses have not been sent.
    pending: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread of a store.
    pub(super) fn start(store: Box<dyn RecordStore>) -> Result<Self, EngineError> {
        let (batches, receiver) = channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let thread = Thread {
            store,
            batches: receiver,
            pending: Arc::clone(&pending),
            unwritten: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("tinkers-store".to_owned())
            .spawn(|| thread.run());
        let thread = thread.map_err(|error| {
            EngineError::server(format!("cannot start the thread of the store: {error}"))
        })?;
        Ok(Self {
            batches: Some(batches),
            pending,
            thread: Some(thread),
        })
    }

    /// Takes the changes and the responses of a transition. Returns the responses that may be sent at once, because neither this transition
    /// nor an earlier one has changes that are not stored. Must be called in the order of the transitions.
    pub(super) fn deliver(&self, changes: Vec<Change>, responses: Vec<Delivery>) -> Vec<Delivery> {
        let is_stored = changes.is_empty() && self.pending.load(Ordering::Acquire) == 0;
        if is_stored || (changes.is_empty() && responses.is_empty()) {
            return responses;
        }
        self.send(Batch {
            changes,
            responses,
            _flushed: None,
        });
        Vec::new()
    }

    /// Returns a receiver that completes when all changes so far are stored, or cannot be stored.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.send(Batch {
            changes: Vec::new(),
            responses: Vec::new(),
            _flushed: Some(sender),
        });
        receiver
    }

    fn send(&self, batch: Batch) {
        self.pending.fetch_add(1, Ordering::AcqRel);
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
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// The state of the thread.
struct Thread {
    store: Box<dyn RecordStore>,
    batches: Receiver<Batch>,
    pending: Arc<AtomicUsize>,
    /// The changes that could not be written. They are written before all later changes.
    unwritten: Vec<Change>,
}

impl Thread {
    fn run(mut self) {
        loop {
            let first = if self.unwritten.is_empty() {
                self.batches
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.batches.recv_timeout(RETRY)
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            // All batches that wait already are written together.
            let batches = first.into_iter().chain(self.batches.try_iter()).collect();
            self.write(batches);
            if is_last {
                return;
            }
        }
    }

    fn write(&mut self, mut batches: Vec<Batch>) {
        let mut has_changes = Vec::new();
        for batch in &mut batches {
            has_changes.push(!batch.changes.is_empty());
            self.unwritten.append(&mut batch.changes);
        }
        let written = match self.unwritten.is_empty() {
            true => Ok(()),
            false => self.store.commit(&self.unwritten),
        };
        match &written {
            Ok(()) => self.unwritten.clear(),
            Err(error) => tracing::error!(error = %chain(error), "the records cannot be written"),
        }
        for (batch, has_changes) in batches.into_iter().zip(has_changes) {
            for (sender, response) in batch.responses {
                let response = match &written {
                    Err(error) if has_changes => unwritten(error),
                    _ => response,
                };
                // The client may have disconnected meanwhile.
                let _ = sender.send(response);
            }
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Returns the response to a request whose changes could not be written. The client should send the request again.
fn unwritten(error: &StoreError) -> LazyResponse {
    let reason = format!("the change could not be stored: {}", chain(error));
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Returns the text of an error with that of its cause.
pub(super) fn chain(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
