//! Draws what goes wrong, and counts what did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::{Clock, ManualClock};

use crate::chance::Chance;
use crate::cover::Cover;
use crate::fault::{Kind, Mix, Spell};
use crate::op::Op;
use crate::plan::{Behaviour, Plan, Verb};

/// The part of submissions that fails while clients send many at once.
const PART_OF_RIVALS: f64 = 0.3;

/// What goes wrong in a run.
#[derive(Debug)]
pub struct Misfortune {
    clock: ManualClock,
    chance: Chance,
    jobs: Chance,
    lines: Chance,
    mix: Mix,
    spells: Vec<Spell>,
    calm_at: Duration,
    deduplicates: bool,
    cover: Mutex<Cover>,
    /// What the request was for that was answered last.
    answered: Mutex<Op>,
}

/// A request, as far as that decides what strikes it.
#[derive(Debug, Clone, Copy)]
pub struct Struck {
    /// What it is for.
    pub op: Op,
    /// Whose it is.
    pub client: usize,
    /// Whether it is a heartbeat, which the caller's layer does not see.
    pub is_heart: bool,
    /// Whether it is a shared poll that only acknowledges.
    pub is_acknowledgement: bool,
    /// Whether it is made by a layer.
    pub is_nested: bool,
}

impl Misfortune {
    /// What goes wrong by `plan`.
    pub fn new(plan: &Plan, clock: ManualClock, chance: &Chance) -> Self {
        Self {
            clock,
            chance: chance.stream(1),
            jobs: chance.stream(2),
            lines: chance.stream(3),
            mix: plan.mix.clone(),
            spells: plan.spells.clone(),
            calm_at: plan.calm_at,
            deduplicates: plan.server.deduplicates,
            cover: Mutex::default(),
            answered: Mutex::new(Op::Config),
        }
    }

    /// What strikes a request of a client now.
    pub fn strike(&self, request: Struck) -> Option<Kind> {
        let Struck { op, client, .. } = request;
        let now = self.clock.now().since_origin();
        let unit = self.unit(&self.chance);
        let is_busy = |spell: &Spell| spell.kind == Kind::Busy && spell.covers(now, client);
        if self.spells.iter().any(is_busy) {
            self.met(Kind::Busy, op);
        }
        let covers = |spell: &&Spell| {
            spell.kind.strikes_requests()
                && spell.kind.strikes(op)
                && spell.covers(now, client)
                && match spell.kind {
                    Kind::AckGarbled => request.is_acknowledgement,
                    Kind::Rivals => unit < PART_OF_RIVALS,
                    _ => true,
                }
        };
        let struck = match self.spells.iter().find(covers) {
            Some(spell) => Some(spell.kind),
            None if now >= self.calm_at => None,
            None => self.mix.strike(op, unit),
        };
        struck.filter(|kind| match kind {
            Kind::Nested => !request.is_heart && !request.is_nested,
            // The layer is not in the heart's way, and a server that repeats what it gets twice gets nothing twice here.
            kind if kind.is_of_layer() => !request.is_heart,
            Kind::Twice => self.deduplicates || !op.is_submission(),
            kind => !kind.strikes_no_request(),
        })
    }

    /// What the subscriber does after a line of the log.
    pub fn log(&self) -> Option<Kind> {
        if self.clock.now().since_origin() >= self.calm_at {
            return None;
        }
        let of_log = |(kind, _): &&(Kind, f64)| matches!(kind, Kind::LogPanics | Kind::LogReenters);
        let unit = self.unit(&self.lines);
        let mut below = 0.0;
        let kind = self.mix.0.iter().filter(of_log).find(|(_, rate)| {
            below += rate;
            unit < below
        });
        let (kind, _) = kind?;
        let op = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if kind.strikes(op) {
            self.met(*kind, op);
        }
        Some(*kind)
    }

    /// A request was answered, or failed.
    pub fn answered(&self, op: Op) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = op;
    }

    /// Whether such a thing can happen at all.
    pub fn has(&self, kind: Kind) -> bool {
        self.mix.0.iter().any(|(other, _)| *other == kind)
    }

    /// Whether a job of the engine fails.
    pub fn job_fails(&self, op: Op) -> bool {
        if self.clock.now().since_origin() >= self.calm_at {
            return false;
        }
        let rate = self.mix.0.iter().find(|(kind, _)| *kind == Kind::JobFails);
        let fails = rate.is_some_and(|(_, rate)| self.unit(&self.jobs) < *rate);
        if fails {
            self.met(Kind::JobFails, op);
        }
        fails
    }

    /// A fault met an operation.
    pub fn met(&self, kind: Kind, op: Op) {
        self.lock().met(kind, op);
    }

    /// The gate closed while a request was on its way to the socket.
    pub fn held(&self, op: Op) {
        self.lock().held(op);
    }

    /// A program did something with a handle.
    pub fn handled(&self, behaviour: Behaviour, verb: Verb) {
        self.lock().handled(behaviour.into(), verb);
    }

    /// What met what so far.
    pub fn cover(&self) -> Cover {
        self.lock().clone()
    }

    /// What goes wrong for a while.
    pub fn spells(&self) -> &[Spell] {
        &self.spells
    }

    fn unit(&self, chance: &Chance) -> f64 {
        // 53 bits fill the mantissa exactly.
        (chance.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn lock(&self) -> MutexGuard<'_, Cover> {
        self.cover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
