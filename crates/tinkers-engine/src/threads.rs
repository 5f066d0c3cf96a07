//! The threads that a pass is computed on.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Pools of one thread each for work that splits, and a wide one for work that does not.
///
/// A microbatch is small enough to live in one core's cache and is computed by one thread alone: no thread waits for
/// another between two products, and what comes out depends on the data, never on the number of cores.
#[derive(Debug)]
pub struct Threads {
    narrow: Vec<ThreadPool>,
    wide: ThreadPool,
}

impl Threads {
    /// Pools over `count` threads (all cores for 0).
    ///
    /// # Errors
    /// [`Error::Panicked`] where the system gives no thread.
    pub fn new(count: usize) -> Result<Self> {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = |threads: usize| {
            ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|index| format!("tinkers-engine-{index}"))
                .build()
                .map_err(|e| Error::Panicked(format!("no threads: {e}")))
        };
        Ok(Self {
            narrow: (0..count).map(|_| pool(1)).collect::<Result<_>>()?,
            wide: pool(count)?,
        })
    }

    /// Runs `job` with every thread at the disposal of its matrix products.
    pub(crate) fn run<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        self.wide.install(job)
    }

    /// Computes `job(0..count)` on all threads and gives the results to `take` in order, each as soon as those before it were
    /// taken: at most [`AHEAD`] results for each thread exist at once, however many there are in all.
    ///
    /// The first error ends the work; a panic in a job reaches the caller as a panic.
    pub(crate) fn map<R: Send>(
        &self,
        count: usize,
        job: impl Fn(usize) -> Result<R> + Sync,
        mut take: impl FnMut(usize, R) -> Result<()> + Send,
    ) -> Result<()> {
        if count == 1 {
            let only = self.run(|| job(0))?;
            return take(0, only);
        }
        let workers = self.narrow.len().min(count);
        let line = Line::new(count, workers * AHEAD, take);
        std::thread::scope(|scope| {
            let work = || line.work(&job);
            let workers: Vec<_> = self
                .narrow
                .iter()
                .take(workers)
                .map(|pool| scope.spawn(move || pool.install(work)))
                .collect();
            for worker in workers {
                if let Err(panic) = worker.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        line.end()
    }
}

/// Results for each thread that may wait for their turn to be taken, the one being computed among them.
const AHEAD: usize = 2;

/// Jobs that several threads do and whose results are taken in order.
struct Line<R, T> {
    count: usize,
    /// How far a job may be ahead of the next result to be taken.
    ahead: usize,
    state: Mutex<LineState<R, T>>,
    moved: Condvar,
}

struct LineState<R, T> {
    /// The next job to be done.
    next: usize,
    /// The next result to be taken.
    due: usize,
    waiting: BTreeMap<usize, Result<R>>,
    take: T,
    /// Set by what ends the work early.
    stopped: bool,
    failure: Option<Error>,
}

impl<R: Send, T: FnMut(usize, R) -> Result<()> + Send> Line<R, T> {
    fn new(count: usize, ahead: usize, take: T) -> Self {
        let state = LineState {
            next: 0,
            due: 0,
            waiting: BTreeMap::new(),
            take,
            stopped: false,
            failure: None,
        };
        Self {
            count,
            ahead,
            state: Mutex::new(state),
            moved: Condvar::new(),
        }
    }

    /// One thread's share: jobs until there are no more.
    fn work(&self, job: &(impl Fn(usize) -> Result<R> + Sync)) {
        let mut unwinding = StopOnUnwind {
            line: self,
            armed: true,
        };
        while let Some(index) = self.begin() {
            let result = job(index);
            self.finish(index, result);
        }
        unwinding.armed = false;
    }

    /// The next job, once it is not too far ahead. The one that is due has always begun, so the wait ends.
    fn begin(&self) -> Option<usize> {
        let state = lock(&self.state);
        let state = self.moved.wait_while(state, |state| {
            !state.stopped && state.next < self.count && state.next >= state.due + self.ahead
        });
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn finish(&self, index: usize, result: Result<R>) {
        let mut state = lock(&self.state);
        if result.is_err() {
            // No more are begun; those before it, which have begun, may have an error of their own, and theirs comes first.
            state.next = self.count;
        }
        state.waiting.insert(index, result);
        state.take_due();
        drop(state);
        self.moved.notify_all();
    }

    fn end(self) -> Result<()> {
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(()), Err)
    }
}

impl<R, T: FnMut(usize, R) -> Result<()>> LineState<R, T> {
    fn take_due(&mut self) {
        while let Some(result) = self.waiting.remove(&self.due) {
            if self.failure.is_none() {
                let taken = result.and_then(|result| (self.take)(self.due, result));
                self.failure = taken.err();
                self.stopped |= self.failure.is_some();
            }
            self.due += 1;
        }
    }
}

/// Sends the other threads home when a job panics: what they wait for would never come.
struct StopOnUnwind<'a, R, T> {
    line: &'a Line<R, T>,
    armed: bool,
}

impl<R, T> Drop for StopOnUnwind<'_, R, T> {
    fn drop(&mut self) {
        if self.armed {
            lock(&self.line.state).stopped = true;
            self.line.moved.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_whatever_thread_made_them() {
        let threads = Threads::new(3).unwrap();
        let mut got = Vec::new();
        threads
            .map(
                20,
                |i| Ok(i * i),
                |i, r| {
                    got.push((i, r));
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(got, (0..20).map(|i| (i, i * i)).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_one_job_is_the_error_of_all() {
        let threads = Threads::new(2).unwrap();
        let job = |i| {
            if i == 3 { Err(Error::Closed) } else { Ok(i) }
        };
        let result = threads.map(50, job, |_, _| Ok(()));
        assert!(matches!(result, Err(Error::Closed)));
    }

    #[test]
    fn few_results_exist_at_once_however_many_there_are() {
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let threads = Threads::new(3).unwrap();
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // The first result is held back until the others have gone as far as they may.
        let job = |index| {
            let now = alive.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            while index == 0 && alive.load(Ordering::SeqCst) < 3 * AHEAD {
                std::thread::yield_now();
            }
            Ok(Counted(&alive))
        };
        threads.map(200, job, |_, _| Ok(())).unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3 * AHEAD);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_panic_in_a_job_or_in_the_taking_ends_the_work_and_is_told() {
        let threads = Threads::new(3).unwrap();
        for taking in [false, true] {
            let panics = |at: usize, here: bool| assert!(at != 7 || !here, "on purpose");
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let job = |index| {
                    panics(index, !taking);
                    Ok(index)
                };
                threads.map(100, job, |index, _| {
                    panics(index, taking);
                    Ok(())
                })
            }));
            assert!(outcome.is_err());
        }
    }

    #[test]
    fn an_error_in_the_taking_is_the_error_of_all() {
        let threads = Threads::new(2).unwrap();
        let mut taken = 0;
        let take = |index, ()| {
            taken += 1;
            if index == 4 {
                Err(Error::Closed)
            } else {
                Ok(())
            }
        };
        let result = threads.map(50, |_| Ok(()), take);
        assert!(matches!(result, Err(Error::Closed)));
        assert_eq!(taken, 5);
    }
}
