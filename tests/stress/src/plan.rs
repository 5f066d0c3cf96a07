//! Plans of runs. A plan contains all random choices, so that a seed gives the same choices in any
//! interleaving.

use tinkers_core::{Jitter, SplitMix};

/// The size of a run in which many tasks (the waiters) acquire permits of a limiter, and the
/// percentages of waiters that end in unusual ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The number of clients. Each client has its own queue.
    pub clients: u64,
    /// The number of waiters of each client.
    pub per_client: usize,
    /// The number of permits of the limiter under test.
    pub limit: u32,
    /// The percentage of waiters whose task is aborted, either while it waits for a permit or while
    /// it holds one.
    pub aborted: u64,
    /// The percentage of waiters that ask for a permit, but are dropped after the first poll.
    pub forgotten: u64,
    /// The percentage of waiters that panic while they hold a permit.
    pub panicking: u64,
    /// The condition under which the limiter admits the first waiter. Until then, the test itself
    /// holds all permits.
    pub start_when: StartWhen,
}

/// The condition under which the limiter admits the first waiter. Until then, the test itself holds
/// all permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartWhen {
    /// The first waiter is admitted when half of the waiters are queued.
    HalfQueued,
    /// The first waiter is admitted when all waiters are queued.
    AllQueued,
}

/// A waiter: a task that acquires a permit, holds it for some time, and ends in a planned way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// The client to which the waiter belongs.
    pub client: u64,
    /// The position of the waiter in the queue of its client.
    pub index: usize,
    /// The number of times that the waiter yields to the executor while it holds its permit.
    pub yields: u64,
    /// The way in which the waiter ends, for example by an abort.
    pub fate: Fate,
}

/// The planned way in which a waiter (a task that acquires a permit) ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The waiter receives a permit, completes its work, and releases the permit.
    Served,
    /// The waiter is aborted when the given number of waiters have started to work. At that time,
    /// the waiter may still be queued or already be working.
    Aborted(usize),
    /// The waiter asks for a permit, but is dropped after the first poll.
    Forgotten,
    /// The waiter panics during its work, while it holds its permit.
    Panics,
}

/// The plan of a run: for each client, the waiters (tasks that acquire a permit), and how each of
/// them ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The size of the run (numbers of clients, waiters and permits) for which the plan was made.
    pub shape: Shape,
    /// The waiters of each client, in the order of their arrival.
    pub waiters: Vec<Vec<Waiter>>,
}

impl Plan {
    /// Creates the plan of a run. `seed` determines the random choices.
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
        // Client 0 is not among them. It holds the permits until enough waiters are queued.
        let waiters = (1..=shape.clients).map(queue).collect();
        let mut plan = Self { shape, waiters };
        // Aborts are scheduled by the number of starts, and only these waiters are certain to
        // start.
        let sure = plan.all().filter(|one| one.surely_starts()).count().max(1);
        let all = plan.all().count();
        for waiter in plan.waiters.iter_mut().flatten() {
            let Fate::Aborted(at) = &mut waiter.fate else {
                continue;
            };
            // Half of the aborts happen at any time. The other half happen near the admission of
            // the waiter.
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

    /// Returns an iterator over the waiters of all clients.
    pub fn all(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().flatten()
    }
}

impl Waiter {
    /// Returns whether the waiter certainly receives a permit and starts to work. Returns `false`
    /// if the plan aborts or drops it, because it may then end before.
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
