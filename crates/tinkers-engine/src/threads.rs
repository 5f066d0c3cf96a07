//! The threads that a pass is computed on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// Computes `job(0..count)` on all threads and gives the results to `take` in order.
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
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<R>>>> = Mutex::new((0..count).map(|_| None).collect());
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                let result = job(index);
                if result.is_err() {
                    next.store(count, Ordering::Relaxed);
                }
                lock(&results)[index] = Some(result);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .narrow
                .iter()
                .take(count)
                .map(|pool| scope.spawn(|| pool.install(work)))
                .collect();
            for worker in workers {
                if let Err(panic) = worker.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        let results = results.into_inner().unwrap_or_else(|e| e.into_inner());
        for (index, result) in results.into_iter().enumerate() {
            // After an error later places may be empty; the error itself comes first or in their stead.
            match result {
                Some(result) => take(index, result?)?,
                None => continue,
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
