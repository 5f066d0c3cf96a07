//! A log of the calls that the simulated programs make, and of their outcomes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers::{Error, ErrorKind, Sent};
use tinkers_core::{Phase, Timestamp};

use crate::plan::CallKind;

/// The number of a call of a simulated program. The first call of a run has the number 1.
pub type CallId = u32;

/// A log of the calls that the simulated programs make in a run, in the order in which they were
/// made. Clones share the log.
#[derive(Debug, Clone, Default)]
pub struct CallLog(Arc<Mutex<Vec<CallRecord>>>);

/// A call that a simulated program made, and the outcome of the call.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// The index of the client on which the call was made.
    pub client: usize,
    /// The called method.
    pub kind: CallKind,
    /// The id of the model on which the method was called. `None` if it was not called on a model.
    pub model: Option<String>,
    /// The call that saved the checkpoint which this call loads. `None` if this call loads no
    /// checkpoint.
    pub loaded_save: Option<CallId>,
    /// The time at which the call was made.
    pub called_at: Timestamp,
    /// The latest time at which the call may complete: its deadline plus an allowance for tasks
    /// that are polled late. `None` for a call without a deadline.
    pub deadline: Option<Timestamp>,
    /// The time at which the call completed, and its outcome. `None` while the call is pending.
    pub outcome: Option<(Timestamp, CallOutcome)>,
    /// The number of times that the call completed. A correct client completes each call at most
    /// once.
    pub completions: u32,
    /// Whether the program has stopped waiting for the call, so that its outcome stays unknown.
    pub is_abandoned: bool,
    /// Whether the program awaited the handle of the call (the future of its result) only after a
    /// pause. The time at which the call completed is then not known exactly.
    pub is_awaited_late: bool,
}

/// The outcome of a call, as the simulated program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// The call succeeded and returned its own result.
    Ok,
    /// The call succeeded but returned the result of another call. The text describes the
    /// difference between the expected and the returned result.
    WrongResult(String),
    /// The call failed with an error.
    Failed {
        /// The kind of the error.
        kind: ErrorKind,
        /// Whether the request of the call was sent to the server, according to the error.
        sent: Sent,
        /// The phase of the call at the time of the error, if the call failed because it had made
        /// no progress for too long. `None` for other errors.
        stalled_in: Option<Phase>,
        /// The text of the error.
        text: String,
    },
}

impl CallOutcome {
    /// Creates the outcome of a call that failed with `error`.
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
    /// Adds a call to the log and returns its number.
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

    /// Records that the program will pause for `pause` before it awaits the handle of a call (the
    /// future of its result). Extends the deadline of the call by this pause.
    pub fn await_late(&self, call: CallId, pause: Duration) {
        self.update(call, |record| {
            record.deadline = record.deadline.map(|deadline| deadline.after(pause));
            record.is_awaited_late = true;
        });
    }

    /// Records that the program no longer waits for a call, so that the call needs no outcome.
    pub fn abandon(&self, call: CallId) {
        self.update(call, |record| record.is_abandoned = true);
    }

    /// Returns whether the call was made on a model.
    pub fn is_on_model(&self, call: CallId) -> bool {
        let records = self.lock();
        let record = records.get(call as usize - 1);
        record.is_some_and(|record| record.model.is_some())
    }

    /// Returns all calls with their numbers.
    pub fn all(&self) -> Vec<(CallId, CallRecord)> {
        (1..).zip(self.lock().iter().cloned()).collect()
    }

    /// Returns the calls that have neither completed nor been abandoned, with their numbers.
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
