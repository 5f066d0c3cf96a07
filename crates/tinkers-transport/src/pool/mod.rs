//! The connections to the origin of the base URL: one pool per route class, so that a busy class does not delay another one.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Clock, Origin, RecoveredError, RecoveredErrors, RouteClass};

use crate::dialer::{Dialer, Driver};
use crate::io_runtime::IoRuntime;

mod class_pool;
pub(crate) mod connection_table;
mod dial_plan;
mod suspend;

pub(crate) use class_pool::ClassPool;

/// The limits on the connections of one route class, such as their number, idle times and age. Each class has its own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassConnectionLimits {
    /// The maximum number of open connections, at least 1. Requests beyond the capacity of the connections wait in FIFO order.
    pub max_connections: usize,
    /// The maximum number of concurrent requests on one HTTP/2 connection, at least 1. A lower limit of the server applies as well.
    pub streams: usize,
    /// The maximum number of idle HTTP/1.1 connections. If there are more, the longest idle connection is closed.
    pub max_idle: usize,
    /// The time after which an idle HTTP/1.1 connection is closed.
    pub idle_http1: Duration,
    /// The time after which an idle HTTP/2 connection is closed.
    pub idle_http2: Duration,
    /// The maximum age of a connection. An older connection accepts no further requests and closes when its requests are done. The host
    /// name is then resolved again for a new connection. Every connection carries at least one request.
    ///
    /// For each connection, up to a quarter of the age is subtracted, so that connections that were opened together are not replaced at
    /// the same time.
    pub max_age: Duration,
}

impl ClassConnectionLimits {
    /// Returns the default connection limits of `class`.
    pub const fn of(class: RouteClass) -> Self {
        let (max_connections, streams) = match class {
            RouteClass::Sample => (256, 50),
            // One connection per upload.
            RouteClass::Train => (64, 1),
            // There may be as many polls as operations in flight.
            RouteClass::Poll => (4096, 50),
            RouteClass::Control => (8, 50),
            _ => (32, 50),
        };
        Self {
            max_connections,
            streams,
            // No separate limit: a loop leaves each connection idle between two requests, and would have to reopen it. Unused
            // connections are closed by the idle timeouts.
            max_idle: max_connections,
            // Servers written in Python close idle connections after five seconds. Closing earlier costs a new connection now and
            // then; closing later can lose a submission with an unknown outcome.
            idle_http1: Duration::from_secs(4),
            idle_http2: Duration::from_secs(90),
            // A few times the usual lifetime of DNS entries. Even 4096 poll connections cause only seven replacements per second.
            max_age: Duration::from_secs(600),
        }
    }

    /// Sets the maximum number of open connections and the maximum number of idle connections to the same number, at least 1.
    #[must_use]
    pub const fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self.max_idle = connections;
        self
    }

    /// Sets the maximum number of concurrent requests on one HTTP/2 connection, at least 1.
    #[must_use]
    pub const fn with_streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// Sets the maximum number of idle HTTP/1.1 connections.
    #[must_use]
    pub const fn with_max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// Sets the times after which an idle HTTP/1.1 and an idle HTTP/2 connection are closed.
    #[must_use]
    pub const fn with_idle_timeouts(mut self, http1: Duration, http2: Duration) -> Self {
        self.idle_http1 = http1;
        self.idle_http2 = http2;
        self
    }

    /// Sets the maximum age of a connection. An older connection accepts no further requests.
    #[must_use]
    pub const fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    const fn idle(&self) -> connection_table::IdleLimits {
        connection_table::IdleLimits {
            http1: self.idle_http1,
            http2: self.idle_http2,
            count: self.max_idle,
            age: self.max_age,
        }
    }
}

/// The current numbers of connections and requests of one route class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassConnectionStats {
    /// The number of open connections.
    pub open: usize,
    /// The number of connections that are being opened.
    pub opening: usize,
    /// The number of requests that use a connection or an HTTP/2 stream.
    pub in_use: usize,
    /// The number of requests that wait for a connection.
    pub waiting: usize,
    /// The number of connections that have been opened since the transport was built.
    pub opened: u64,
}

/// The objects that the connection pools of all route classes use, such as the clock and the mechanism to open connections.
#[derive(Debug)]
pub(crate) struct PoolContext {
    pub(crate) dialer: Dialer,
    pub(crate) origin: Origin,
    pub(crate) runtime: IoRuntime,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) recovered_errors: Arc<RecoveredErrors>,
}

impl PoolContext {
    /// Does the I/O of connection `id` by polling its `driver`, until the connection ends. Counts and logs a connection that breaks.
    async fn drive(&self, driver: Driver, class: &'static str, id: u64) {
        match driver.await {
            Ok(()) => tracing::debug!(class, connection = id, "connection closed"),
            Err(error) => {
                let recovered = RecoveredError::Connection;
                self.recovered_errors.count(recovered);
                tracing::debug!(recovered_error = recovered.name(), class, connection = id, %error, "connection broke");
            }
        }
    }
}

/// The connection pools of a transport, one for each route class.
#[derive(Debug)]
pub(crate) struct Pool {
    classes: [Arc<ClassPool>; RouteClass::ALL.len()],
}

impl Pool {
    pub(crate) fn new(
        context: &Arc<PoolContext>,
        limits: &[ClassConnectionLimits; RouteClass::ALL.len()],
    ) -> Self {
        let class_pool =
            |class: RouteClass| ClassPool::new(Arc::clone(context), class, limits[class.index()]);
        Self {
            classes: RouteClass::ALL.map(class_pool),
        }
    }

    /// Returns the connection pool of `class`.
    pub(crate) fn class(&self, class: RouteClass) -> &Arc<ClassPool> {
        &self.classes[class.index()]
    }

    /// Closes the connection pools of all route classes.
    pub(crate) fn close(&self) {
        self.classes
            .iter()
            .for_each(|class_pool| class_pool.close());
    }
}
