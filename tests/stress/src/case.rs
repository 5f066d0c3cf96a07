//! The stress cases, the sizes of their rounds, and the results of a round.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::check::{self, Violation};
use crate::limiter_subject::LimiterSubject;
use crate::log::Log;
use crate::pauses::{Scenario, SendCheck};
use crate::plan::{Plan, Shape, StartWhen};
use crate::registry_churn::Churn;
use crate::storm::{self, Storm};
use crate::tasks::Tasks;
use crate::waiters;

/// A stress test of the rate limiter. It runs in rounds, each with a different random seed.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The name of the case on the command line.
    pub name: &'static str,
    /// The description of the case in one line.
    pub about: &'static str,
    /// Runs one round of the given size with the given random seed, and returns the result.
    pub run: fn(Size, u64) -> Round,
}

/// The size of a round (one run of a stress test with one seed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A small round, for `cargo test`.
    Small,
    /// A full round, for runs from the command line.
    Full,
}

/// The result of one round of a stress case.
#[derive(Debug, Default)]
pub struct Round {
    /// The violations that the checks have found.
    pub violations: Vec<Violation>,
    /// The number of times that tasks contended for the limiter. A round without contention is
    /// inconclusive, because it tests nothing.
    pub contended: u64,
    /// The number of failed compare-exchanges in the limiter, plus the number of colliding look-ups
    /// in the registry of limiters. Both show that threads contended.
    pub lost: u64,
    /// The numbers that the round has counted, such as granted permits, with the names under which
    /// they are printed.
    pub figures: Vec<(&'static str, u64)>,
    /// The numbers that each part of the round has counted, with the names of the part and of the
    /// numbers. Empty if the stress case has no parts.
    pub groups: Vec<(String, Vec<(&'static str, u64)>)>,
}

/// The verdict on a round of a stress case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All checks passed.
    Passed,
    /// All checks passed, but tasks never contended for the limiter.
    Inconclusive,
    /// A check failed.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Inconclusive => "inconclusive",
            Self::Failed => "FAILED",
        })
    }
}

impl Round {
    /// Returns the verdict on this round: failed if there are violations, and inconclusive if tasks
    /// never contended for the limiter.
    pub fn verdict(&self) -> Verdict {
        match (self.violations.is_empty(), self.contended) {
            (false, _) => Verdict::Failed,
            (true, 0) => Verdict::Inconclusive,
            (true, _) => Verdict::Passed,
        }
    }
}

/// All stress cases, which the command line runs one after another.
pub const CASES: &[Case] = &[
    Case {
        name: "waiters",
        about: "10,000 waiters share a window of 10 permits; one in ten is aborted",
        run: waiters,
    },
    Case {
        name: "registry",
        about: "64 threads create, share and drop the limiters of 8 keys",
        run: registry,
    },
    Case {
        name: "storm",
        about: "a server with a varying window sends 429s with retry hints; some responses are lost",
        run: storm,
    },
    Case {
        name: "aborts",
        about: "tasks are aborted, dropped or panic at any await point",
        run: aborts,
    },
    Case {
        name: "clients",
        about: "a limiter admits the requests of 8 clients in turn",
        run: clients,
    },
    Case {
        name: "pauses",
        about: "1,000 calls over up to 256 connections, HTTP/1.1 and HTTP/2: no request is sent between a 429 and the end of its retry hint",
        run: pauses,
    },
];

fn waiters(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 4,
        per_client: size.of(100, 2_500),
        limit: 10,
        aborted: 10,
        forgotten: 0,
        panicking: 0,
        start_when: StartWhen::HalfQueued,
    };
    run_waiters(shape, seed)
}

fn aborts(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 4,
        per_client: size.of(100, 1_000),
        limit: 10,
        aborted: 30,
        forgotten: 10,
        panicking: 20,
        start_when: StartWhen::HalfQueued,
    };
    run_waiters(shape, seed)
}

fn clients(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 8,
        per_client: size.of(50, 500),
        limit: 10,
        aborted: 0,
        forgotten: 0,
        panicking: 0,
        start_when: StartWhen::AllQueued,
    };
    run_waiters(shape, seed)
}

