//! A random workload: many threads acquire and release the same few keys, with exact counts. A seed determines the operations of every
//! thread.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};

use crate::subject::{BuildError, Subject};
use crate::tracked::{Observations, Tracker};

/// The parameters of a run of the stress test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) threads: usize,
    pub(crate) keys: usize,
    /// The number of operations of each thread.
    pub(crate) operations: u64,
    /// The seed from which all operations are generated. The interleaving of the threads depends on the machine.
    pub(crate) seed: u64,
}

/// The numbers of calls, values and errors in a run of the stress test. They must be consistent with each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The number of calls that passed a build function to the registry.
    pub(crate) created: u64,
    /// The number of handles that the calls with a build function returned.
    pub(crate) handles: u64,
    /// The number of runs of a build function that returned a value.
    pub(crate) built: u64,
    /// The number of runs of a build function that returned an error.
    pub(crate) failed: u64,
    /// The number of runs of a build function that panicked.
    pub(crate) panicked: u64,
    /// The number of errors of build functions that were returned to callers.
    pub(crate) errors_seen: u64,
    /// The number of panics of build functions that reached callers.
    pub(crate) panics_seen: u64,
    /// The number of lookups of a key of which the thread held a handle.
    pub(crate) looked_up: u64,
    /// The number of lookups, of a key of which the thread held a handle, that found the value. It must equal `looked_up`.
    pub(crate) found: u64,
    /// How often concurrent calls of the registry affected each other.
    pub(crate) contention: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} created, {} handles, {} built, {} failed, {} panicked, {} looked up, {} contention",
            self.created,
            self.handles,
            self.built,
            self.failed,
            self.panicked,
            self.looked_up,
            self.contention
        )
    }
}

/// The reason why a run of the stress test failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RunError {
    /// Concurrent calls never affected each other, so the run has tested nothing.
    Inconclusive { seed: u64, counts: Counts },
    /// The run found faults of the registry.
    Faults { seed: u64, faults: Vec<String> },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inconclusive { seed, counts } => {
                write!(
                    f,
                    "inconclusive, there was no contention: {counts} (seed {seed})"
                )
            }
            Self::Faults { seed, faults } => write!(f, "{} (seed {seed})", faults.join("; ")),
        }
    }
}

impl Workload {
    /// Runs the workload on a new registry of type `S`, and checks the results.
    pub(crate) fn run<S: Subject>(self) -> Result<Counts, RunError> {
        let subject = S::default();
        let tracker = Tracker::new();
        let start = Barrier::new(self.threads);
        let mut counts = Counts::default();
        std::thread::scope(|scope| {
            let worker = |thread| {
                let worker = Worker {
                    subject: &subject,
                    tracker: &tracker,
                    workload: self,
                    random: Random::of(self.seed, thread as u64),
                    held: Vec::new(),
                    counts: Counts::default(),
                };
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    worker.work()
                })
            };
            let workers: Vec<_> = (0..self.threads).map(worker).collect();
            for worker in workers {
                counts.add(&worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
        });
        counts.contention = subject.contention();
        self.judge(counts, &tracker.observations(), subject.len())
    }

    fn judge(
        self,
        counts: Counts,
        observed: &Observations,
        left: usize,
    ) -> Result<Counts, RunError> {
        let mut faults = observed.faults();
        let mut equal = |what: &str, actual: u64, expected: u64| {
            if actual != expected {
                faults.push(format!("{what}: {actual}, expected {expected}"));
            }
        };
        equal("entries left", left as u64, 0);
        equal("values built", observed.built, counts.built);
        equal("errors returned", counts.errors_seen, counts.failed);
        equal("panics propagated", counts.panics_seen, counts.panicked);
        equal(
            "handles returned",
            counts.handles,
            counts.created - counts.failed - counts.panicked,
        );
        equal("held keys found", counts.found, counts.looked_up);
        let Self { seed, .. } = self;
        if !faults.is_empty() {
            return Err(RunError::Faults { seed, faults });
        }
        // No key was built twice, so no entry was ever removed.
        if counts.contention == 0 || counts.built <= self.keys as u64 {
            return Err(RunError::Inconclusive { seed, counts });
        }
        Ok(counts)
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.created += other.created;
        self.handles += other.handles;
        self.built += other.built;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.errors_seen += other.errors_seen;
        self.panics_seen += other.panics_seen;
        self.looked_up += other.looked_up;
        self.found += other.found;
    }
}

/// A thread of the workload, with the handles that it has acquired.
struct Worker<'a, S: Subject> {
    subject: &'a S,
    tracker: &'a Arc<Tracker>,
    workload: Workload,
    random: Random,
    held: Vec<S::Handle>,
    counts: Counts,
}

impl<S: Subject> Worker<'_, S> {
    fn work(mut self) -> Counts {
        for _ in 0..self.workload.operations {
            match self.random.below(16) {
                // Handles are released far more often than acquired, so that keys often lose their last handle.
                0..=1 => self.create(),
                2 => self.look_up(),
                3 => self.clone_one(),
                _ => self.release_all(),
            }
        }
        self.release_all();
        self.counts
    }

    fn create(&mut self) {
        let key = self.random.below(self.workload.keys as u64) as usize;
        let outcome = self.random.below(16);
        self.counts.created += 1;
        let (subject, tracker) = (self.subject, self.tracker);
        let mut builds = Counts::default();
        let build = || {
            // Other threads may request the key during the build.
            std::thread::yield_now();
            match outcome {
                0 => {
                    builds.failed = 1;
                    Err(BuildError)
                }
                1 => {
                    builds.panicked = 1;
                    // Unlike `panic!`, this prints nothing.
                    resume_unwind(Box::new(BuildError))
                }
                _ => {
                    builds.built = 1;
                    Ok(tracker.build(key))
                }
            }
        };
        match catch_unwind(AssertUnwindSafe(|| subject.try_get_or_create(key, build))) {
            Ok(Ok(handle)) => {
                self.counts.handles += 1;
                self.hold(handle);
            }
            Ok(Err(BuildError)) => self.counts.errors_seen += 1,
            Err(panic) if panic.is::<BuildError>() => self.counts.panics_seen += 1,
            Err(panic) => resume_unwind(panic),
        }
        self.counts.add(&builds);
    }

    /// Looks up a key of which this thread has a handle. The lookup must return the value of that handle.
    fn look_up(&mut self) {
        let Some(at) = self.random_held() else { return };
        self.counts.looked_up += 1;
        if let Some(handle) = self.subject.get(self.held[at].key) {
            self.counts.found += 1;
            self.hold(handle);
        }
    }

    fn clone_one(&mut self) {
        if let Some(at) = self.random_held() {
            let handle = self.held[at].clone();
            self.hold(handle);
        }
    }

    fn hold(&mut self, handle: S::Handle) {
        self.tracker.acquired(&handle);
        self.held.push(handle);
    }

    fn release_all(&mut self) {
        while let Some(handle) = self.held.pop() {
            self.tracker.releasing(&handle);
        }
    }

    fn random_held(&mut self) -> Option<usize> {
        let held = self.held.len() as u64;
        (held > 0).then(|| self.random.below(held) as usize)
    }
}

/// The SplitMix64 random number generator.
struct Random(u64);

impl Random {
    fn of(seed: u64, thread: u64) -> Self {
        let mut mixed = Self(seed ^ thread.wrapping_mul(0xA076_1D64_78BD_642F));
        Self(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
