//! The queue of one lane: clients take turns, and the requests of each are served in the order of arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use tinkers_core::{Arrival, ClientId, Timestamp};
use tinkers_limits::{Cost, Ticket};

/// The line of one client's requests that a request waits in. Those that have a flight stand before those that need one: what waits
/// for a flight must never stand before what could give one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) client: ClientId,
    pub(crate) has_flight: bool,
}

/// A place in the queue. Places of one line are in the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: Line,
    pub(crate) arrival: Arrival,
    /// Tells those apart that came at the same time.
    number: u64,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) demand: Cost,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) waker: Waker,
    /// When it wakes by itself to look at the gate.
    pub(crate) alarm: Option<Timestamp>,
}

impl Waiter {
    /// The waker, to be called without the lock. It is taken and not cloned, since cloning runs foreign code, too; the waiter leaves
    /// another one when it is polled.
    fn take_waker(&mut self) -> Waker {
        std::mem::replace(&mut self.waker, Waker::noop().clone())
    }

    /// Has it wake by itself at this time. Returns the waker, unless it does so by then already.
    fn set_alarm(&mut self, at: Timestamp) -> Option<Waker> {
        if self.alarm.is_some_and(|alarm| alarm <= at) {
            return None;
        }
        self.alarm = Some(at);
        Some(self.take_waker())
    }
}

/// What a place that is given up had come to.
#[derive(Debug)]
pub(crate) enum Left {
    /// It still waited.
    Waiting(Waiter),
    /// It was let through and had not taken its ticket.
    Granted(Ticket),
    /// It is not here: its grant was taken back.
    Gone,
}

/// A ticket that waits to be collected.
#[derive(Debug)]
struct Grant {
    ticket: Ticket,
    at: Timestamp,
}

/// The queue of one lane. It knows no runtime: it holds wakers and calls none.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: BTreeMap<Line, BTreeMap<(Arrival, u64), Waiter>>,
    /// The clients that have requests waiting; the first is served next.
    turns: VecDeque<ClientId>,
    granted: BTreeMap<Place, Grant>,
    numbers: u64,
    with_deadline: usize,
}

impl Queue {
    /// Takes a place: the last of its line, or the one that `arrival` gives it.
    pub(crate) fn join(&mut self, line: Line, arrival: Option<Arrival>, waiter: Waiter) -> Place {
        self.numbers += 1;
        let number = self.numbers;
        let place = Place {
            line,
            arrival: arrival.unwrap_or(Arrival(number)),
            number,
        };
        self.rejoin(place, waiter);
        place
    }

    /// Waits again at a place whose grant was taken back.
    pub(crate) fn rejoin(&mut self, place: Place, waiter: Waiter) {
        self.with_deadline += usize::from(waiter.deadline.is_some());
        if self.head_of(place.line.client).is_none() {
            self.turns.push_back(place.line.client);
        }
        let waiting = self.lines.entry(place.line).or_default();
        waiting.insert((place.arrival, place.number), waiter);
    }

    /// The request that is served next.
    pub(crate) fn next(&self) -> Option<(Place, &Waiter)> {
        self.head_of(*self.turns.front()?)
    }

    /// The request with a flight that is served next, for when there is no room for another flight.
    pub(crate) fn next_with_flight(&self) -> Option<(Place, &Waiter)> {
        let of_client = |client: &ClientId| {
            self.head(Line {
                client: *client,
                has_flight: true,
            })
        };
        self.turns.iter().find_map(of_client)
    }

    /// Lets the place through, and moves its client to the end of the turns. The waker is to be called, or dropped, without the lock.
    pub(crate) fn grant(&mut self, place: Place, ticket: Ticket, at: Timestamp) -> Option<Waker> {
        let client = place.line.client;
        let waiter = self.take_out(place)?;
        if let Some(turn) = self.turns.iter().position(|other| *other == client) {
            self.turns.remove(turn);
            self.turns.push_back(client);
        }
        self.granted.insert(place, Grant { ticket, at });
        Some(waiter.waker)
    }

    /// The ticket of a place that was let through.
    pub(crate) fn collect(&mut self, place: Place) -> Option<Ticket> {
        Some(self.granted.remove(&place)?.ticket)
    }

    /// Takes back the tickets that were handed over before `at` and not collected.
    pub(crate) fn take_back(&mut self, at: Timestamp) -> Vec<Ticket> {
        let lapsed = self.granted.extract_if(.., |_, grant| grant.at < at);
        lapsed.map(|(_, grant)| grant.ticket).collect()
    }

    /// When the oldest ticket that is not collected was handed over.
    pub(crate) fn oldest_grant(&self) -> Option<Timestamp> {
        self.granted.values().map(|grant| grant.at).min()
    }

    /// Gives a place up.
    pub(crate) fn leave(&mut self, place: Place) -> Left {
        if let Some(ticket) = self.collect(place) {
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

    fn waiter_of(&self, place: Place) -> Option<&Waiter> {
        self.lines
            .get(&place.line)?
            .get(&(place.arrival, place.number))
    }

    /// Whether the place is the first of its line.
    pub(crate) fn is_first_of_its_line(&self, place: Place) -> bool {
        self.head(place.line).is_some_and(|(head, _)| head == place)
    }

    /// Sets an alarm at this time for the first of each line that has none by then, and returns their wakers.
    pub(crate) fn set_alarms(&mut self, at: Timestamp) -> Vec<Waker> {
        let firsts = self
            .lines
            .values_mut()
            .filter_map(|waiting| waiting.values_mut().next());
        firsts.filter_map(|waiter| waiter.set_alarm(at)).collect()
    }

    /// Has one waiter watch, for when the clients that have not collected their tickets never do: the one that is served last of the
    /// others, so that it watches for long. Returns its waker, unless another waiter watches already.
    pub(crate) fn set_watch(&mut self, at: Timestamp) -> Option<Waker> {
        let holders: BTreeSet<ClientId> =
            self.granted.keys().map(|place| place.line.client).collect();
        let others = self
            .turns
            .iter()
            .rev()
            .filter(|client| !holders.contains(client));
        let others: Vec<Place> = others
            .filter_map(|client| self.head_of(*client))
            .map(|(place, _)| place)
            .collect();
        let watches = |place: &Place| {
            let alarm = self.waiter_of(*place).and_then(|waiter| waiter.alarm);
            alarm.is_some_and(|alarm| alarm <= at)
        };
        if others.iter().any(watches) {
            return None;
        }
        self.waiter(*others.first()?)?.set_alarm(at)
    }

    /// The wakers of the waiters whose deadline is before `at`.
    pub(crate) fn with_deadline_before(&mut self, at: Timestamp) -> Vec<Waker> {
        if self.with_deadline == 0 {
            return Vec::new();
        }
        self.lines
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .filter(|waiter| waiter.deadline.is_some_and(|deadline| deadline < at))
            .map(Waiter::take_waker)
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.values().map(BTreeMap::len).sum()
    }

    /// Tickets that were handed over and not collected yet.
    pub(crate) fn uncollected(&self) -> usize {
        self.granted.len()
    }

    /// The first request of a client: one with a flight where there is one.
    fn head_of(&self, client: ClientId) -> Option<(Place, &Waiter)> {
        let line = |has_flight| Line { client, has_flight };
        self.head(line(true)).or_else(|| self.head(line(false)))
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
            let client = place.line.client;
            if self.head_of(client).is_none() {
                self.turns.retain(|other| *other != client);
            }
        }
        Some(waiter)
    }
}
