//! The connections of one class, as plain data: which is free, which is taken, which has been idle for too long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tinkers_core::Timestamp;

/// What the table needs to know of a connection.
pub(crate) trait Slot: Sized {
    /// It takes no further request.
    fn is_closed(&self) -> bool;
    /// Another end of the same connection, when it carries several requests at a time.
    fn share(&self) -> Option<Self>;
    /// How many at a time the peer allows.
    fn allowed(&self) -> usize;
}

/// How long connections may be idle, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleLimits {
    pub(crate) single: Duration,
    pub(crate) shared: Duration,
    pub(crate) count: usize,
    /// A connection that has carried a request takes no further one when it is about as old as this.
    pub(crate) age: Duration,
}

impl IdleLimits {
    /// How old connection `id` may become: spread over the last quarter, so that those which were opened together are not all
    /// replaced together.
    fn age_of(&self, id: u64) -> Duration {
        // Fibonacci hashing: ids in a row are spread evenly.
        let part = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32;
        self.age - self.age / 4 / (1 << 16) * part
    }
}

/// Connections by how they are used. Ids are never used twice.
pub(crate) struct Table<S> {
    /// Those that carry one request at a time, unused; the longest unused first.
    idle: VecDeque<Idle<S>>,
    /// Those that carry one request at a time, in use, and when they are too old.
    out: BTreeMap<u64, Timestamp>,
    shared: BTreeMap<u64, Shared<S>>,
}

struct Idle<S> {
    id: u64,
    slot: S,
    since: Timestamp,
    old_at: Timestamp,
    unused: bool,
}

struct Shared<S> {
    slot: S,
    streams: usize,
    since: Timestamp,
    old_at: Timestamp,
    unused: bool,
}

impl<S: Slot> Shared<S> {
    /// Whether it may take another request. One that was never used is never too old, so that each connection carries one.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.unused || now < self.old_at
    }
}

/// A connection taken for one request.
pub(crate) struct Taken<S> {
    pub(crate) id: u64,
    pub(crate) slot: S,
    /// Whether it carried a request before, so that the server may have closed it meanwhile.
    pub(crate) reused: bool,
}

impl<S: Slot> Table<S> {
    pub(crate) fn new() -> Self {
        Self {
            idle: VecDeque::new(),
            out: BTreeMap::new(),
            shared: BTreeMap::new(),
        }
    }

    /// Connections that are open.
    pub(crate) fn len(&self) -> usize {
        self.idle.len() + self.out.len() + self.shared.len()
    }

    /// Requests under way.
    pub(crate) fn in_use(&self) -> usize {
        self.out.len()
            + self
                .shared
                .values()
                .map(|shared| shared.streams)
                .sum::<usize>()
    }

    /// Adds a connection that has just been opened.
    pub(crate) fn add(&mut self, id: u64, slot: S, now: Timestamp, limits: IdleLimits) {
        let old_at = now.after(limits.age_of(id));
        if slot.share().is_some() {
            self.shared.insert(
                id,
                Shared {
                    slot,
                    streams: 0,
                    since: now,
                    old_at,
                    unused: true,
                },
            );
        } else {
            self.idle.push_back(Idle {
                id,
                slot,
                since: now,
                old_at,
                unused: true,
            });
        }
    }

    /// Takes room for one request, with at most `streams` on one connection. What is found to be too old goes into `gone`, to be
    /// dropped outside of any lock.
    pub(crate) fn take(
        &mut self,
        streams: usize,
        now: Timestamp,
        gone: &mut Vec<S>,
    ) -> Option<Taken<S>> {
        // The most recently used first, so that those beyond the need grow old and go.
        while let Some(idle) = self.idle.pop_back() {
            if idle.slot.is_closed() || !(idle.unused || now < idle.old_at) {
                gone.push(idle.slot);
                continue;
            }
            self.out.insert(idle.id, idle.old_at);
            return Some(Taken {
                id: idle.id,
                slot: idle.slot,
                reused: !idle.unused,
            });
        }
        let is_over = |shared: &Shared<S>| {
            shared.slot.is_closed() || (shared.streams == 0 && !shared.is_fresh(now))
        };
        gone.extend(
            self.shared
                .extract_if(.., |_, shared| is_over(shared))
                .map(|(_, shared)| shared.slot),
        );
        // The oldest with room, for the same reason.
        for (&id, shared) in &mut self.shared {
            let room = streams.min(shared.slot.allowed());
            if shared.streams < room
                && shared.is_fresh(now)
                && let Some(slot) = shared.slot.share()
            {
                shared.streams += 1;
                let reused = !std::mem::take(&mut shared.unused);
                return Some(Taken { id, slot, reused });
            }
        }
        None
    }

    /// Whether what was taken on connection `id` still fits within `streams` and the limit of the peer, which may have been lowered
    /// since.
    pub(crate) fn fits(&self, id: u64, streams: usize) -> bool {
        let shared = self.shared.get(&id);
        shared.is_none_or(|shared| shared.streams <= streams.min(shared.slot.allowed()))
    }

