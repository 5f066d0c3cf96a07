//! Many seeds, on all cores, each on one thread.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::control::Control;
use crate::cover::Cover;
use crate::plan::{Cut, Plan};
use crate::trace::Keep;
use crate::world::{self, Ran, Size};

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Results {
    /// How many were run.
    pub seeds: u64,
    /// How much there was of them.
    pub size: Size,
    /// What met what.
    pub cover: Cover,
    /// The first that broke a promise.
    pub failure: Option<Failure>,
}

/// A seed that breaks a promise.
#[derive(Debug)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// Its run.
    pub ran: Ran,
}

/// Runs the seeds from 0 on, and stops soon after one breaks a promise.
pub fn run(seeds: u64, cut: &Cut, control: Option<Control>) -> Results {
    let next = AtomicU64::new(0);
    let results = Mutex::new(Results::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let ran = world::run(&Plan::new(seed, cut), control, Keep::Last);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.take(seed, ran);
            if results.failure.is_some() {
                // Those under way are run to their end; an earlier one may break something too.
                next.store(seeds, Ordering::Relaxed);
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

impl Results {
    fn take(&mut self, seed: u64, ran: Ran) {
        self.seeds += 1;
        self.size.calls += ran.size.calls;
        self.size.ok += ran.size.ok;
        self.size.failed += ran.size.failed;
        self.size.left += ran.size.left;
        self.size.requests += ran.size.requests;
        self.size.models += ran.size.models;
        self.size.time += ran.size.time;
        self.cover.add(&ran.cover);
        let is_first = self.failure.as_ref().is_none_or(|first| seed < first.seed);
        if !ran.violations.is_empty() && is_first {
            self.failure = Some(Failure { seed, ran });
        }
    }
}
