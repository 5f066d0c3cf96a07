//! The connections of one route class as plain data: idle, busy and shared ones, and when they expire.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tinkers_core::Timestamp;

/// A connection, as far as the connection table needs to know it. Tests use a fake connection.
pub(crate) trait PooledConnection: Sized {
    /// Returns whether the connection accepts no further request.
    fn is_closed(&self) -> bool;
    /// Returns another handle of the same connection for a concurrent request, or `None` if the connection carries one request at a time
    /// (HTTP/1.1).
    fn share(&self) -> Option<Self>;
    /// Returns the maximum number of concurrent requests that the server allows on the connection.
    fn max_requests(&self) -> usize;
}

/// The limits on the idle time, the number and the age of connections. A connection beyond a limit is closed or accepts no further request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleLimits {
    pub(crate) http1: Duration,
    pub(crate) http2: Duration,
    pub(crate) count: usize,
    /// The maximum age of a connection. An older connection that has carried a request accepts no further request.
    pub(crate) age: Duration,
}

impl IdleLimits {
    /// Returns the maximum age of connection `id`. The ages are spread over the last quarter of the limit, so that connections opened
    /// together are not replaced together.
    fn age_of(&self, id: u64) -> Duration {
        // Fibonacci hashing spreads consecutive ids evenly.
        let part = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32;
        self.age - self.age / 4 / (1 << 16) * part
    }
}

/// The open connections of a pool, by state: idle and busy HTTP/1.1 connections, and HTTP/2 connections, which requests share. Connection
/// ids are never reused.
pub(crate) struct ConnectionTable<S> {
    /// The idle HTTP/1.1 connections. The first connection has been idle for the longest time.
    idle: VecDeque<IdleConnection<S>>,
    /// The HTTP/1.1 connections that carry a request. Maps the id of each connection to the time at which the connection stops accepting
    /// requests.
    busy: BTreeMap<u64, Timestamp>,
    /// The HTTP/2 connections by id, each with the number of its requests.
    shared: BTreeMap<u64, SharedConnection<S>>,
}

struct IdleConnection<S> {
    id: u64,
    connection: S,
    since: Timestamp,
    retire_at: Timestamp,
    unused: bool,
}

struct SharedConnection<S> {
    connection: S,
    streams: usize,
    since: Timestamp,
    retire_at: Timestamp,
    unused: bool,
}

impl<S: PooledConnection> SharedConnection<S> {
    /// Returns whether the connection is below its maximum age, so that it accepts another request. A connection that has carried no
    /// request always accepts one.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.unused || now < self.retire_at
    }
}

/// A connection that is taken out of the table for one request.
pub(crate) struct Checkout<S> {
    pub(crate) id: u64,
    pub(crate) connection: S,
    /// Whether the connection has carried a request before, so that the server may have closed it meanwhile.
    pub(crate) reused: bool,
}

