//! The thread pools for forward and backward passes.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// The thread pools of an engine: one single-threaded pool for each microbatch that runs at the same time, and one pool of all
/// threads for other work.
///
/// A microbatch fits into the cache of a core and is computed by a single thread. This avoids synchronisation between matrix
/// products, and makes the result independent of the number of cores.
#[derive(Debug)]
pub struct Threads {
    single: Vec<ThreadPool>,
    all: ThreadPool,
}

impl Threads {
    /// Creates the pools with `count` threads, or one per core if `count` is 0.
    ///
    /// # Errors
    /// Returns [`Error::Panicked`] if threads cannot be started.
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
                .map_err(|e| Error::Panicked(format!("cannot start threads: {e}")))
        };
        Ok(Self {
            single: (0..count).map(|_| pool(1)).collect::<Result<_>>()?,
            all: pool(count)?,
        })
    }

    /// Runs `job` on the pool of all threads. The matrix products of `job` are divided among these threads.
    pub(crate) fn run<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        self.all.install(job)
    }

    /// Computes `job(0..count)` on all threads, and passes the results to `consume` in order.
    ///
    /// At most [`RESULTS_PER_THREAD`] results per thread exist at a time. The first error in the order of the jobs stops the work
    /// and is returned. A panic in a job or in `consume` is propagated to the caller.
    pub(crate) fn map<R: Send>(
        &self,
        count: usize,
        job: impl Fn(usize) -> Result<R> + Sync,
        mut consume: impl FnMut(usize, R) -> Result<()> + Send,
    ) -> Result<()> {
        if count == 1 {
            let only = self.run(|| job(0))?;
            return consume(0, only);
        }
        let workers = self.single.len().min(count);
        let pipeline = OrderedPipeline::new(count, workers * RESULTS_PER_THREAD, consume);
        std::thread::scope(|scope| {
            let work = || pipeline.run_worker(&job);
            let workers: Vec<_> = self
                .single
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
        pipeline.into_result()
    }
}

/// The maximum number of unconsumed results per thread, including the result that is being computed.
const RESULTS_PER_THREAD: usize = 2;

/// A queue of jobs for several threads. The results of the jobs are consumed in job order.
struct OrderedPipeline<R, T> {
    count: usize,
    /// The maximum number of jobs that have started but whose results have not been consumed.
    max_ahead: usize,
    state: Mutex<PipelineState<R, T>>,
    progressed: Condvar,
}

struct PipelineState<R, T> {
    /// The index of the next job to start.
    next: usize,
    /// The index of the job whose result is consumed next.
    next_due: usize,
    finished: BTreeMap<usize, Result<R>>,
    consume: T,
    /// Whether an error or a panic has stopped the work, so that no further job starts.
    stopped: bool,
    failure: Option<Error>,
}

impl<R: Send, T: FnMut(usize, R) -> Result<()> + Send> OrderedPipeline<R, T> {
    fn new(count: usize, max_ahead: usize, consume: T) -> Self {
        let state = PipelineState {
            next: 0,
            next_due: 0,
            finished: BTreeMap::new(),
            consume,
            stopped: false,
            failure: None,
        };
        Self {
            count,
            max_ahead,
            state: Mutex::new(state),
            progressed: Condvar::new(),
        }
    }

    /// Runs jobs on the current thread until none are left.
    fn run_worker(&self, job: &(impl Fn(usize) -> Result<R> + Sync)) {
        let mut unwinding = StopOnUnwind {
            pipeline: self,
            armed: true,
        };
        while let Some(index) = self.next_job() {
            let result = job(index);
            self.complete(index, result);
        }
        unwinding.armed = false;
    }

    /// Waits until another job may start, and returns the index of this job. Returns `None` if there are no more jobs. The wait
    /// always ends, because the job whose result is consumed next has already started.
    fn next_job(&self) -> Option<usize> {
        let state = lock(&self.state);
        let state = self.progressed.wait_while(state, |state| {
            !state.stopped
                && state.next < self.count
                && state.next >= state.next_due + self.max_ahead
        });
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn complete(&self, index: usize, result: Result<R>) {
        let mut state = lock(&self.state);
        if result.is_err() {
            // No more jobs start. Running jobs may still fail; the error of the job with the lowest index is returned.
            state.next = self.count;
        }
        state.finished.insert(index, result);
        state.consume_due();
        drop(state);
        self.progressed.notify_all();
    }

    fn into_result(self) -> Result<()> {
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(()), Err)
    }
}

impl<R, T: FnMut(usize, R) -> Result<()>> PipelineState<R, T> {
    fn consume_due(&mut self) {
        while let Some(result) = self.finished.remove(&self.next_due) {
            if self.failure.is_none() {
                let consumed = result.and_then(|result| (self.consume)(self.next_due, result));
                self.failure = consumed.err();
                self.stopped |= self.failure.is_some();
            }
            self.next_due += 1;
        }
    }
}

/// A guard that stops the other threads when a job panics. Without it, they would wait forever for the result of this job.
struct StopOnUnwind<'a, R, T> {
    pipeline: &'a OrderedPipeline<R, T>,
    armed: bool,
}

impl<R, T> Drop for StopOnUnwind<'_, R, T> {
    fn drop(&mut self) {
        if self.armed {
            lock(&self.pipeline.state).stopped = true;
            self.pipeline.progressed.notify_all();
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
    fn results_of_parallel_jobs_are_consumed_in_job_order() {
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
    fn error_of_a_parallel_job_is_returned() {
        let threads = Threads::new(2).unwrap();
        let job = |i| {
            if i == 3 { Err(Error::Closed) } else { Ok(i) }
        };
        let result = threads.map(50, job, |_, _| Ok(()));
        assert!(matches!(result, Err(Error::Closed)));
    }

    #[test]
    fn number_of_unconsumed_parallel_results_is_bounded() {
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let threads = Threads::new(3).unwrap();
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // The first job blocks until the maximum number of results exists.
        let job = |index| {
            let now = alive.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            while index == 0 && alive.load(Ordering::SeqCst) < 3 * RESULTS_PER_THREAD {
                std::thread::yield_now();
            }
            Ok(Counted(&alive))
        };
        threads.map(200, job, |_, _| Ok(())).unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3 * RESULTS_PER_THREAD);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn panic_in_a_parallel_job_or_result_consumer_is_propagated() {
        let threads = Threads::new(3).unwrap();
        for in_consumer in [false, true] {
            let panics = |at: usize, here: bool| assert!(at != 7 || !here, "on purpose");
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let job = |index| {
                    panics(index, !in_consumer);
                    Ok(index)
                };
                threads.map(100, job, |index, _| {
                    panics(index, in_consumer);
                    Ok(())
                })
            }));
            assert!(outcome.is_err());
        }
    }

    #[test]
    fn error_of_the_result_consumer_is_returned() {
        let threads = Threads::new(2).unwrap();
        let mut consumed = 0;
        let consume = |index, ()| {
            consumed += 1;
            if index == 4 {
                Err(Error::Closed)
            } else {
                Ok(())
            }
        };
        let result = threads.map(50, |_| Ok(()), consume);
        assert!(matches!(result, Err(Error::Closed)));
        assert_eq!(consumed, 5);
    }
}
