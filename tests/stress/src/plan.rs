//! Plans of runs: all random choices are made up front, so that a seed gives the same choices for any interleaving.

use tinkers_core::{Jitter, SplitMix};

/// The size of a run and the fates of its waiters, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of clients, each with a queue.
    pub clients: u64,
    /// Waiters per client.
    pub per_client: usize,
    /// Number of permits.
    pub limit: u32,
    /// Percentage of waiters that are aborted, waiting or working.
    pub aborted: u64,
    /// Percentage of waiters that are dropped after one poll.
    pub forgotten: u64,
    /// Percentage of waiters that panic while they hold a permit.
    pub panicking: u64,
    /// When the first waiter is admitted.
    pub start_when: StartWhen,
}

/// When the first waiter is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartWhen {
    /// When half of the waiters are queued.
    HalfQueued,
    /// When all waiters are queued.
    AllQueued,
}

/// A waiter for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// The client that it belongs to.
    pub client: u64,
    /// Its position in the queue of its client.
    pub index: usize,
    /// How often it yields while it holds its permit.
    pub yields: u64,
    /// How it ends.
    pub fate: Fate,
}

/// How a waiter ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Works to the end.
    Served,
    /// Aborted, waiting or working, when this number of waiters have started.
    Aborted(usize),
    /// Dropped after one poll.
    Forgotten,
    /// Panics during its work.
    Panics,
}

/// All waiters, client by client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The shape that the plan was made from.
    pub shape: Shape,
    /// The waiters of each client in order of arrival.
    pub waiters: Vec<Vec<Waiter>>,
}

impl Plan {
    /// Creates the plan of `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let chance = SplitMix::new(seed);
        let waiter = |client, index| Waiter {
            client,
            index,
            yields: chance.bits() % 4,
            fate: fate(&shape, chance.bits() % 100, chance.bits()),
        };
        let queue = |client| {
            (0..shape.per_client)
                .map(|index| waiter(client, index))
                .collect()
        };
        // Client 0 holds the permits until enough waiters are queued.
        let waiters = (1..=shape.clients).map(queue).collect();
        let mut plan = Self { shape, waiters };
        // Aborts are scheduled by starts, and only these waiters surely start.
        let sure = plan.all().filter(|one| one.surely_starts()).count().max(1);
        let all = plan.all().count();
        for waiter in plan.waiters.iter_mut().flatten() {
            let Fate::Aborted(at) = &mut waiter.fate else {
                continue;
            };
            // Half of the aborts happen at any time, the other half around the admission of the waiter.
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

    /// Returns all waiters.
    pub fn all(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().flatten()
    }
}

impl Waiter {
    /// Returns whether the waiter starts to work in every interleaving.
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