impl<S: PooledConnection> ConnectionTable<S> {
    pub(crate) fn new() -> Self {
        Self {
            idle: VecDeque::new(),
            busy: BTreeMap::new(),
            shared: BTreeMap::new(),
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.idle.len() + self.busy.len() + self.shared.len()
    }

    /// Returns the number of requests that currently use a connection.
    pub(crate) fn in_use(&self) -> usize {
        self.busy.len()
            + self
                .shared
                .values()
                .map(|shared| shared.streams)
                .sum::<usize>()
    }

    /// Adds a connection that was just opened to the table.
    pub(crate) fn add(&mut self, id: u64, connection: S, now: Timestamp, limits: IdleLimits) {
        let retire_at = now.after(limits.age_of(id));
        if connection.share().is_some() {
            self.shared.insert(
                id,
                SharedConnection {
                    connection,
                    streams: 0,
                    since: now,
                    retire_at,
                    unused: true,
                },
            );
        } else {
            self.idle.push_back(IdleConnection {
                id,
                connection,
                since: now,
                retire_at,
                unused: true,
            });
        }
    }

    /// Takes a connection for one request, or returns `None` if no connection has capacity. An HTTP/2 connection carries at most `streams`
    /// requests. Moves connections that are closed or too old to `expired`, which the caller must drop without holding a lock.
    pub(crate) fn check_out(
        &mut self,
        streams: usize,
        now: Timestamp,
        expired: &mut Vec<S>,
    ) -> Option<Checkout<S>> {
        // The most recently used one first, so that surplus connections become idle for long and expire.
        while let Some(idle) = self.idle.pop_back() {
            if idle.connection.is_closed() || !(idle.unused || now < idle.retire_at) {
                expired.push(idle.connection);
                continue;
            }
            self.busy.insert(idle.id, idle.retire_at);
            return Some(Checkout {
                id: idle.id,
                connection: idle.connection,
                reused: !idle.unused,
            });
        }
        let is_done = |shared: &SharedConnection<S>| {
            shared.connection.is_closed() || (shared.streams == 0 && !shared.is_fresh(now))
        };
        expired.extend(self.remove_shared(is_done));
        // The oldest one with a free stream, for the same reason.
        for (&id, shared) in &mut self.shared {
            let room = streams.min(shared.connection.max_requests());
            if shared.streams < room
                && shared.is_fresh(now)
                && let Some(connection) = shared.connection.share()
            {
                shared.streams += 1;
                let reused = !std::mem::take(&mut shared.unused);
                return Some(Checkout {
                    id,
                    connection,
                    reused,
                });
            }
        }
        None
    }

    /// Returns whether connection `id` carries at most as many requests as allowed: `streams`, or the server's stream limit if that is
    /// lower. The server may have lowered its limit since the request took the connection.
    pub(crate) fn fits(&self, id: u64, streams: usize) -> bool {
        let shared = self.shared.get(&id);
        shared.is_none_or(|shared| shared.streams <= streams.min(shared.connection.max_requests()))
    }

    /// Puts a connection back into the table after a request. Returns a connection that has to be closed: this one if it is no longer
    /// usable, or the longest idle one if there are too many. The caller must drop it without holding a lock.
    pub(crate) fn check_in(
        &mut self,
        id: u64,
        connection: S,
        now: Timestamp,
        limits: IdleLimits,
    ) -> Option<S> {
        if let Some(shared) = self.shared.get_mut(&id) {
            shared.streams -= 1;
            shared.since = now;
            if connection.is_closed() || (shared.streams == 0 && !shared.is_fresh(now)) {
                return self.shared.remove(&id).map(|shared| shared.connection);
            }
            return None;
        }
        let retire_at = self.busy.remove(&id).filter(|_| !connection.is_closed());
        let Some(retire_at) = retire_at.filter(|retire_at| now < *retire_at) else {
            return Some(connection);
        };
        self.idle.push_back(IdleConnection {
            id,
            connection,
            since: now,
            retire_at,
            unused: false,
        });
        if self.idle.len() > limits.count {
            return self.idle.pop_front().map(|idle| idle.connection);
        }
        None
    }

    /// Marks the busy HTTP/1.1 connections and all HTTP/2 connections so that they accept no further request. Removes the idle connections
    /// and returns them, for the caller to close.
    pub(crate) fn retire(&mut self, now: Timestamp) -> Vec<S> {
        for retire_at in self.busy.values_mut() {
            *retire_at = now;
        }
        for shared in self.shared.values_mut() {
            (shared.retire_at, shared.unused) = (now, false);
        }
        self.drain_idle()
    }

    /// Removes a connection. Returns whether it was in the table.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let idle = self.idle.iter().position(|idle| idle.id == id);
        let idle = idle.and_then(|at| self.idle.remove(at)).is_some();
        self.busy.remove(&id).is_some() || self.shared.remove(&id).is_some() || idle
    }

    /// Removes all idle connections and returns them, for the caller to close.
    pub(crate) fn drain_idle(&mut self) -> Vec<S> {
        let mut expired: Vec<S> = self.idle.drain(..).map(|idle| idle.connection).collect();
        expired.extend(self.remove_shared(|shared| shared.streams == 0));
        expired
    }

