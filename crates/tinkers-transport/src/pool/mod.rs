//! Connections to the base URL's origin, a lane for each traffic class, so that none waits behind another's.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Clock, Origin, RecoveredErrors, RouteClass, Timestamp};

use crate::dial::Dialer;
use crate::runtime::IoRuntime;

mod lane;
mod lease;
pub(crate) mod table;

pub(crate) use lane::Lane;
pub(crate) use lease::Lease;

/// The limits of one class's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassConnectionLimits {
    /// Connections open at a time, at least 1; requests beyond what they carry wait in order.
    pub max_connections: usize,
    /// Requests at a time on one HTTP/2 connection, at least 1; fewer where the server says so.
    pub streams: usize,
    /// HTTP/1.1 connections kept although nobody uses them.
    pub max_idle: usize,
    /// An unused HTTP/1.1 connection is closed after this long.
    pub idle_http1: Duration,
    /// An unused HTTP/2 connection is closed after this long.
    pub idle_http2: Duration,
    /// A connection that is older than this takes no further request and closes after those that it carries, so that a host name
    /// which has moved is looked up again. Up to a quarter is taken off, by the connection's number, so that connections which were opened
    /// together are not all replaced together. Every connection carries at least one request.
    pub max_age: Duration,
}

impl ClassConnectionLimits {
    /// The defaults of `class`. Training has a connection for each upload; polls may be as many as operations in flight.
    pub const fn of(class: RouteClass) -> Self {
        let (max_connections, streams) = match class {
            RouteClass::Sample => (256, 50),
            RouteClass::Train => (64, 1),
            RouteClass::Poll => (4096, 50),
            RouteClass::Control => (8, 50),
            _ => (32, 50),
        };
        Self {
            max_connections,
            streams,
            // All of them: between two requests of a loop each is idle for a moment, and to close it then would mean to open
            // another for the next. The time below is what takes back those that nobody needs.
            max_idle: max_connections,
            // Python's servers close after five seconds of silence. To be just before them costs a connection now and then;
            // to be after them costs a submission whose fate nobody knows.
            idle_http1: Duration::from_secs(4),
            idle_http2: Duration::from_secs(90),
            // A few times what names live for in caches; replacing even the 4096 connections of polls takes seven a second.
            max_age: Duration::from_secs(600),
        }
    }

    const fn idle(&self) -> table::IdleLimits {
        table::IdleLimits {
            single: self.idle_http1,
            shared: self.idle_http2,
            count: self.max_idle,
            age: self.max_age,
        }
    }
}

/// The connections of one class at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassConnectionStats {
    /// Connections that are open.
    pub open: usize,
    /// Connections being opened.
    pub opening: usize,
    /// Requests that hold a connection or a stream.
    pub in_use: usize,
    /// Requests waiting for one.
    pub waiting: usize,
    /// Connections opened so far.
    pub opened: u64,
}

/// What all lanes share.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) dialer: Dialer,
    pub(crate) origin: Origin,
    pub(crate) runtime: IoRuntime,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

/// How long a request may wait for its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) total: Duration,
    pub(crate) total_at: Timestamp,
}

/// One lane for each class.
#[derive(Debug)]
pub(crate) struct Pool {
    lanes: [Arc<Lane>; RouteClass::ALL.len()],
}

impl Pool {
    pub(crate) fn new(
        ground: &Arc<Ground>,
        limits: &[ClassConnectionLimits; RouteClass::ALL.len()],
    ) -> Self {
        Self {
            lanes: RouteClass::ALL
                .map(|class| Lane::new(Arc::clone(ground), class, limits[class.index()])),
        }
    }

    pub(crate) fn lane(&self, class: RouteClass) -> &Arc<Lane> {
        &self.lanes[class.index()]
    }

    pub(crate) fn close(&self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }
}
