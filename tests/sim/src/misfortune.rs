//! Draws what goes wrong, and counts what did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::{ManualClock, Time};

use crate::chance::Chance;
use crate::cover::Cover;
use crate::fault::{Kind, Mix, Spell};
use crate::op::Op;
use crate::plan::{Behaviour, Plan, Verb};

/// What goes wrong in a run.
#[derive(Debug)]
pub struct Misfortune {
    clock: ManualClock,
    chance: Chance,
    jobs: Chance,
    mix: Mix,
    spells: Vec<Spell>,
    calm_at: Duration,
    deduplicates: bool,
    cover: Mutex<Cover>,
}

impl Misfortune {
    /// What goes wrong by `plan`.
    pub fn new(plan: &Plan, clock: ManualClock, chance: &Chance) -> Self {
        Self {
            clock,
            chance: chance.stream(1),
            jobs: chance.stream(2),
            mix: plan.mix.clone(),
            spells: plan.spells.clone(),
            calm_at: plan.calm_at,
            deduplicates: plan.server.deduplicates,
            cover: Mutex::default(),
        }
    }

    /// What strikes a request of a client now.
    pub fn strike(&self, op: Op, client: usize, is_heart: bool) -> Option<Kind> {
        let now = self.clock.now().since_origin();
        let unit = self.unit(&self.chance);
        let is_busy = |spell: &Spell| spell.kind == Kind::Busy && spell.covers(now, client);
        if self.spells.iter().any(is_busy) {
            self.met(Kind::Busy, op);
        }
        let spell = self
            .spells
            .iter()
            .find(|spell| spell.kind.strikes_requests() && spell.covers(now, client));
        let struck = match spell {
            Some(spell) => Some(spell.kind),
            None if now >= self.calm_at => None,
            None => self.mix.strike(op, unit),
        };
        struck.filter(|kind| match kind {
            // The layer is not in the heart's way, and a server that repeats what it gets twice gets nothing twice here.
            Kind::LayerPanics => !is_heart,
            Kind::Twice => self.deduplicates || !op.is_submission(),
            Kind::JobFails => false,
            _ => true,
        })
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
