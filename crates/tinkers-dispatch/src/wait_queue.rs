//! The queue of one route class. Clients take turns, and the requests of each client are served in the order of their arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::Waker;

use tinkers_core::{Arrival, ClientId, Timestamp};
use tinkers_limits::{Charge, Ticket};

/// The key of a part of the queue: a client, and whether the requests in this part have an in-flight permit. Retries that kept their
/// in-flight permit are admitted first: a request that waits for such a permit must not delay a request that may return one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    pub(crate) client: ClientId,
    pub(crate) has_in_flight: bool,
}

/// The identity of a request in the queue. Entries with the same key are sorted in the order in which they are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueEntry {
    pub(crate) key: QueueKey,
    pub(crate) arrival: Arrival,
    /// A unique number. It distinguishes entries with the same arrival number.
    number: u64,
}

/// The data of a request that waits in the queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) charge: Charge,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) waker: Waker,
    /// The time at which the future of the request wakes itself by a timer, in order to poll the queue.
    pub(crate) alarm: Option<Timestamp>,
}

impl Waiter {
    /// Takes the waker, which the caller calls after it has released the lock. The waker is not cloned, since cloning runs user code; the
    /// next poll stores a new waker.
    fn take_waker(&mut self) -> Waker {
        std::mem::replace(&mut self.waker, Waker::noop().clone())
    }

    /// Makes the future of the request wake itself at `at`. Returns the waker, which the caller calls so that the future starts the timer.
    /// Does nothing and returns `None` if the timer is already set for `at` or an earlier time.
    fn set_alarm(&mut self, at: Timestamp) -> Option<Waker> {
        if self.alarm.is_some_and(|alarm| alarm <= at) {
            return None;
        }
        self.alarm = Some(at);
        Some(self.take_waker())
    }
}

/// The state that an entry of the queue had when it was removed.
#[derive(Debug)]
pub(crate) enum Removed {
    /// The request was waiting for its admission.
    Waiting(Waiter),
    /// The request was admitted, but its future had not been polled since.
    Granted(Ticket),
    /// The entry was not in the queue any more, since the request had been admitted and the admission was then taken back.
    NotFound,
}

/// The admission of a request from the queue, whose future has not been polled since: its ticket, and the time of the admission.
#[derive(Debug)]
struct Grant {
    ticket: Ticket,
    at: Timestamp,
}

/// The requests of one route class that wait for admission. The queue stores their wakers; the caller wakes them after it has released the
/// lock.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    queues: BTreeMap<QueueKey, BTreeMap<(Arrival, u64), Waiter>>,
    /// The clients with waiting requests, in the order of their turns. The next request to be admitted is one of the first client.
    turns: VecDeque<ClientId>,
    granted: BTreeMap<QueueEntry, Grant>,
    last_number: u64,
    with_deadline: usize,
}

impl WaitQueue {
    /// Adds a new entry: at the end of the client's requests, or at the position of `arrival` if the server has refused the request before.
    pub(crate) fn join(
        &mut self,
        key: QueueKey,
        arrival: Option<Arrival>,
        waiter: Waiter,
    ) -> QueueEntry {
        self.last_number += 1;
        let number = self.last_number;
        let entry = QueueEntry {
            key,
            arrival: arrival.unwrap_or(Arrival(number)),
            number,
        };
        self.rejoin(entry, waiter);
        entry
    }

    /// Adds an entry to the queue, at the position that its arrival number determines. The entry is new, or its request was admitted and
    /// the admission was taken back.
    pub(crate) fn rejoin(&mut self, entry: QueueEntry, waiter: Waiter) {
        self.with_deadline += usize::from(waiter.deadline.is_some());
        if self.head_of(entry.key.client).is_none() {
            self.turns.push_back(entry.key.client);
        }
        let waiting = self.queues.entry(entry.key).or_default();
        waiting.insert((entry.arrival, entry.number), waiter);
    }

    /// Returns the waiting request that is to be admitted next, when the limits have room.
    pub(crate) fn next(&self) -> Option<(QueueEntry, &Waiter)> {
        self.head_of(*self.turns.front()?)
    }

    /// Returns the next request that has an in-flight permit already. Such a request can be admitted although the in-flight limit is
    /// reached.
    pub(crate) fn next_with_in_flight(&self) -> Option<(QueueEntry, &Waiter)> {
        let of_client = |client: &ClientId| {
            self.head(QueueKey {
                client: *client,
                has_in_flight: true,
            })
        };
        self.turns.iter().find_map(of_client)
    }

