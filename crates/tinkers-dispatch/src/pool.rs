//! What can be taken and is given back, with the queue of those who wait for it, under one lock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tinkers_core::Moment;

use crate::queue::{Place, Queue, Rank};
use crate::settings::LaneSettings;

/// Slots, bytes and flights of one lane. Only the head of the queue is ever served, so that nobody is passed.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) bytes: u64,
    pub(crate) flights: u64,
}

/// A request that wants to be served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) rank: Rank,
    pub(crate) deadline: Option<Moment>,
    pub(crate) demand: Demand,
}

/// What came of asking to be served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<E> {
    /// It was: the demand is taken.
    Served(E),
    /// It will be woken when it is at the head and something came back.
    Wait,
    /// It is at the head, there is room, and it was told to come at this time; nobody wakes it for that.
    Closed(Moment),
}

/// How much of the pool is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) waiting: usize,
    pub(crate) slots: u64,
    pub(crate) bytes: u64,
    pub(crate) flights: u64,
}

impl Pool {
    pub(crate) fn new(settings: LaneSettings) -> Self {
        Self {
            state: Mutex::new(State {
                slots: Stock::new(Some(settings.slots)),
                bytes: Stock::new(settings.bytes),
                flights: Stock::new(settings.flights),
                queue: Queue::default(),
            }),
        }
    }

    /// Serves `entry` when it is at the head, there is room and `enter` lets it. Keeps its place in `place` until then.
    pub(crate) fn turn<E>(
        &self,
        place: &mut Option<Place>,
        entry: Entry,
        waker: &Waker,
        enter: impl FnOnce() -> Result<E, Moment>,
    ) -> Turn<E> {
        // Cloned here and dropped at the end: wakers are foreign code and stay out of the lock.
        let mine = waker.clone();
        let old;
        let mut next = None;
        let turn = {
            let mut state = self.lock();
            let at = match *place {
                Some(at) => {
                    old = state.queue.rewake(at, mine);
                    at
                }
                None => {
                    old = None;
                    *place.insert(state.queue.join(entry.rank, entry.deadline, mine))
                }
            };
            if state.queue.is_head(at) && state.has_room(entry.demand) {
                // The gate is read last: what it says now is what holds when the request leaves.
                match enter() {
                    Ok(entered) => {
                        state.take(entry.demand);
                        let gone = state.queue.leave(at);
                        *place = None;
                        if state.has_any_room() {
                            next = state.queue.head();
                        }
                        (Turn::Served(entered), gone)
                    }
                    Err(opens_at) => (Turn::Closed(opens_at), None),
                }
            } else {
                (Turn::Wait, None)
            }
        };
        wake(next);
        drop(old);
        turn.0
    }

    /// Gives a place up. Whoever is at the head now may have to watch the gate, so it is woken.
    pub(crate) fn leave(&self, place: Place) {
        let (gone, next) = {
            let mut state = self.lock();
            let was_head = state.queue.is_head(place);
            let gone = state.queue.leave(place);
            (gone, was_head.then(|| state.queue.head()).flatten())
        };
        drop(gone);
        wake(next);
    }

    /// The end of an attempt: its slot and its bytes.
    pub(crate) fn end_attempt(&self, bytes: u64) {
        self.change(|state| {
            state.slots.give_back(1);
            state.bytes.give_back(bytes);
        });
    }

    /// The end of a flight.
    pub(crate) fn land(&self) {
        self.change(|state| state.flights.give_back(1));
    }

    /// Other limits from now on; what is taken stays taken.
    pub(crate) fn resize(&self, settings: LaneSettings) {
        self.change(|state| {
            state.slots.resize(Some(settings.slots));
            state.bytes.resize(settings.bytes);
            state.flights.resize(settings.flights);
        });
    }

    /// Wakes those who give up before `at`: they can do so now.
    pub(crate) fn wake_hopeless(&self, at: Moment) {
        let hopeless = self.lock().queue.with_deadline_before(at);
        hopeless.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            waiting: state.queue.len(),
            slots: state.slots.used,
            bytes: state.bytes.used,
            flights: state.flights.used,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let head = {
            let mut state = self.lock();
            change(&mut state);
            state.queue.head()
        };
        wake(head);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    slots: Stock,
    bytes: Stock,
    flights: Stock,
    queue: Queue,
}

impl State {
    fn has_room(&self, demand: Demand) -> bool {
        self.slots.has_any()
            && (demand.bytes == 0 || self.bytes.has_any())
            && (demand.flights == 0 || self.flights.has_any())
    }

    /// Whether anybody could be served. Not exact for what needs no bytes or no flight: that one is woken in vain at most.
    fn has_any_room(&self) -> bool {
        self.slots.has_any()
    }

    fn take(&mut self, demand: Demand) {
        self.slots.take(1);
        self.bytes.take(demand.bytes);
        self.flights.take(demand.flights);
    }
}

/// A soft limit: anything is served while there is anything left, and charged in full.
#[derive(Debug, Clone, Copy)]
struct Stock {
    size: u64,
    used: u64,
}

impl Stock {
    fn new(size: Option<u64>) -> Self {
        let mut stock = Self { size: 0, used: 0 };
        stock.resize(size);
        stock
    }

    fn resize(&mut self, size: Option<u64>) {
        // A limit of nothing would be a wait for ever.
        self.size = size.map_or(u64::MAX, |size| size.max(1));
    }

    const fn has_any(&self) -> bool {
        self.used < self.size
    }

    const fn take(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }

    const fn give_back(&mut self, amount: u64) {
        self.used = self.used.saturating_sub(amount);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