    /// Gives back what was taken; gives what is of no further use, to be dropped outside of any lock.
    pub(crate) fn give_back(
        &mut self,
        id: u64,
        slot: S,
        now: Timestamp,
        limits: IdleLimits,
    ) -> Option<S> {
        if let Some(shared) = self.shared.get_mut(&id) {
            shared.streams -= 1;
            shared.since = now;
            if slot.is_closed() || (shared.streams == 0 && !shared.is_fresh(now)) {
                return self.shared.remove(&id).map(|shared| shared.slot);
            }
            return None;
        }
        let old_at = self.out.remove(&id).filter(|_| !slot.is_closed());
        let Some(old_at) = old_at.filter(|old_at| now < *old_at) else {
            return Some(slot);
        };
        self.idle.push_back(Idle {
            id,
            slot,
            since: now,
            old_at,
            unused: false,
        });
        if self.idle.len() > limits.count {
            return self.idle.pop_front().map(|idle| idle.slot);
        }
        None
    }

    /// Lets every connection carry what it carries now and nothing more; gives those that nobody uses.
    pub(crate) fn retire(&mut self, now: Timestamp) -> Vec<S> {
        for old_at in self.out.values_mut() {
            *old_at = now;
        }
        for shared in self.shared.values_mut() {
            (shared.old_at, shared.unused) = (now, false);
        }
        self.drain_idle()
    }

    /// Forgets a connection that is gone; whether it was known.
    pub(crate) fn forget(&mut self, id: u64) -> bool {
        let idle = self.idle.iter().position(|idle| idle.id == id);
        let idle = idle.and_then(|at| self.idle.remove(at)).is_some();
        self.out.remove(&id).is_some() || self.shared.remove(&id).is_some() || idle
    }

    /// Takes out all that nobody uses.
    pub(crate) fn drain_idle(&mut self) -> Vec<S> {
        let mut gone: Vec<S> = self.idle.drain(..).map(|idle| idle.slot).collect();
        gone.extend(
            self.shared
                .extract_if(.., |_, shared| shared.streams == 0)
                .map(|(_, shared)| shared.slot),
        );
        gone
    }

