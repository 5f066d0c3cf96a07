//! Many threads that take and give back the same few keys, counted exactly; a seed gives every thread its steps again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Barrier};

use crate::probe::{Ledger, Seen};
use crate::subject::{Refused, Subject};

/// How much churn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Churn {
    pub(crate) threads: usize,
    pub(crate) keys: usize,
    /// Steps of each thread.
    pub(crate) steps: u64,
    /// What the steps are derived from. How the threads interleave is up to the machine.
    pub(crate) seed: u64,
}

/// What a run did, in numbers that must agree with each other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Calls that asked for a key with a builder.
    pub(crate) asked: u64,
    /// Handles that these gave.
    pub(crate) given: u64,
    /// Builders that ran: those that gave a value, an error and a panic.
    pub(crate) built: u64,
    pub(crate) refused: u64,
    pub(crate) panicked: u64,
    /// Errors and panics that came out of the calls.
    pub(crate) refusals_seen: u64,
    pub(crate) panics_seen: u64,
    /// Look-ups of a key while it was held, and those that found it.
    pub(crate) looked_up: u64,
    pub(crate) found: u64,
    /// How often threads met in the registry.
    pub(crate) collisions: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} asked, {} given, {} built, {} refused, {} panicked, {} looked up, {} collisions",
            self.asked,
            self.given,
            self.built,
            self.refused,
            self.panicked,
            self.looked_up,
            self.collisions
        )
    }
}

/// Why a run is no proof.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The threads never met, so nothing was tried.
    Inconclusive { seed: u64, counts: Counts },
    /// What was found wrong.
    Faults { seed: u64, faults: Vec<String> },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inconclusive { seed, counts } => {
                write!(
                    f,
                    "inconclusive, the threads never met: {counts} (seed {seed})"
                )
            }
            Self::Faults { seed, faults } => write!(f, "{} (seed {seed})", faults.join("; ")),
        }
    }
}

impl Churn {
    /// Runs it on a registry of its own.
    pub(crate) fn run<S: Subject>(self) -> Result<Counts, Verdict> {
        let subject = S::default();
        let ledger = Ledger::new();
        let start = Barrier::new(self.threads);
        let mut counts = Counts::default();
        std::thread::scope(|scope| {
            let worker = |thread| {
                let worker = Worker {
                    subject: &subject,
                    ledger: &ledger,
                    churn: self,
                    random: Random::of(self.seed, thread as u64),
                    shares: Vec::new(),
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
        counts.collisions = subject.collisions();
        self.judge(counts, &ledger.seen(), subject.len())
    }

    fn judge(self, counts: Counts, seen: &Seen, left: usize) -> Result<Counts, Verdict> {
        let mut faults = seen.faults();
        let mut equal = |what: &str, is: u64, should: u64| {
            if is != should {
                faults.push(format!("{what}: {is}, expected {should}"));
            }
        };
        equal("entries left", left as u64, 0);
        equal("values built", seen.built, counts.built);
        equal("errors seen", counts.refusals_seen, counts.refused);
        equal("panics seen", counts.panics_seen, counts.panicked);
        equal(
            "handles given",
            counts.given,
            counts.asked - counts.refused - counts.panicked,
        );
        equal("held keys found", counts.found, counts.looked_up);
        let Self { seed, .. } = self;
        if !faults.is_empty() {
            return Err(Verdict::Faults { seed, faults });
        }
        // Every key was built more than once, or none ever went.
        if counts.collisions == 0 || counts.built <= self.keys as u64 {
            return Err(Verdict::Inconclusive { seed, counts });
        }
        Ok(counts)
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.given += other.given;
        self.built += other.built;
        self.refused += other.refused;
        self.panicked += other.panicked;
        self.refusals_seen += other.refusals_seen;
        self.panics_seen += other.panics_seen;
        self.looked_up += other.looked_up;
        self.found += other.found;
    }
}

/// One thread and what it holds.
struct Worker<'a, S: Subject> {
    subject: &'a S,
    ledger: &'a Arc<Ledger>,
    churn: Churn,
    random: Random,
    shares: Vec<S::Share>,
    counts: Counts,
}

impl<S: Subject> Worker<'_, S> {
    fn work(mut self) -> Counts {
        for _ in 0..self.churn.steps {
            match self.random.below(16) {
                // All is given back far more often than something is taken, so that keys lose their last holder all the time.
                0..=1 => self.ask(),
                2 => self.look_up(),
                3 => self.share(),
                _ => self.give_back(),
            }
        }
        self.give_back();
        self.counts
    }

    fn ask(&mut self) {
        let key = self.random.below(self.churn.keys as u64) as usize;
        let fate = self.random.below(16);
        self.counts.asked += 1;
        let (subject, ledger) = (self.subject, self.ledger);
        let mut made = Counts::default();
        let build = || {
            // Others may come while a value is built.
            std::thread::yield_now();
            match fate {
                0 => {
                    made.refused = 1;
                    Err(Refused)
                }
                1 => {
                    made.panicked = 1;
                    // Not a panic that prints: thousands of these are in order.
                    resume_unwind(Box::new(Refused))
                }
                _ => {
                    made.built = 1;
                    Ok(ledger.build(key))
                }
            }
        };
        match catch_unwind(AssertUnwindSafe(|| subject.try_get_or_create(key, build))) {
            Ok(Ok(share)) => {
                self.counts.given += 1;
                self.hold(share);
            }
            Ok(Err(Refused)) => self.counts.refusals_seen += 1,
            Err(panic) if panic.is::<Refused>() => self.counts.panics_seen += 1,
            Err(panic) => resume_unwind(panic),
        }
        self.counts.add(&made);
    }

    /// What is held must be found, and be the same.
    fn look_up(&mut self) {
        let Some(at) = self.any() else { return };
        self.counts.looked_up += 1;
        if let Some(share) = self.subject.get(self.shares[at].key) {
            self.counts.found += 1;
            self.hold(share);
        }
    }

    fn share(&mut self) {
        if let Some(at) = self.any() {
            let share = self.shares[at].clone();
            self.hold(share);
        }
    }

    fn hold(&mut self, share: S::Share) {
        self.ledger.enter(&share);
        self.shares.push(share);
    }

    fn give_back(&mut self) {
        while let Some(share) = self.shares.pop() {
            self.ledger.leave(&share);
        }
    }

    fn any(&mut self) -> Option<usize> {
        let held = self.shares.len() as u64;
        (held > 0).then(|| self.random.below(held) as usize)
    }
}

/// SplitMix64.
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
