//! What a crowd will do, decided before it begins: the same seed makes the same choices, however threads interleave.

use tinkers_core::{Jitter, SplitMix};

/// How large a crowd is and what becomes of it, in parts of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Clients, each with a line of its own.
    pub clients: u64,
    /// Waiters of each.
    pub each: usize,
    /// How many are let in at once.
    pub limit: u32,
    /// Ended from outside, wherever they are then.
    pub aborted: u64,
    /// Dropped after one look.
    pub forgotten: u64,
    /// Panic while they hold a permit.
    pub panicking: u64,
    /// When the first may go.
    pub begins: Begins,
}

/// When the first may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// When half of them are there.
    HalfWay,
    /// When all of them are there.
    Complete,
}

/// One who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Whose.
    pub client: u64,
    /// Its place among those of its client.
    pub index: usize,
    /// How often it lets others run while it holds its permit.
    pub yields: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits, works and ends.
    Served,
    /// It is ended when so many have started to work, wherever it is by then.
    Aborted(usize),
    /// It looks once and is dropped.
    Forgotten,
    /// It panics at work.
    Panics,
}

/// All waiters, client by client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was made from.
    pub shape: Shape,
    /// By client, in the order of their arrival.
    pub waiters: Vec<Vec<Waiter>>,
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let chance = SplitMix::new(seed);
        let waiter = |client, index| Waiter {
            client,
            index,
            yields: chance.bits() % 4,
            fate: fate(&shape, chance.bits() % 100, chance.bits()),
        };
        let line = |client| (0..shape.each).map(|index| waiter(client, index)).collect();
        // Client 0 is whoever holds the door shut until the crowd is there.
        let waiters = (1..=shape.clients).map(line).collect();
        let mut plan = Self { shape, waiters };
        // Those who surely start, so that the moment of each abort comes.
        let sure = plan.all().filter(|one| one.surely_starts()).count().max(1);
        let all = plan.all().count();
        for waiter in plan.waiters.iter_mut().flatten() {
            let Fate::Aborted(at) = &mut waiter.fate else {
                continue;
            };
            // One half at any time, the other about when it is let in.
            if at.is_multiple_of(2) {
                *at = *at / 2 % sure;
            } else {
                let turn = waiter.index * shape.clients as usize * sure / all;
                let spread = 2 * shape.limit as usize;
                *at = (turn + *at / 2 % (2 * spread)).saturating_sub(spread);
                *at = (*at).min(sure - 1);
            }
        }
        plan
    }

    /// Everybody.
    pub fn all(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().flatten()
    }
}

impl Waiter {
    /// Whether it works in any case.
    pub fn surely_starts(&self) -> bool {
        matches!(self.fate, Fate::Served | Fate::Panics)
    }
}

fn fate(shape: &Shape, percent: u64, more: u64) -> Fate {
    let (aborted, forgotten) = (shape.aborted, shape.aborted + shape.forgotten);
    if percent < aborted {
        Fate::Aborted((more >> 1) as usize)
    } else if percent < forgotten {
        Fate::Forgotten
    } else if percent < forgotten + shape.panicking {
        Fate::Panics
    } else {
        Fate::Served
    }
}
