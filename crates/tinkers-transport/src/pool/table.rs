//! The connections of one class, as plain data: which is free, which is taken, which has been idle for too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tinkers_core::Moment;

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
}

/// Connections by how they are used. Ids are never used twice.
pub(crate) struct Table<S> {
    /// Those that carry one request at a time, unused; the longest unused first.
    idle: VecDeque<Idle<S>>,
    /// Those that carry one request at a time, in use.
    out: BTreeSet<u64>,
    shared: BTreeMap<u64, Shared<S>>,
}

struct Idle<S> {
    id: u64,
    slot: S,
    since: Moment,
    unused: bool,
}

struct Shared<S> {
    slot: S,
    streams: usize,
    since: Moment,
    unused: bool,
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
            out: BTreeSet::new(),
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
    pub(crate) fn add(&mut self, id: u64, slot: S, now: Moment) {
        if slot.share().is_some() {
            self.shared.insert(
                id,
                Shared {
                    slot,
                    streams: 0,
                    since: now,
                    unused: true,
                },
            );
        } else {
            self.idle.push_back(Idle {
                id,
                slot,
                since: now,
                unused: true,
            });
        }
    }

    /// Takes room for one request, with at most `streams` on one connection.
    pub(crate) fn take(&mut self, streams: usize) -> Option<Taken<S>> {
        // The most recently used first, so that those beyond the need grow old and go.
        while let Some(idle) = self.idle.pop_back() {
            if !idle.slot.is_closed() {
                self.out.insert(idle.id);
                return Some(Taken {
                    id: idle.id,
                    slot: idle.slot,
                    reused: !idle.unused,
                });
            }
        }
        self.shared.retain(|_, shared| !shared.slot.is_closed());
        // The oldest with room, for the same reason.
        for (&id, shared) in &mut self.shared {
            let room = streams.min(shared.slot.allowed());
            if shared.streams < room
                && let Some(slot) = shared.slot.share()
            {
                shared.streams += 1;
                let reused = !std::mem::take(&mut shared.unused);
                return Some(Taken { id, slot, reused });
            }
        }
        None
    }

    /// Gives back what was taken; gives what is of no further use, to be dropped outside of any lock.
    pub(crate) fn give_back(
        &mut self,
        id: u64,
        slot: S,
        now: Moment,
        limits: IdleLimits,
    ) -> Option<S> {
        if let Some(shared) = self.shared.get_mut(&id) {
            shared.streams -= 1;
            shared.since = now;
            if slot.is_closed() {
                return self.shared.remove(&id).map(|shared| shared.slot);
            }
            return None;
        }
        if !self.out.remove(&id) || slot.is_closed() {
            return Some(slot);
        }
        self.idle.push_back(Idle {
            id,
            slot,
            since: now,
            unused: false,
        });
        if self.idle.len() > limits.count {
            return self.idle.pop_front().map(|idle| idle.slot);
        }
        None
    }

    /// Forgets a connection that is gone; whether it was known.
    pub(crate) fn forget(&mut self, id: u64) -> bool {
        let idle = self.idle.iter().position(|idle| idle.id == id);
        let idle = idle.and_then(|at| self.idle.remove(at)).is_some();
        self.out.remove(&id) || self.shared.remove(&id).is_some() || idle
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
    pub(crate) fn expire(&mut self, now: Moment, limits: IdleLimits) -> (Vec<S>, Option<Moment>) {
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
    };

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_single_connection_carries_one_request_and_the_last_used_comes_first() {
        let mut table = Table::new();
        for id in 0..2 {
            table.add(id, single(), at(0));
        }
        let first = table.take(50).expect("free");
        let second = table.take(50).expect("free");
        assert!(table.take(50).is_none());
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
        let again = table.take(50).expect("free");
        assert_eq!((again.id, again.reused), (1, true));
    }

    #[test]
    fn a_shared_connection_fills_up_to_the_smaller_limit() {
        let mut table = Table::new();
        table.add(0, shared(3), at(0));
        table.add(1, shared(100), at(0));
        let ids: Vec<u64> = std::iter::from_fn(|| table.take(5).map(|taken| taken.id)).collect();
        assert_eq!(ids, [0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(table.in_use(), 8);
        assert!(table.give_back(0, shared(3), at(1), LIMITS).is_none());
        assert_eq!(table.take(5).expect("room again").id, 0);
    }

    #[test]
    fn closed_connections_are_never_given_out() {
        let mut table = Table::new();
        let (one, many) = (single(), shared(9));
        table.add(0, one.clone(), at(0));
        table.add(1, many.clone(), at(0));
        one.closed.set(true);
        many.closed.set(true);
        assert!(table.take(50).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_idle_for_too_long_or_too_many_goes() {
        let mut table = Table::new();
        table.add(9, shared(9), at(0));
        for id in 0..3 {
            table.add(id, single(), at(id));
        }
        let (gone, next) = table.expire(at(4), LIMITS);
        assert_eq!((gone.len(), next), (1, Some(at(5))));
        let (gone, next) = table.expire(at(50), LIMITS);
        assert_eq!((gone.len(), next), (2, Some(at(90))));
        let (gone, next) = table.expire(at(90), LIMITS);
        assert_eq!((gone.len(), next, table.len()), (1, None, 0));

        for id in 10..13 {
            table.add(id, single(), at(90));
        }
        let taken: Vec<_> = std::iter::from_fn(|| table.take(1)).collect();
        let refused: Vec<bool> = taken
            .into_iter()
            .map(|t| table.give_back(t.id, t.slot, at(91), LIMITS).is_some())
            .collect();
        assert_eq!((refused, table.len()), (vec![false, false, true], 2));
    }

    #[test]
    fn a_forgotten_connection_does_not_come_back() {
        let mut table = Table::new();
        table.add(0, single(), at(0));
        let taken = table.take(1).expect("free");
        assert!(table.forget(0));
        assert!(!table.forget(0));
        assert!(
            table.give_back(0, taken.slot, at(1), LIMITS).is_some(),
            "to be dropped"
        );
        assert_eq!(table.len(), 0);
    }
}
