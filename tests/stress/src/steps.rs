//! The same tasks without threads: one step after the other, on a clock that moves when nothing else can.
//!
//! When nobody was woken and nobody sleeps, nothing will ever happen again. So a hand-over that was forgotten is found at
//! once, and exactly.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tinkers_core::{BoxFuture, Jitter, ManualClock, SplitMix};

use crate::threads::Finished;

/// A task.
pub struct Piece {
    work: BoxFuture<'static, ()>,
    abort_at: Option<usize>,
    woken: Arc<Woken>,
}

impl Piece {
    /// To be ended when the progress of the run is `abort_at`.
    pub fn new(work: BoxFuture<'static, ()>, abort_at: Option<usize>) -> Self {
        Self {
            work,
            abort_at,
            woken: Arc::new(Woken(AtomicBool::new(true))),
        }
    }

    fn is_due(&self, progress: usize) -> bool {
        self.abort_at.is_some_and(|at| at <= progress)
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// No run of this package needs more.
const MOST_STEPS: u64 = 1_000_000;

/// Runs the pieces until all have ended or nothing happens any more.
pub fn run(
    mut pieces: Vec<Piece>,
    clock: &ManualClock,
    chance: &SplitMix,
    progress: impl Fn() -> usize,
) -> Finished {
    let mut finished = Finished::default();
    for _ in 0..MOST_STEPS {
        let (before, now) = (pieces.len(), progress());
        // Now or a few steps later, so that it meets each await.
        pieces.retain(|piece| !piece.is_due(now) || !chance.bits().is_multiple_of(4));
        finished.aborted += (before - pieces.len()) as u64;
        let is_woken = |at: &usize| pieces[*at].woken.0.load(Ordering::SeqCst);
        let woken: Vec<usize> = (0..pieces.len()).filter(is_woken).collect();
        if woken.is_empty() {
            if pieces.iter().any(|piece| piece.is_due(now)) {
                continue;
            }
            if pieces.is_empty() || clock.advance_to_next().is_none() {
                break;
            }
            continue;
        }
        let at = woken[(chance.bits() % woken.len() as u64) as usize];
        let piece = &mut pieces[at];
        piece.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&piece.woken));
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| piece.work.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => continue,
            Ok(Poll::Ready(())) => finished.done += 1,
            Err(_) => finished.panicked += 1,
        }
        drop(pieces.swap_remove(at));
    }
    finished.stuck = pieces.len() as u64;
    finished
}
