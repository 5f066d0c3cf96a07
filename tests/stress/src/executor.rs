//! A deterministic executor that polls one task at a time. Its manual clock advances when no task
//! is ready.
//!
//! A run is stuck if no task is ready and none waits for the clock. So the executor detects every
//! lost wake-up and every lost permit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tinkers_core::{BoxFuture, Jitter, ManualClock, SplitMix};

use crate::tasks::Finished;

/// A task of the deterministic executor, which polls one task at a time in an order that depends
/// only on a seed.
pub struct Task {
    work: BoxFuture<'static, ()>,
    abort_at: Option<usize>,
    woken: Arc<Woken>,
}

impl Task {
    /// Creates a task. The task is aborted when the progress of the run (the number of waiters that
    /// have started to work) reaches `abort_at`.
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

/// The maximum number of steps (polls of a task, or advances of the clock) of a run. The executor
/// then stops. All runs of this package need fewer steps.
const MOST_STEPS: u64 = 1_000_000;

/// Runs the tasks until all of them have ended or none can make progress. Returns the numbers of
/// tasks that finished, were aborted, panicked or got stuck. `progress` returns the progress of the
/// run (the number of waiters that have started to work), which determines when tasks are aborted.
pub fn run(
    mut tasks: Vec<Task>,
    clock: &ManualClock,
    chance: &SplitMix,
    progress: impl Fn() -> usize,
) -> Finished {
    let mut finished = Finished::default();
    for _ in 0..MOST_STEPS {
        let (before, now) = (tasks.len(), progress());
        // A task is aborted at once or a few steps later, so that the aborts hit all await points.
        tasks.retain(|task| !task.is_due(now) || !chance.bits().is_multiple_of(4));
        finished.aborted += (before - tasks.len()) as u64;
        let is_woken = |at: &usize| tasks[*at].woken.0.load(Ordering::SeqCst);
        let woken: Vec<usize> = (0..tasks.len()).filter(is_woken).collect();
        if woken.is_empty() {
            if tasks.iter().any(|task| task.is_due(now)) {
                continue;
            }
            if tasks.is_empty() || clock.advance_to_next().is_none() {
                break;
            }
            continue;
        }
        let at = woken[(chance.bits() % woken.len() as u64) as usize];
        let task = &mut tasks[at];
        task.woken.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&task.woken));
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| task.work.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => continue,
            Ok(Poll::Ready(())) => finished.done += 1,
            Err(_) => finished.panicked += 1,
        }
        drop(tasks.swap_remove(at));
    }
    finished.stuck = tasks.len() as u64;
    finished
}
