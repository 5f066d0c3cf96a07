//! The trace of a run, which consists of lines with timestamps and a hash of these lines.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers_core::{Clock, ManualClock};

/// The number of most recent lines of the trace that are stored with [`KeptLines::Last`].
const LAST_LINES: usize = 60;
/// The number of lines after the first violation that are stored with [`KeptLines::Last`].
const LINES_AFTER_VIOLATION: usize = 3;

/// The trace of a simulation run: a text line for each event, with its virtual time. Clones share
/// their lines.
#[derive(Debug, Clone)]
pub struct Trace {
    clock: ManualClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    hash: u64,
    lines: VecDeque<String>,
    kept: KeptLines,
    /// The number of further lines to store after the first violation. `None` before the first
    /// violation. The lines around it are stored, because they are more useful than the last lines
    /// of the run.
    remaining: Option<usize>,
}

impl Trace {
    /// Creates an empty trace whose timestamps are read from `clock`.
    pub fn new(clock: ManualClock, kept: KeptLines) -> Self {
        Self {
            clock,
            state: Arc::new(Mutex::new(State {
                hash: Fnv1a::EMPTY,
                lines: VecDeque::new(),
                kept,
                remaining: None,
            })),
        }
    }

    /// Appends a line with the current time.
    pub fn push(&self, text: fmt::Arguments<'_>) {
        let line = format!(
            "{:>14.6} {text}",
            self.clock.now().since_origin().as_secs_f64()
        );
        let mut state = self.lock();
        state.hash = Fnv1a::extend(state.hash, line.as_bytes());
        if state.kept == KeptLines::All {
            state.lines.push_back(line);
            return;
        }
        match state.remaining {
            Some(0) => return,
            Some(remaining) => state.remaining = Some(remaining - 1),
            None if state.lines.len() == LAST_LINES => {
                state.lines.pop_front();
            }
            None => {}
        }
        state.lines.push_back(line);
    }

    /// Records that a violation has occurred, so that the lines before the violation are not
    /// discarded.
    pub fn mark_violation(&self) {
        self.lock().remaining.get_or_insert(LINES_AFTER_VIOLATION);
    }

    /// Returns the hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// Returns the stored lines.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The selection of the lines that a trace stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptLines {
    /// Stores all lines.
    All,
    /// Stores the last lines of the run, or the lines around the first violation if there is one.
    Last,
}

/// The hash function FNV-1a, which does not depend on the platform.
#[derive(Debug, Clone, Copy)]
pub struct Fnv1a;

impl Fnv1a {
    /// The hash of an empty text.
    pub const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

    /// Returns the hash of a text that is continued by `bytes`. `hash` is the hash of the text
    /// before `bytes`.
    pub fn extend(hash: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(hash, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}
