//! The cases: how large each is, what it runs, and what its figures are.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::check::{self, Fault};
use crate::churn::Churn;
use crate::crowd;
use crate::limited::Limited;
use crate::log::Log;
use crate::pauses::{Asks, Scene};
use crate::plan::{Begins, Plan, Shape};
use crate::storm::{self, Storm};
use crate::threads::Tasks;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Runs it once.
    pub run: fn(Size, u64) -> Round,
}

/// How large a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// For the tests of the workspace.
    Small,
    /// What the case says.
    Full,
}

/// What came of one run of a case.
#[derive(Debug, Default)]
pub struct Round {
    /// Every fault.
    pub faults: Vec<Fault>,
    /// How often those that compete met. Without it nothing was shown.
    pub met: u64,
    /// Exchanges that threads lost to each other, and look-ups that met another.
    pub lost: u64,
    /// By name.
    pub figures: Vec<(&'static str, u64)>,
    /// Figures of the parts of a case, by the name of the part.
    pub groups: Vec<(String, Vec<(&'static str, u64)>)>,
}

/// What a round, or a whole run, has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything holds.
    Holds,
    /// Nobody met anybody, so nothing was shown.
    Inconclusive,
    /// There are faults.
    Fails,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Inconclusive => "inconclusive",
            Self::Fails => "FAILS",
        })
    }
}

impl Round {
    /// What it has shown.
    pub fn verdict(&self) -> Verdict {
        match (self.faults.is_empty(), self.met) {
            (false, _) => Verdict::Fails,
            (true, 0) => Verdict::Inconclusive,
            (true, _) => Verdict::Holds,
        }
    }
}

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        name: "waiters",
        about: "10,000 wait for a window of 10, one in ten is ended from outside",
        run: waiters,
    },
    Case {
        name: "registry",
        about: "64 threads share the limiters of 8 keys, which come and go",
        run: registry,
    },
    Case {
        name: "storm",
        about: "a server refuses above its window and says when, probes are lost",
        run: storm,
    },
    Case {
        name: "aborts",
        about: "aborts, drops and panics at any await",
        run: aborts,
    },
    Case {
        name: "clients",
        about: "several clients of one limiter are let in in turn",
        run: clients,
    },
    Case {
        name: "pauses",
        about: "1,000 calls over 256 connections, HTTP/1.1 and HTTP/2: no request leaves from a 429 to the end of its hint",
        run: pauses,
    },
];

fn waiters(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 4,
        each: size.of(100, 2_500),
        limit: 10,
        aborted: 10,
        forgotten: 0,
        panicking: 0,
        begins: Begins::HalfWay,
    };
    crowd_of(shape, seed)
}

fn aborts(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 4,
        each: size.of(100, 1_000),
        limit: 10,
        aborted: 30,
        forgotten: 10,
        panicking: 20,
        begins: Begins::HalfWay,
    };
    crowd_of(shape, seed)
}

fn clients(size: Size, seed: u64) -> Round {
    let shape = Shape {
        clients: 8,
        each: size.of(50, 500),
        limit: 10,
        aborted: 0,
        forgotten: 0,
        panicking: 0,
        begins: Begins::Complete,
    };
    crowd_of(shape, seed)
}

fn pauses(size: Size, seed: u64) -> Round {
    let scene = |is_http2, connections, streams, is_body_slow| Scene {
        is_http2,
        connections,
        streams,
        is_body_slow,
        calls: size.of(100, 1_000),
        warm_up: size.of(200, 1_700),
    };
    let many = size.of(24, 256);
    let scenes = [
        scene(false, many, 1, false),
        scene(false, 8, 1, true),
        scene(true, many, 1, true),
        scene(true, 4, size.of(2, 20), false),
    ];
    let mut round = Round {
        met: u64::MAX,
        ..Round::default()
    };
    for scene in &scenes {
        let seen = scene.run(Asks::Yes, seed);
        round.faults.extend(seen.faults(scene));
        round.met = round.met.min(seen.held);
        round.groups.push((scene.to_string(), seen.figures()));
    }
    // Where the transport does not ask, requests of the same calls are early: the count sees them.
    for scene in [&scenes[0], &scenes[2]] {
        let seen = scene.run(Asks::No, seed);
        round.met = round.met.min(seen.early);
        let name = format!("control, the transport does not ask: {scene}");
        round.groups.push((name, seen.figures()));
    }
    round
}

fn crowd_of(shape: Shape, seed: u64) -> Round {
    let seen = crowd::on_threads::<Limited>(Plan::new(shape, seed), &Tasks::new());
    let counts = seen.counts.unwrap_or_default();
    Round {
        faults: check::crowd(&seen),
        met: counts.waits,
        lost: counts.lost,
        figures: vec![
            ("granted", counts.grants),
            ("waited", counts.waits),
            ("handed over", check::handed_over(&seen, counts)),
            ("wakes", counts.wakes),
            ("watches", counts.watches),
            ("looks", Log::read(&seen.log.woken)),
            ("settled", Log::read(&seen.log.settled)),
            ("given up at work", Log::read(&seen.log.dropped)),
            ("aborted", seen.finished.aborted),
            ("panicked", seen.finished.panicked),
            ("lost exchanges", counts.lost),
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
    let seen = churn.run();
    Round {
        // Both have to have seen somebody meet.
        met: seen.collisions.min(seen.waits),
        lost: seen.lost + seen.collisions,
        figures: vec![
            ("limiters built", seen.built),
            ("granted", seen.granted),
            ("given up", seen.given_up),
            ("waited", seen.waits),
            ("collisions", seen.collisions),
            ("lost exchanges", seen.lost),
        ],
        groups: Vec::new(),
        faults: seen.faults,
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
    let seen = storm::on_threads::<Limited>(storm, &Tasks::new());
    let counts = seen.counts.unwrap_or_default();
    let lost = seen.tally.lost.load(Ordering::SeqCst);
    Round {
        faults: storm::check(&seen),
        met: counts
            .waits
            .min(counts.refusals)
            .min(counts.probes)
            .min(lost),
        lost: counts.lost,
        figures: vec![
            ("granted", counts.grants),
            ("waited", counts.waits),
            ("wakes", counts.wakes),
            ("watches", counts.watches),
            ("refused", counts.refusals),
            ("congestion events", counts.events),
            ("probes", counts.probes),
            ("lost attempts", lost),
            ("lost exchanges", counts.lost),
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
