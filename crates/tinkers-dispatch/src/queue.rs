//! Who waits, in which order: those who have a flight first, then client by client in turn, each in the order of arrival.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use tinkers_core::{Arrival, ClientId, Moment};
use tinkers_limits::{Demand, Ticket};

/// Whose queue a request waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// It has a flight. Served first: what waits for a flight must never stand before who could give one back.
    Flying,
    /// One client's.
    Client(ClientId),
}

/// A place in the queue. Places of one line are in the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: Line,
    pub(crate) arrival: Arrival,
    /// Tells those apart that came at the same time.
    number: u64,
}

/// Somebody who waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) demand: Demand,
    pub(crate) deadline: Option<Moment>,
    pub(crate) waker: Waker,
    /// When it wakes by itself to look at the gate.
    pub(crate) alarm: Option<Moment>,
}

/// What a place has come to.
#[derive(Debug)]
pub(crate) enum Left {
    /// It still waited.
    Waiting(Waiter),
    /// It was let through and had not taken its ticket.
    Granted(Ticket),
    /// It is not here.
    Gone,
}

/// The queue of one lane. It knows no runtime: it holds wakers and calls none.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: BTreeMap<Line, BTreeMap<(Arrival, u64), Waiter>>,
    /// The clients that have anybody waiting; the first is served next.
    turns: VecDeque<ClientId>,
    granted: BTreeMap<Place, Ticket>,
    numbers: u64,
    with_deadline: usize,
}

impl Queue {
    /// Takes a place: the last of its line, or the one that `arrival` gives it.
    pub(crate) fn join(&mut self, line: Line, arrival: Option<Arrival>, waiter: Waiter) -> Place {
        self.numbers += 1;
        let number = self.numbers;
        let arrival = arrival.unwrap_or(Arrival(number));
        self.with_deadline += usize::from(waiter.deadline.is_some());
        let waiting = self.lines.entry(line).or_default();
        if let (true, Line::Client(client)) = (waiting.is_empty(), line) {
            self.turns.push_back(client);
        }
        waiting.insert((arrival, number), waiter);
        Place {
            line,
            arrival,
            number,
        }
    }

    /// Who is served next.
    pub(crate) fn next(&self) -> Option<(Place, &Waiter)> {
        let line = match self.turns.front() {
            _ if self.lines.contains_key(&Line::Flying) => Line::Flying,
            Some(client) => Line::Client(*client),
            None => return None,
        };
        self.head(line)
    }

    /// Lets the place that is next through, and gives the turn to the next client. The waker is to be called, or dropped,
    /// without the lock.
    pub(crate) fn grant(&mut self, place: Place, ticket: Ticket) -> Option<Waker> {
        let waiter = self.take_out(place)?;
        if let (Line::Client(client), Some(first)) = (place.line, self.turns.front())
            && client == *first
        {
            self.turns.rotate_left(1);
        }
        self.granted.insert(place, ticket);
        Some(waiter.waker)
    }

    /// The ticket of a place that was let through.
    pub(crate) fn collect(&mut self, place: Place) -> Option<Ticket> {
        self.granted.remove(&place)
    }

    /// Gives a place up.
    pub(crate) fn leave(&mut self, place: Place) -> Left {
        if let Some(ticket) = self.granted.remove(&place) {
            return Left::Granted(ticket);
        }
        self.take_out(place).map_or(Left::Gone, Left::Waiting)
    }

    /// The waiter of a place, when it still waits.
    pub(crate) fn waiter(&mut self, place: Place) -> Option<&mut Waiter> {
        self.lines
            .get_mut(&place.line)?
            .get_mut(&(place.arrival, place.number))
    }

    /// Whether the place is the first of its line.
    pub(crate) fn is_first_of_its_line(&self, place: Place) -> bool {
        self.head(place.line).is_some_and(|(head, _)| head == place)
    }

    /// Whoever is first in a line and would not look by itself at this time: woken, it sets its alarm.
    pub(crate) fn set_alarms(&mut self, at: Moment) -> Vec<Waker> {
        let firsts = self
            .lines
            .values_mut()
            .filter_map(|waiting| waiting.values_mut().next());
        firsts
            .filter(|waiter| waiter.alarm.is_none_or(|alarm| alarm > at))
            .map(|waiter| {
                waiter.alarm = Some(at);
                waiter.waker.clone()
            })
            .collect()
    }

    /// The wakers of those who give up before `at`.
    pub(crate) fn with_deadline_before(&self, at: Moment) -> Vec<Waker> {
        if self.with_deadline == 0 {
            return Vec::new();
        }
        self.lines
            .values()
            .flat_map(BTreeMap::values)
            .filter(|waiter| waiter.deadline.is_some_and(|deadline| deadline < at))
            .map(|waiter| waiter.waker.clone())
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.values().map(BTreeMap::len).sum()
    }

    /// Tickets that were handed over and not collected yet.
    pub(crate) fn uncollected(&self) -> usize {
        self.granted.len()
    }

    fn head(&self, line: Line) -> Option<(Place, &Waiter)> {
        let (&(arrival, number), waiter) = self.lines.get(&line)?.iter().next()?;
        let place = Place {
            line,
            arrival,
            number,
        };
        Some((place, waiter))
    }

    fn take_out(&mut self, place: Place) -> Option<Waiter> {
        let waiting = self.lines.get_mut(&place.line)?;
        let waiter = waiting.remove(&(place.arrival, place.number))?;
        let is_empty = waiting.is_empty();
        self.with_deadline -= usize::from(waiter.deadline.is_some());
        if is_empty {
            self.lines.remove(&place.line);
            if let Line::Client(client) = place.line {
                self.turns.retain(|other| *other != client);
            }
        }
        Some(waiter)
    }
}
