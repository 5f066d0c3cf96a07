//! Draws what goes wrong in a plan: how often single requests are struck, and what happens for a while.

use std::time::Duration;

use crate::chance::Chance;
use crate::fault::{Kind, Mix, Spell};

const MINUTE: Duration = Duration::from_secs(60);

/// Each run has some kinds of faults, seldom or often, so that no kind hides another for ever.
pub(crate) fn mix(chance: &Chance) -> Mix {
    let mut mix = Mix::default();
    for kind in Kind::ALL {
        let (is_there, rate) = (chance.happens(0.3), *chance.pick(&[0.01, 0.03, 0.1]));
        // What ends an operation for good is rare, so that the others meet something alive.
        let ends = matches!(
            kind,
            Kind::Conflict409
                | Kind::Gone410
                | Kind::Html
                | Kind::Truncated
                | Kind::LayerPanics
                | Kind::JobFails
                | Kind::LogPanics
        );
        let rate = match kind {
            _ if ends => rate / 5.0,
            Kind::LongHint => rate / 5.0,
            Kind::Dial => rate * 3.0,
            Kind::Nested => rate * 2.0,
            _ => rate,
        };
        if is_there && !kind.lasts() {
            mix.0.push((kind, rate));
        }
    }
    mix
}

pub(crate) fn spells(
    chance: &Chance,
    calm_at: Duration,
    clients: usize,
    expiry: Duration,
) -> Vec<Spell> {
    let mut spells = Vec::new();
    for (kind, probability, longest) in [
        (Kind::Partition, 0.4, 2 * expiry),
        (Kind::Capacity, 0.3, 15 * MINUTE),
        (Kind::Outage, 0.3, 10 * MINUTE),
        (Kind::Restart, 0.25, 3 * MINUTE),
    ] {
        for _ in 0..2 {
            let spell = Spell {
                kind,
                from: calm_at.mul_f64(chance.below(900) as f64 / 1000.0),
                lasts: chance.time(Duration::from_secs(1), longest),
                client: (kind == Kind::Partition && chance.happens(0.5))
                    .then(|| chance.below(clients as u64) as usize),
            };
            if chance.happens(probability) {
                spells.push(spell);
            }
        }
    }
    spells
}

/// What happens to executors and programs, at times that disturb no other choice of the plan.
pub(crate) fn spells_of_waits(chance: &Chance, calm_at: Duration, clients: usize) -> Vec<Spell> {
    let mut spells = Vec::new();
    for (kind, probability, longest) in [
        (Kind::Busy, 0.3, 20 * MINUTE),
        (Kind::Close, 0.3, Duration::ZERO),
        (Kind::Crowd, 0.04, Duration::ZERO),
    ] {
        let spell = Spell {
            kind,
            from: calm_at.mul_f64(chance.below(900) as f64 / 1000.0),
            lasts: chance.time(Duration::ZERO, longest),
            client: (kind != Kind::Busy).then(|| chance.below(clients as u64) as usize),
        };
        if chance.happens(probability) {
            spells.push(spell);
        }
    }
    spells
}

/// What happens to shared polls, and what all clients or one of them do at once.
pub(crate) fn spells_of_clients(chance: &Chance, calm_at: Duration, clients: usize) -> Vec<Spell> {
    let mut spells = Vec::new();
    for (kind, probability, shortest, longest) in [
        (Kind::Ingress, 0.25, MINUTE, 20 * MINUTE),
        (Kind::CursorBack, 0.2, MINUTE, 20 * MINUTE),
        (Kind::AckGarbled, 0.2, MINUTE, 30 * MINUTE),
        (Kind::Rivals, 0.04, MINUTE, 4 * MINUTE),
        (Kind::LongQueue, 0.08, 10 * MINUTE, 20 * MINUTE),
    ] {
        let client = chance.below(clients as u64) as usize;
        let spell = Spell {
            kind,
            from: calm_at.mul_f64(chance.below(800) as f64 / 1000.0),
            lasts: chance.time(shortest, longest),
            client: (kind != Kind::Rivals).then_some(client),
        };
        if chance.happens(probability) {
            spells.push(spell);
        }
    }
    spells
}
