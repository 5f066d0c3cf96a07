//! What happened, as lines and as one hash.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers_core::{Clock, ManualClock};

/// How many of the last lines are kept when not all are.
const KEPT: usize = 60;

/// The trace of one run. Clones are the same trace.
#[derive(Debug, Clone)]
pub struct Trace {
    clock: ManualClock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    hash: u64,
    count: u64,
    lines: VecDeque<String>,
    keeps_all: bool,
    /// So many lines more, and none after them: what led to the first broken promise is worth more than the end.
    left: Option<usize>,
}

impl Trace {
    /// An empty trace on `clock`, which keeps all of its lines or the last few.
    pub fn new(clock: ManualClock, keep: Keep) -> Self {
        Self {
            clock,
            state: Arc::new(Mutex::new(State {
                hash: Hash::START,
                count: 0,
                lines: VecDeque::new(),
                keeps_all: keep == Keep::All,
                left: None,
            })),
        }
    }

    /// Writes a line.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!(
            "{:>14.6} {what}",
            self.clock.now().since_origin().as_secs_f64()
        );
        let mut state = self.lock();
        state.hash = Hash::of(state.hash, line.as_bytes());
        state.count += 1;
        if state.keeps_all {
            state.lines.push_back(line);
            return;
        }
        match state.left {
            Some(0) => return,
            Some(left) => state.left = Some(left - 1),
            None if state.lines.len() == KEPT => {
                state.lines.pop_front();
            }
            None => {}
        }
        state.lines.push_back(line);
    }

    /// A promise was broken: what led there is kept.
    pub fn mark(&self) {
        self.lock().left.get_or_insert(3);
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// How many lines there were.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// The lines that were kept.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of a trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every line.
    All,
    /// The last lines.
    Last,
}

/// FNV-1a, which is the same everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Hash;

impl Hash {
    /// The hash of nothing.
    pub const START: u64 = 0xcbf2_9ce4_8422_2325;

    /// `hash` with `bytes` behind.
    pub fn of(hash: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(hash, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}
