//! The calls of the simulated programs and their outcomes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::{Error, ErrorKind, Sent};
use tinkers_core::{Phase, Timestamp};

use crate::plan::CallKind;

/// The number of a call, starting at 1.
pub type CallId = u32;

/// The calls of a run, in the order in which they were made. Clones share the log.
#[derive(Debug, Clone, Default)]
pub struct CallLog(Arc<Mutex<Vec<CallRecord>>>);

/// A call and its outcome.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// The index of the client that made the call.
    pub client: usize,
    /// The called method.
    pub kind: CallKind,
    /// The model on which the method was called.
    pub model: Option<String>,
    /// The call whose checkpoint is loaded.
    pub loaded_save: Option<CallId>,
    /// The time of the call.
    pub called_at: Timestamp,
    /// The latest time at which the call may complete.
    pub deadline: Option<Timestamp>,
    /// The time of completion and the outcome.
    pub outcome: Option<(Timestamp, CallOutcome)>,
    /// The number of times that the call completed.
    pub completions: u32,
    /// Whether the program has stopped waiting for the call.
    pub is_abandoned: bool,
    /// Whether the program awaited the handle late, so that the time of completion is unknown.
    pub is_awaited_late: bool,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// The call succeeded with its own result.
    Ok,
    /// The call succeeded with the result of another call.
    WrongResult(String),
    /// The call failed.
    Failed {
        /// The kind of the error.
        kind: ErrorKind,
        /// Whether the request was sent.
        sent: Sent,
        /// The phase in which the call stalled.
        stalled_in: Option<Phase>,
        /// The text of the error.
        text: String,
    },
}

impl CallOutcome {
    /// Creates the outcome of a failed call.
    pub fn failed(error: &Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            sent: error.sent(),
            stalled_in: error.stalled().map(|stalled| stalled.phase),
            text: error.to_string(),
        }
    }
}

impl CallLog {
    /// Adds a call and returns its number.
    pub fn add(&self, record: CallRecord) -> CallId {
        let mut records = self.lock();
        records.push(record);
        records.len() as CallId
    }

    /// Records the outcome of a call.
    pub fn complete(&self, call: CallId, at: Timestamp, outcome: CallOutcome) {
        self.update(call, |record| {
            record.completions += 1;
            record.outcome = Some((at, outcome));
        });
    }

    /// Records that the program awaits the handle of a call only after `pause`, and extends the call's deadline accordingly.
    pub fn await_late(&self, call: CallId, pause: Duration) {
        self.update(call, |record| {
            record.deadline = record.deadline.map(|deadline| deadline.after(pause));
            record.is_awaited_late = true;
        });
    }

    /// Records that the program does not wait for a call any longer.
    pub fn abandon(&self, call: CallId) {
        self.update(call, |record| record.is_abandoned = true);
    }

    /// Returns whether a call was made on a model.
    pub fn is_on_model(&self, call: CallId) -> bool {
        let records = self.lock();
        let record = records.get(call as usize - 1);
        record.is_some_and(|record| record.model.is_some())
    }

    /// Returns all calls with their numbers.
    pub fn all(&self) -> Vec<(CallId, CallRecord)> {
        (1..).zip(self.lock().iter().cloned()).collect()
    }

    /// Returns the calls that have not completed and were not abandoned.
    pub fn pending(&self) -> Vec<(CallId, CallRecord)> {
        let mut records = self.all();
        records.retain(|(_, record)| record.outcome.is_none() && !record.is_abandoned);
        records
    }

    fn update(&self, call: CallId, change: impl FnOnce(&mut CallRecord)) {
        if let Some(record) = self.lock().get_mut(call as usize - 1) {
            change(record);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<CallRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
