//! Runs many seeds in parallel on all cores. Each run uses one thread.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::control::Control;
use crate::coverage::Coverage;
use crate::plan::{Plan, PlanOptions};
use crate::simulation::{self, RunReport, Totals};
use crate::trace::KeptLines;

/// The combined results of the simulation runs of many seeds.
#[derive(Debug, Default)]
pub struct SeedResults {
    /// The number of seeds whose runs have ended.
    pub seeds: u64,
    /// The numbers of calls and requests in all runs.
    pub totals: Totals,
    /// The injected faults, the uses of call handles (the futures of results) and the errors in all
    /// runs.
    pub coverage: Coverage,
    /// The failing run with the smallest seed, if any run failed.
    pub failure: Option<SeedFailure>,
}

/// A seed whose run has violated an invariant.
#[derive(Debug)]
pub struct SeedFailure {
    /// The seed.
    pub seed: u64,
    /// The report of the failing run.
    pub report: RunReport,
}

/// Runs the simulation for the seeds from 0 up to, but not including, `seeds`. Starts no further
/// runs after a run with a violation.
pub fn run(seeds: u64, options: &PlanOptions, control: Option<Control>) -> SeedResults {
    let next_seed = AtomicU64::new(0);
    let results = Mutex::new(SeedResults::default());
    let work = || {
        loop {
            let seed = next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let report = simulation::run(&Plan::new(seed, options), control, KeptLines::Last);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.add(seed, report);
            if results.failure.is_some() {
                // The other threads finish their runs, because a smaller seed may fail, too.
                next_seed.store(seeds, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl SeedResults {
    fn add(&mut self, seed: u64, report: RunReport) {
        self.seeds += 1;
        self.totals.add(&report.totals);
        self.coverage.add(&report.coverage);
        let failure = self.failure.as_ref();
        let is_first = failure.is_none_or(|failure| seed < failure.seed);
        if !report.violations.is_empty() && is_first {
            self.failure = Some(SeedFailure { seed, report });
        }
    }
}
