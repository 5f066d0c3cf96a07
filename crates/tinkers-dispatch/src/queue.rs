//! Who waits, in which order.

use std::collections::BTreeMap;
use std::task::Waker;

use tinkers_core::Moment;

/// Where among the waiting a request goes. The order of the variants is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// It holds a flight. Served first: what waits for a flight must never stand in front of who could give one back.
    Flying,
    /// It was admitted before and the server refused it.
    Refused,
    /// It is new.
    New,
}

/// A place in the queue; the least one is the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    rank: Rank,
    number: u64,
}

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    deadline: Option<Moment>,
}

/// First come, first served within a rank.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Place, Waiter>,
    issued: u64,
}

impl Queue {
    /// Takes the last place of its rank.
    pub(crate) fn join(&mut self, rank: Rank, deadline: Option<Moment>, waker: Waker) -> Place {
        self.issued += 1;
        let place = Place {
            rank,
            number: self.issued,
        };
        self.waiting.insert(place, Waiter { waker, deadline });
        place
    }

    /// Whom to wake for `place` from now on. Gives the waker before, to be dropped without the lock.
    pub(crate) fn rewake(&mut self, place: Place, waker: Waker) -> Option<Waker> {
        let waiter = self.waiting.get_mut(&place)?;
        Some(std::mem::replace(&mut waiter.waker, waker))
    }

    /// Gives the place up; the waker is to be dropped without the lock.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Waker> {
        self.waiting.remove(&place).map(|waiter| waiter.waker)
    }

    pub(crate) fn is_head(&self, place: Place) -> bool {
        self.waiting.keys().next() == Some(&place)
    }

    /// The waker of the head.
    pub(crate) fn head(&self) -> Option<Waker> {
        self.waiting
            .values()
            .next()
            .map(|waiter| waiter.waker.clone())
    }

    /// The wakers of those who give up before `at`.
    pub(crate) fn with_deadline_before(&self, at: Moment) -> Vec<Waker> {
        let is_before = |waiter: &&Waiter| waiter.deadline.is_some_and(|deadline| deadline < at);
        self.waiting
            .values()
            .filter(is_before)
            .map(|waiter| waiter.waker.clone())
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}