fn pauses(size: Size, seed: u64) -> Round {
    let scenario = |is_http2, connections, streams, is_body_slow| Scenario {
        is_http2,
        connections,
        streams,
        is_body_slow,
        calls: size.of(100, 1_000),
        warm_up: size.of(200, 1_700),
    };
    let many = size.of(24, 256);
    let scenarios = [
        scenario(false, many, 1, false),
        scenario(false, 8, 1, true),
        scenario(true, many, 1, true),
        scenario(true, 4, size.of(2, 20), false),
    ];
    let mut round = Round {
        contended: u64::MAX,
        ..Round::default()
    };
    for scenario in &scenarios {
        let observed = scenario.run(SendCheck::Enabled, seed);
        round.violations.extend(observed.violations(scenario));
        round.contended = round.contended.min(observed.held);
        round
            .groups
            .push((scenario.to_string(), observed.figures()));
    }
    // Negative control: without the check before sending, some requests must arrive too early.
    for scenario in [&scenarios[0], &scenarios[2]] {
        let observed = scenario.run(SendCheck::Disabled, seed);
        round.contended = round.contended.min(observed.early);
        let name = format!("control without the check before sending: {scenario}");
        round.groups.push((name, observed.figures()));
    }
    round
}

fn run_waiters(shape: Shape, seed: u64) -> Round {
    let observed = waiters::on_threads::<LimiterSubject>(Plan::new(shape, seed), &Tasks::new());
    let counts = observed.counts.unwrap_or_default();
    Round {
        violations: check::waiters(&observed),
        contended: counts.waits,
        lost: counts.lost,
        figures: vec![
            ("granted", counts.grants),
            ("waited", counts.waits),
            (
                "granted after a wait",
                check::grants_after_wait(&observed, counts),
            ),
            ("wake-ups", counts.wakes),
            ("monitor wake-ups", counts.watches),
            ("polls after a wake-up", Log::read(&observed.log.woken)),
            ("released", Log::read(&observed.log.settled)),
            ("dropped while held", Log::read(&observed.log.dropped)),
            ("aborted", observed.finished.aborted),
            ("panicked", observed.finished.panicked),
            ("failed compare-exchanges", counts.lost),
        ],
        groups: Vec::new(),
    }
}

fn registry(size: Size, seed: u64) -> Round {
    let churn = Churn {
        threads: 64,
        keys: 8,
        steps: size.of(50, 1_000),
        seed,
    };
    let observed = churn.run();
    Round {
        // Both the registry and the limiters must have had contention.
        contended: observed.collisions.min(observed.waits),
        lost: observed.lost + observed.collisions,
        figures: vec![
            ("limiters built", observed.built),
            ("granted", observed.granted),
            ("cancelled", observed.cancelled),
            ("waited", observed.waits),
            ("collisions", observed.collisions),
            ("failed compare-exchanges", observed.lost),
        ],
        groups: Vec::new(),
        violations: observed.violations,
    }
}

fn storm(size: Size, seed: u64) -> Round {
    let storm = Storm {
        clients: 4,
        tasks: size.of(8, 32),
        requests: size.of(4, 20),
        window: 8,
        seed,
    };
    let observed = storm::on_threads::<LimiterSubject>(storm, &Tasks::new());
    let counts = observed.counts.unwrap_or_default();
    let lost = observed.counters.lost.load(Ordering::SeqCst);
    Round {
        violations: storm::check(&observed),
        contended: counts
            .waits
            .min(counts.refusals)
            .min(counts.probes)
            .min(lost),
        lost: counts.lost,
        figures: vec![
            ("granted", counts.grants),
            ("waited", counts.waits),
            ("wake-ups", counts.wakes),
            ("monitor wake-ups", counts.watches),
            ("refused (429)", counts.refusals),
            ("congestion events", counts.events),
            ("probes", counts.probes),
            ("attempts without a response", lost),
            ("failed compare-exchanges", counts.lost),
        ],
        groups: Vec::new(),
    }
}

impl Size {
    fn of<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}
