//! What the programs called and what came of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::{Error, ErrorKind, Sent};
use tinkers_core::{Phase, Timestamp};

use crate::plan::Verb;

/// The number of a call, from 1.
pub type CallId = u32;

/// All calls of a run, in the order in which they were made. Clones are the same book.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<Mutex<Vec<Entry>>>);

/// One call.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which client made it.
    pub client: usize,
    /// What was called.
    pub verb: Verb,
    /// The model that it was called on.
    pub model: Option<String>,
    /// The call whose save is loaded.
    pub loads: Option<CallId>,
    /// When.
    pub called_at: Timestamp,
    /// When it must have ended.
    pub deadline: Option<Timestamp>,
    /// When it ended, and how.
    pub outcome: Option<(Timestamp, Outcome)>,
    /// How often it ended.
    pub ended: u32,
    /// The program does not wait for it any more.
    pub left: bool,
    /// The program looked at it later than it could, so when it ended is not known.
    pub is_late: bool,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Ok,
    /// With what is not its own result.
    Wrong(String),
    /// Badly.
    Failed {
        /// What went wrong.
        kind: ErrorKind,
        /// What is known of the request.
        sent: Sent,
        /// Where it stalled, if it did.
        stalled_in: Option<Phase>,
        /// In words.
        text: String,
    },
}

impl Outcome {
    /// How an error is kept.
    pub fn failed(error: &Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            sent: error.sent(),
            stalled_in: error.stalled().map(|stalled| stalled.phase),
            text: error.to_string(),
        }
    }
}

impl Book {
    /// A call is made now.
    pub fn call(&self, entry: Entry) -> CallId {
        let mut entries = self.lock();
        entries.push(entry);
        entries.len() as CallId
    }

    /// A call ended.
    pub fn ended(&self, call: CallId, at: Timestamp, outcome: Outcome) {
        if let Some(entry) = self.lock().get_mut(call as usize - 1) {
            entry.ended += 1;
            entry.outcome = Some((at, outcome));
        }
    }

    /// The program looks at a call so much later than it could.
    pub fn looked_at_late(&self, call: CallId, by: Duration) {
        if let Some(entry) = self.lock().get_mut(call as usize - 1) {
            entry.deadline = entry.deadline.map(|deadline| deadline.after(by));
            entry.is_late = true;
        }
    }

    /// Nobody waits for a call any more.
    pub fn left(&self, call: CallId) {
        if let Some(entry) = self.lock().get_mut(call as usize - 1) {
            entry.left = true;
        }
    }

    /// Whether a call was made on a model.
    pub fn is_of_model(&self, call: CallId) -> bool {
        let entries = self.lock();
        let entry = entries.get(call as usize - 1);
        entry.is_some_and(|entry| entry.model.is_some())
    }

    /// All calls, each with its number.
    pub fn entries(&self) -> Vec<(CallId, Entry)> {
        (1..).zip(self.lock().iter().cloned()).collect()
    }

    /// Calls that nobody has heard of again.
    pub fn open(&self) -> Vec<(CallId, Entry)> {
        let mut entries = self.entries();
        entries.retain(|(_, entry)| entry.outcome.is_none() && !entry.left);
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