    /// Takes out what has been idle for too long, and says when to look again; `None` when nothing is idle.
    pub(crate) fn expire(
        &mut self,
        now: Timestamp,
        limits: IdleLimits,
    ) -> (Vec<S>, Option<Timestamp>) {
        let mut gone = Vec::new();
        while self
            .idle
            .front()
            .is_some_and(|idle| idle.since.after(limits.single) <= now)
        {
            gone.extend(self.idle.pop_front().map(|idle| idle.slot));
        }
        let expired =
            |shared: &Shared<S>| shared.streams == 0 && shared.since.after(limits.shared) <= now;
        gone.extend(
            self.shared
                .extract_if(.., |_, shared| expired(shared))
                .map(|(_, shared)| shared.slot),
        );
        let single = self
            .idle
            .front()
            .map(|idle| idle.since.after(limits.single));
        let idle_shared = self.shared.values().filter(|shared| shared.streams == 0);
        let next = idle_shared
            .map(|shared| shared.since.after(limits.shared))
            .chain(single)
            .min();
        (gone, next)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone)]
    struct Fake {
        closed: Rc<Cell<bool>>,
        allowed: Option<usize>,
    }

    impl Slot for Fake {
        fn is_closed(&self) -> bool {
            self.closed.get()
        }
        fn share(&self) -> Option<Self> {
            self.allowed.map(|_| self.clone())
        }
        fn allowed(&self) -> usize {
            self.allowed.unwrap_or(1)
        }
    }

    fn single() -> Fake {
        Fake {
            closed: Rc::default(),
            allowed: None,
        }
    }

    fn shared(allowed: usize) -> Fake {
        Fake {
            closed: Rc::default(),
            allowed: Some(allowed),
        }
    }

    const LIMITS: IdleLimits = IdleLimits {
        single: Duration::from_secs(4),
        shared: Duration::from_secs(90),
        count: 2,
        age: Duration::from_secs(1000),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn take(table: &mut Table<Fake>, streams: usize) -> Option<Taken<Fake>> {
        table.take(streams, at(0), &mut Vec::new())
    }

    #[test]
    fn a_connection_that_is_too_old_takes_no_further_request() {
        let limits = IdleLimits {
            age: Duration::from_secs(100),
            ..LIMITS
        };
        let mut table = Table::new();
        let gone = &mut Vec::new();
        table.add(0, single(), at(0), limits);
        table.add(1, shared(9), at(0), limits);
        // Each carries its first request, however late that is.
        let first = table.take(9, at(200), gone).expect("unused");
        let second = table.take(9, at(200), gone).expect("unused");
        assert_eq!((first.id, second.id, gone.len()), (0, 1, 0));
        assert!(table.take(9, at(200), gone).is_none(), "too old");
        let over = table.give_back(0, first.slot, at(200), limits);
        assert!(over.is_some(), "not kept");
        let over = table.give_back(1, second.slot, at(200), limits);
        assert!(over.is_some(), "not kept");
        assert_eq!(table.len(), 0);
        // An idle one that grows old goes when somebody looks.
        table.add(2, single(), at(300), limits);
        let taken = table.take(9, at(300), gone).expect("unused");
        assert!(table.give_back(2, taken.slot, at(301), limits).is_none());
        assert!(table.take(9, at(400), gone).is_none());
        assert_eq!((gone.len(), table.len()), (1, 0));
    }

    #[test]
    fn ages_are_spread_over_the_last_quarter() {
        let mut ages: Vec<Duration> = (0..256).map(|id| LIMITS.age_of(id)).collect();
        assert!(ages.iter().all(|age| (750..=1000).contains(&age.as_secs())));
        ages.sort();
        let widest = ages.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(Duration::from_secs(5)), "{widest:?}");
    }

    #[test]
    fn retired_connections_end_with_what_they_carry() {
        let mut table = Table::new();
        for id in 0..2 {
            table.add(id, single(), at(0), LIMITS);
            table.add(10 + id, shared(1), at(0), LIMITS);
        }
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut table, 1)).collect();
        assert_eq!(taken.len(), 4);
        table.add(2, single(), at(1), LIMITS);
        assert_eq!(table.retire(at(1)).len(), 1, "the one that nobody used");
        for taken in taken {
            let slot = table.give_back(taken.id, taken.slot, at(1), LIMITS);
            assert!(slot.is_some(), "{} is not kept", taken.id);
        }
        assert_eq!((table.len(), table.in_use()), (0, 0));
    }

    #[test]
    fn a_single_connection_carries_one_request_and_the_last_used_comes_first() {
        let mut table = Table::new();
        for id in 0..2 {
            table.add(id, single(), at(0), LIMITS);
        }
        let first = take(&mut table, 50).expect("free");
        let second = take(&mut table, 50).expect("free");
        assert!(take(&mut table, 50).is_none());
        assert_eq!(
            (first.id, first.reused, table.len(), table.in_use()),
            (1, false, 2, 2)
        );
        assert!(
            table
                .give_back(second.id, second.slot, at(1), LIMITS)
                .is_none()
        );
        assert!(
            table
                .give_back(first.id, first.slot, at(2), LIMITS)
                .is_none()
        );
        let again = take(&mut table, 50).expect("free");
        assert_eq!((again.id, again.reused), (1, true));
    }

    #[test]
    fn a_shared_connection_fills_up_to_the_smaller_limit() {
        let mut table = Table::new();
        table.add(0, shared(3), at(0), LIMITS);
        table.add(1, shared(100), at(0), LIMITS);
        let ids: Vec<u64> =
            std::iter::from_fn(|| take(&mut table, 5).map(|taken| taken.id)).collect();
        assert_eq!(ids, [0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(table.in_use(), 8);
        assert!(table.give_back(0, shared(3), at(1), LIMITS).is_none());
        assert_eq!(take(&mut table, 5).expect("room again").id, 0);
    }

    #[test]
    fn closed_connections_are_never_given_out() {
        let mut table = Table::new();
        let (one, many) = (single(), shared(9));
        table.add(0, one.clone(), at(0), LIMITS);
        table.add(1, many.clone(), at(0), LIMITS);
        one.closed.set(true);
        many.closed.set(true);
        assert!(take(&mut table, 50).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_idle_for_too_long_or_too_many_goes() {
        let mut table = Table::new();
        table.add(9, shared(9), at(0), LIMITS);
        for id in 0..3 {
            table.add(id, single(), at(id), LIMITS);
        }
        let (gone, next) = table.expire(at(4), LIMITS);
        assert_eq!((gone.len(), next), (1, Some(at(5))));
        let (gone, next) = table.expire(at(50), LIMITS);
        assert_eq!((gone.len(), next), (2, Some(at(90))));
        let (gone, next) = table.expire(at(90), LIMITS);
        assert_eq!((gone.len(), next, table.len()), (1, None, 0));

        for id in 10..13 {
            table.add(id, single(), at(90), LIMITS);
        }
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut table, 1)).collect();
        let refused: Vec<bool> = taken
            .into_iter()
            .map(|t| table.give_back(t.id, t.slot, at(91), LIMITS).is_some())
            .collect();
        assert_eq!((refused, table.len()), (vec![false, false, true], 2));
    }

    #[test]
    fn a_forgotten_connection_does_not_come_back() {
        let mut table = Table::new();
        table.add(0, single(), at(0), LIMITS);
        let taken = take(&mut table, 1).expect("free");
        assert!(table.forget(0));
        assert!(!table.forget(0));
        assert!(
            table.give_back(0, taken.slot, at(1), LIMITS).is_some(),
            "to be dropped"
        );
        assert_eq!(table.len(), 0);
    }
}