    /// Removes and returns the HTTP/2 connections that satisfy `condition`.
    fn remove_shared(&mut self, condition: impl Fn(&SharedConnection<S>) -> bool) -> Vec<S> {
        let selected = self.shared.iter().filter(|(_, shared)| condition(shared));
        let ids: Vec<_> = selected.map(|(&id, _)| id).collect();
        let removed = ids.iter().filter_map(|id| self.shared.remove(id));
        removed.map(|shared| shared.connection).collect()
    }

    /// Removes and returns the connections that were idle for too long. Also returns the time at which the next idle connection expires, or
    /// `None` if no connection is idle.
    pub(crate) fn expire(
        &mut self,
        now: Timestamp,
        limits: IdleLimits,
    ) -> (Vec<S>, Option<Timestamp>) {
        let mut expired = Vec::new();
        while self
            .idle
            .front()
            .is_some_and(|idle| idle.since.after(limits.http1) <= now)
        {
            expired.extend(self.idle.pop_front().map(|idle| idle.connection));
        }
        let is_expired = |shared: &SharedConnection<S>| {
            shared.streams == 0 && shared.since.after(limits.http2) <= now
        };
        expired.extend(self.remove_shared(is_expired));
        let single = self.idle.front().map(|idle| idle.since.after(limits.http1));
        let idle_shared = self.shared.values().filter(|shared| shared.streams == 0);
        let next = idle_shared
            .map(|shared| shared.since.after(limits.http2))
            .chain(single)
            .min();
        (expired, next)
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

    impl PooledConnection for Fake {
        fn is_closed(&self) -> bool {
            self.closed.get()
        }
        fn share(&self) -> Option<Self> {
            self.allowed.map(|_| self.clone())
        }
        fn max_requests(&self) -> usize {
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
        http1: Duration::from_secs(4),
        http2: Duration::from_secs(90),
        count: 2,
        age: Duration::from_secs(1000),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    fn check_out(table: &mut ConnectionTable<Fake>, streams: usize) -> Option<Checkout<Fake>> {
        table.check_out(streams, at(0), &mut Vec::new())
    }

    #[test]
    fn connection_above_the_maximum_age_accepts_no_request() {
        let limits = IdleLimits {
            age: Duration::from_secs(100),
            ..LIMITS
        };
        let mut table = ConnectionTable::new();
        let expired = &mut Vec::new();
        table.add(0, single(), at(0), limits);
        table.add(1, shared(9), at(0), limits);
        // The first request is accepted at any age.
        let first = table.check_out(9, at(200), expired).expect("unused");
        let second = table.check_out(9, at(200), expired).expect("unused");
        assert_eq!((first.id, second.id, expired.len()), (0, 1, 0));
        assert!(table.check_out(9, at(200), expired).is_none(), "too old");
        let retired = table.check_in(0, first.connection, at(200), limits);
        assert!(retired.is_some(), "retired");
        let retired = table.check_in(1, second.connection, at(200), limits);
        assert!(retired.is_some(), "retired");
        assert_eq!(table.len(), 0);
        // An idle one expires at the next checkout.
        table.add(2, single(), at(300), limits);
        let checkout = table.check_out(9, at(300), expired).expect("unused");
        assert!(
            table
                .check_in(2, checkout.connection, at(301), limits)
                .is_none()
        );
        assert!(table.check_out(9, at(400), expired).is_none());
        assert_eq!((expired.len(), table.len()), (1, 0));
    }

    #[test]
    fn maximum_connection_ages_are_spread_over_the_last_quarter() {
        let mut ages: Vec<Duration> = (0..256).map(|id| LIMITS.age_of(id)).collect();
        assert!(ages.iter().all(|age| (750..=1000).contains(&age.as_secs())));
        ages.sort();
        let widest = ages.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(Duration::from_secs(5)), "{widest:?}");
    }

    #[test]
    fn retired_connections_close_when_their_requests_are_done() {
        let mut table = ConnectionTable::new();
        for id in 0..2 {
            table.add(id, single(), at(0), LIMITS);
            table.add(10 + id, shared(1), at(0), LIMITS);
        }
        let checkout: Vec<_> = std::iter::from_fn(|| check_out(&mut table, 1)).collect();
        assert_eq!(checkout.len(), 4);
        table.add(2, single(), at(1), LIMITS);
        assert_eq!(table.retire(at(1)).len(), 1, "the idle one");
        for checkout in checkout {
            let connection = table.check_in(checkout.id, checkout.connection, at(1), LIMITS);
            assert!(connection.is_some(), "{} is retired", checkout.id);
        }
        assert_eq!((table.len(), table.in_use()), (0, 0));
    }

    #[test]
    fn most_recently_used_http1_connection_is_reused_first() {
        let mut table = ConnectionTable::new();
        for id in 0..2 {
            table.add(id, single(), at(0), LIMITS);
        }
        let first = check_out(&mut table, 50).expect("free");
        let second = check_out(&mut table, 50).expect("free");
        assert!(check_out(&mut table, 50).is_none());
        assert_eq!(
            (first.id, first.reused, table.len(), table.in_use()),
            (1, false, 2, 2)
        );
        assert!(
            table
                .check_in(second.id, second.connection, at(1), LIMITS)
                .is_none()
        );
        assert!(
            table
                .check_in(first.id, first.connection, at(2), LIMITS)
                .is_none()
        );
        let again = check_out(&mut table, 50).expect("free");
        assert_eq!((again.id, again.reused), (1, true));
    }

    #[test]
    fn http2_connection_carries_requests_up_to_the_lower_stream_limit() {
        let mut table = ConnectionTable::new();
        table.add(0, shared(3), at(0), LIMITS);
        table.add(1, shared(100), at(0), LIMITS);
        let ids: Vec<u64> =
            std::iter::from_fn(|| check_out(&mut table, 5).map(|checkout| checkout.id)).collect();
        assert_eq!(ids, [0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(table.in_use(), 8);
        assert!(table.check_in(0, shared(3), at(1), LIMITS).is_none());
        assert_eq!(check_out(&mut table, 5).expect("room again").id, 0);
    }

    #[test]
    fn closed_connections_are_not_checked_out() {
        let mut table = ConnectionTable::new();
        let (one, many) = (single(), shared(9));
        table.add(0, one.clone(), at(0), LIMITS);
        table.add(1, many.clone(), at(0), LIMITS);
        one.closed.set(true);
        many.closed.set(true);
        assert!(check_out(&mut table, 50).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn idle_connections_are_limited_in_time_and_number() {
        let mut table = ConnectionTable::new();
        table.add(9, shared(9), at(0), LIMITS);
        for id in 0..3 {
            table.add(id, single(), at(id), LIMITS);
        }
        let (expired, next) = table.expire(at(4), LIMITS);
        assert_eq!((expired.len(), next), (1, Some(at(5))));
        let (expired, next) = table.expire(at(50), LIMITS);
        assert_eq!((expired.len(), next), (2, Some(at(90))));
        let (expired, next) = table.expire(at(90), LIMITS);
        assert_eq!((expired.len(), next, table.len()), (1, None, 0));

        for id in 10..13 {
            table.add(id, single(), at(90), LIMITS);
        }
        let checkout: Vec<_> = std::iter::from_fn(|| check_out(&mut table, 1)).collect();
        let surplus: Vec<bool> = checkout
            .into_iter()
            .map(|t| table.check_in(t.id, t.connection, at(91), LIMITS).is_some())
            .collect();
        assert_eq!((surplus, table.len()), (vec![false, false, true], 2));
    }

    #[test]
    fn removed_connection_is_not_put_back_into_the_table() {
        let mut table = ConnectionTable::new();
        table.add(0, single(), at(0), LIMITS);
        let checkout = check_out(&mut table, 1).expect("free");
        assert!(table.remove(0));
        assert!(!table.remove(0));
        assert!(
            table
                .check_in(0, checkout.connection, at(1), LIMITS)
                .is_some(),
            "to be dropped"
        );
        assert_eq!(table.len(), 0);
    }
}