    /// Admits a waiting request: stores its ticket until its future is polled and takes the ticket. Moves its client to the end of `turns`.
    /// Returns the waker of the request, which the caller calls or drops after it has released the lock.
    pub(crate) fn grant(
        &mut self,
        entry: QueueEntry,
        ticket: Ticket,
        at: Timestamp,
    ) -> Option<Waker> {
        let client = entry.key.client;
        let waiter = self.take_out(entry)?;
        if let Some(turn) = self.turns.iter().position(|other| *other == client) {
            self.turns.remove(turn);
            self.turns.push_back(client);
        }
        self.granted.insert(entry, Grant { ticket, at });
        Some(waiter.waker)
    }

    /// Removes and returns the ticket of a request that was admitted from the queue. Returns `None` if the request was not admitted, or the
    /// admission was taken back.
    pub(crate) fn collect(&mut self, entry: QueueEntry) -> Option<Ticket> {
        Some(self.granted.remove(&entry)?.ticket)
    }

    /// Removes and returns the tickets of requests that were admitted before `at`, but whose future was not polled since.
    pub(crate) fn take_back(&mut self, at: Timestamp) -> Vec<Ticket> {
        let mut lapsed = Vec::new();
        self.granted.retain(|_, grant| {
            let is_kept = grant.at >= at;
            if !is_kept {
                lapsed.push(grant.ticket);
            }
            is_kept
        });
        lapsed
    }

    /// Returns the earliest time at which a request was admitted whose future was not polled since, or `None` if there is no such request.
    pub(crate) fn oldest_grant(&self) -> Option<Timestamp> {
        self.granted.values().map(|grant| grant.at).min()
    }

    /// Removes an entry from the queue. Returns the state that the entry had.
    pub(crate) fn leave(&mut self, entry: QueueEntry) -> Removed {
        if let Some(ticket) = self.collect(entry) {
            return Removed::Granted(ticket);
        }
        self.take_out(entry)
            .map_or(Removed::NotFound, Removed::Waiting)
    }

    /// Returns the data of a request if it is still waiting, and not admitted.
    pub(crate) fn waiter(&mut self, entry: QueueEntry) -> Option<&mut Waiter> {
        self.queues
            .get_mut(&entry.key)?
            .get_mut(&(entry.arrival, entry.number))
    }

    fn waiter_of(&self, entry: QueueEntry) -> Option<&Waiter> {
        self.queues
            .get(&entry.key)?
            .get(&(entry.arrival, entry.number))
    }

    /// Returns whether an entry is the first one that waits among the entries of its client that, like itself, have or do not have an
    /// in-flight permit.
    pub(crate) fn is_first_of_its_client(&self, entry: QueueEntry) -> bool {
        self.head(entry.key).is_some_and(|(head, _)| head == entry)
    }

    /// Makes the future of the first waiting request of each client wake itself at `at`, unless it has an earlier timer. Clients with
    /// in-flight permits and without them are treated separately. Returns the wakers of these futures, to be called so that the timers
    /// start.
    pub(crate) fn set_alarms(&mut self, at: Timestamp) -> Vec<Waker> {
        let firsts = self
            .queues
            .values_mut()
            .filter_map(|waiting| waiting.values_mut().next());
        firsts.filter_map(|waiter| waiter.set_alarm(at)).collect()
    }

    /// Sets a timer at `at` for one waiting request, in case the futures of admitted requests are never polled again. Chooses the client
    /// whose turn comes last among the clients without such an admitted request, so that the timer stays useful for a long time. Returns
    /// the waker of the request, to be called so that the timer starts, or `None` if such a timer is set already.
    pub(crate) fn set_watcher(&mut self, at: Timestamp) -> Option<Waker> {
        let holders: BTreeSet<ClientId> =
            self.granted.keys().map(|entry| entry.key.client).collect();
        let others = self
            .turns
            .iter()
            .rev()
            .filter(|client| !holders.contains(client));
        let others: Vec<QueueEntry> = others
            .filter_map(|client| self.head_of(*client))
            .map(|(entry, _)| entry)
            .collect();
        let watches = |entry: &QueueEntry| {
            let alarm = self.waiter_of(*entry).and_then(|waiter| waiter.alarm);
            alarm.is_some_and(|alarm| alarm <= at)
        };
        if others.iter().any(watches) {
            return None;
        }
        self.waiter(*others.first()?)?.set_alarm(at)
    }

    /// Takes the wakers of the waiting requests whose deadline is before `at`.
    pub(crate) fn take_wakers_with_deadline_before(&mut self, at: Timestamp) -> Vec<Waker> {
        if self.with_deadline == 0 {
            return Vec::new();
        }
        self.queues
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .filter(|waiter| waiter.deadline.is_some_and(|deadline| deadline < at))
            .map(Waiter::take_waker)
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.values().map(BTreeMap::len).sum()
    }

    /// Returns the number of requests that were admitted from the queue, but whose future has not been polled since.
    pub(crate) fn uncollected(&self) -> usize {
        self.granted.len()
    }

    /// Returns the waiting request of a client that is admitted next: the first one with an in-flight permit, or else the first one.
    fn head_of(&self, client: ClientId) -> Option<(QueueEntry, &Waiter)> {
        let key = |has_in_flight| QueueKey {
            client,
            has_in_flight,
        };
        self.head(key(true)).or_else(|| self.head(key(false)))
    }

    fn head(&self, key: QueueKey) -> Option<(QueueEntry, &Waiter)> {
        let (&(arrival, number), waiter) = self.queues.get(&key)?.iter().next()?;
        let entry = QueueEntry {
            key,
            arrival,
            number,
        };
        Some((entry, waiter))
    }

    fn take_out(&mut self, entry: QueueEntry) -> Option<Waiter> {
        let waiting = self.queues.get_mut(&entry.key)?;
        let waiter = waiting.remove(&(entry.arrival, entry.number))?;
        let is_empty = waiting.is_empty();
        self.with_deadline -= usize::from(waiter.deadline.is_some());
        if is_empty {
            self.queues.remove(&entry.key);
            let client = entry.key.client;
            if self.head_of(client).is_none() {
                self.turns.retain(|other| *other != client);
            }
        }
        Some(waiter)
    }
}

#[cfg(all(test, not(tinkers_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;
    use tinkers_limits::SlotRequest;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn join(queue: &mut WaitQueue, client: u64, deadline: Option<Timestamp>) -> QueueEntry {
        let key = QueueKey {
            client: ClientId(client),
            has_in_flight: false,
        };
        let waiter = Waiter {
            charge: Charge {
                take: SlotRequest::Slot,
                bytes: 0,
            },
            deadline,
            waker: Waker::noop().clone(),
            alarm: None,
        };
        queue.join(key, None, waiter)
    }

    #[test]
    fn only_waiters_with_a_deadline_before_the_given_time_are_woken() {
        let mut queue = WaitQueue::default();
        let first = join(&mut queue, 1, Some(at(5)));
        join(&mut queue, 1, None);
        assert_eq!(queue.take_wakers_with_deadline_before(at(5)).len(), 0);
        assert_eq!(queue.take_wakers_with_deadline_before(at(6)).len(), 1);
        queue.leave(first);
        assert_eq!(queue.with_deadline, 0);
        assert_eq!(queue.take_wakers_with_deadline_before(at(6)).len(), 0);
    }

    #[test]
    fn timer_for_an_unused_admission_is_set_by_another_client() {
        let mut queue = WaitQueue::default();
        let granted = join(&mut queue, 1, None);
        join(&mut queue, 1, None);
        queue.grant(granted, Ticket::default(), at(0));
        assert!(queue.set_watcher(at(1)).is_none(), "no other client waits");
        join(&mut queue, 2, None);
        join(&mut queue, 3, None);
        assert!(queue.set_watcher(at(1)).is_some());
        assert!(queue.set_watcher(at(1)).is_none(), "a timer is set");
        assert!(
            queue.set_watcher(at(2)).is_none(),
            "an earlier timer is set"
        );
        join(&mut queue, 4, None);
        assert!(
            queue.set_watcher(at(2)).is_none(),
            "another waiter has an earlier timer"
        );
    }

    #[test]
    fn oldest_grant_is_the_earliest_that_was_not_taken_back() {
        let mut queue = WaitQueue::default();
        let (one, two) = (join(&mut queue, 1, None), join(&mut queue, 2, None));
        assert_eq!(queue.oldest_grant(), None);
        queue.grant(two, Ticket::default(), at(3));
        queue.grant(one, Ticket::default(), at(4));
        assert_eq!(queue.oldest_grant(), Some(at(3)));
        assert_eq!(queue.take_back(at(4)).len(), 1);
        assert_eq!(queue.oldest_grant(), Some(at(4)));
    }
}
