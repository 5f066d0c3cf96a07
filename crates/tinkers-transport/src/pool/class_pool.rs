//! The connections of one route class: assigns them to waiting requests, and opens more when there are too few.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tinkers_core::{RouteClass, Sent, Spawn, Task, Timestamp, TransportError};
use tokio::sync::{oneshot, watch};

use super::connection_table::{ConnectionTable, PooledConnection};
use super::dial_plan::DialPlan;
use super::suspend::SuspendDetector;
use super::{ClassConnectionLimits, ClassConnectionStats, PoolContext};
use crate::connection::Connection;
use crate::dialer::{DialTimeout, NewConnection};
use crate::errors;
use crate::exchange::RequestLimits;

mod lease;

pub(crate) use lease::Lease;

/// The connections of one route class, and a FIFO queue of requests that wait for a connection.
pub(crate) struct ClassPool {
    context: Arc<PoolContext>,
    class: RouteClass,
    limits: ClassConnectionLimits,
    inner: Mutex<Inner>,
}

struct Inner {
    table: ConnectionTable<Connection>,
    waiters: VecDeque<Waiter>,
    dials: DialPlan,
    next_id: u64,
    closed: bool,
    reaper: Option<Task>,
    suspend_detector: SuspendDetector,
}

type Waiter = oneshot::Sender<Result<Lease, TransportError>>;

fn fail(waiters: impl IntoIterator<Item = Waiter>, error: impl Fn() -> TransportError) {
    for waiter in waiters {
        // The waiter may have been dropped.
        let _ = waiter.send(Err(error()));
    }
}

/// The time for which an upload may continue after its response is already complete. If the upload takes longer, its HTTP/1.1 connection is
/// closed.
const UPLOAD_GRACE: Duration = Duration::from_secs(5);

impl ClassPool {
    pub(super) fn new(
        context: Arc<PoolContext>,
        class: RouteClass,
        limits: ClassConnectionLimits,
    ) -> Arc<Self> {
        let may_multiplex = context.dialer.may_multiplex(&context.origin);
        let inner = Mutex::new(Inner {
            table: ConnectionTable::new(),
            waiters: VecDeque::new(),
            dials: DialPlan::new(may_multiplex, limits.streams),
            next_id: 0,
            closed: false,
            reaper: None,
            suspend_detector: SuspendDetector::new(context.clock.now(), context.clock.wall()),
        });
        Arc::new(Self {
            context,
            class,
            limits,
            inner,
        })
    }

    /// Waits for a connection that can carry one more request, in FIFO order. Cancel-safe: if the future is dropped after it was given a
    /// connection, the next waiting request gets the connection.
    ///
    /// If the server lowers its stream limit before the waiting request can use its connection, the request joins the queue again.
    /// Otherwise the request would wait inside the library h2, where it can no longer be stopped after a rate-limited response.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        limits: &RequestLimits,
    ) -> Result<Lease, TransportError> {
        loop {
            let lease = self.wait_for_grant(limits).await?;
            if self.lock().table.fits(lease.id(), self.limits.streams) {
                return Ok(lease);
            }
        }
    }

    async fn wait_for_grant(
        self: &Arc<Self>,
        limits: &RequestLimits,
    ) -> Result<Lease, TransportError> {
        let connect_timeout = limits.timeouts.connect;
        // Connections are dropped after the lock is released.
        let mut expired = self.retire_after_suspend();
        let (mut grant, dials, is_covered) = {
            let now = self.context.clock.now();
            let mut inner = self.lock();
            if inner.closed {
                return Err(errors::closed());
            }
            if inner.waiters.is_empty()
                && let Some(checkout) =
                    inner
                        .table
                        .check_out(self.limits.streams, now, &mut expired)
            {
                return Ok(Lease::new(Arc::clone(self), checkout));
            }
            let (waiter, grant) = oneshot::channel();
            inner.waiters.push_back(waiter);
            inner.dials.connect_timeout = connect_timeout;
            let dials = self.dials_needed(&mut inner);
            let is_covered = inner.dials.covers(inner.waiters.len());
            (grant, dials, is_covered)
        };
        drop(expired);
        self.dial(dials);
        let clock = &self.context.clock;
        let mut started_at = clock.now();
        while is_covered && started_at.after(connect_timeout) < limits.total_at {
            let connect_at = started_at.after(connect_timeout);
            if let Some(granted) = clock.deadline(connect_at, &mut grant).await {
                return granted.unwrap_or_else(|_| Err(errors::closed()));
            }
            let (is_full, shortfall_at) = self.capacity();
            if is_full {
                // No connection is being opened for this request: it waits for the end of another one.
                break;
            }
            if shortfall_at <= started_at {
                return Err(self.timed_out("connect", connect_timeout));
            }
            started_at = shortfall_at;
        }
        match clock.deadline(limits.total_at, grant).await {
            Some(granted) => granted.unwrap_or_else(|_| Err(errors::closed())),
            None => Err(self.timed_out("total", limits.timeouts.total)),
        }
    }

    fn timed_out(&self, timeout: &str, limit: Duration) -> TransportError {
        errors::timed_out(&self.context.origin, timeout, limit, Sent::NotSent)
    }

    /// Checks whether the machine was suspended (put to sleep) since the last call. If so, no connection accepts a further request, and the
    /// idle connections are returned, for the caller to close.
    fn retire_after_suspend(&self) -> Vec<Connection> {
        let (now, wall) = (self.context.clock.now(), self.context.clock.wall());
        let mut inner = self.lock();
        if inner.suspend_detector.was_suspended(now, wall) {
            return inner.table.retire(now);
        }
        Vec::new()
    }

    /// Returns whether the maximum number of connections is open, and the time at which a new connection last turned out to carry fewer
    /// requests than expected. Both decide how long a request waits for a new connection.
    fn capacity(&self) -> (bool, Timestamp) {
        let inner = self.lock();
        let is_full = inner.dials.opening == 0 && inner.table.len() >= self.limits.max_connections;
        (is_full, inner.dials.shortfall_at)
    }

    /// Closes the idle connections. Called when the server has closed an idle connection, since it has probably closed all of them.
    pub(crate) fn close_idle(&self) {
        let idle = self.lock().table.drain_idle();
        drop(idle);
    }

    /// Closes the pool: waiting and later requests fail, and each connection is closed when its last request has ended.
    pub(super) fn close(&self) {
        let (waiters, idle, reaper) = {
            let mut inner = self.lock();
            inner.closed = true;
            let idle = inner.table.drain_idle();
            (
                std::mem::take(&mut inner.waiters),
                idle,
                inner.reaper.take(),
            )
        };
        drop((idle, reaper));
        fail(waiters, errors::closed);
    }

    /// Returns the current numbers of connections and requests.
    pub(crate) fn stats(&self) -> ClassConnectionStats {
        let inner = self.lock();
        let waiters = inner.waiters.iter();
        ClassConnectionStats {
            open: inner.table.len(),
            opening: inner.dials.opening,
            in_use: inner.table.in_use(),
            waiting: waiters.filter(|waiter| !waiter.is_closed()).count(),
            opened: inner.next_id,
        }
    }

    /// Makes a connection available for the next request after a response was read completely. If the request is still being uploaded,
    /// waits for the end of the upload in a background task.
    fn recycle(self: &Arc<Self>, id: u64, mut connection: Connection) {
        if connection.is_ready() || connection.share().is_some() {
            return self.check_in(id, connection);
        }
        let class_pool = Arc::clone(self);
        self.context.runtime.launch(async move {
            let clock = Arc::clone(&class_pool.context.clock);
            let deadline = clock.now().after(UPLOAD_GRACE);
            let ready = clock.deadline(deadline, connection.ready()).await;
            if matches!(ready, Some(Ok(()))) {
                class_pool.check_in(id, connection);
            } else {
                class_pool.remove(id);
            }
        });
    }

    fn check_in(self: &Arc<Self>, id: u64, connection: Connection) {
        let now = self.context.clock.now();
        let expired = {
            let mut inner = self.lock();
            let idle = self.limits.idle();
            let mut expired = Vec::from_iter(inner.table.check_in(id, connection, now, idle));
            if inner.closed {
                expired.extend(inner.table.drain_idle());
            }
            expired
        };
        drop(expired);
        self.serve();
        self.start_reaper();
    }

    /// Removes a connection that has ended, or whose request was cancelled, and lets the waiting requests open another connection.
    fn remove(self: &Arc<Self>, id: u64) {
        if self.lock().table.remove(id) {
            self.serve();
        }
    }

    /// Gives free connections to the requests that wait for a connection, and opens more connections for the remaining requests.
    fn serve(self: &Arc<Self>) {
        let (mut grants, mut expired) = (Vec::new(), Vec::new());
        let now = self.context.clock.now();
        let dials = {
            let mut inner = self.lock();
            while let Some(waiter) = inner.waiters.pop_front() {
                if waiter.is_closed() {
                    continue;
                }
                match inner
                    .table
                    .check_out(self.limits.streams, now, &mut expired)
                {
                    Some(checkout) => grants.push((waiter, Lease::new(Arc::clone(self), checkout))),
                    None => {
                        inner.waiters.push_front(waiter);
                        break;
                    }
                }
            }
            self.dials_needed(&mut inner)
        };
        drop(expired);
        for (waiter, lease) in grants {
            // If the waiter was just dropped, the lease is dropped here, which serves the next waiter.
            drop(waiter.send(Ok(lease)));
        }
        self.dial(dials);
    }

    /// Returns the number of connections to open now, and adds it to the number of connections that are being opened.
    fn dials_needed(&self, inner: &mut Inner) -> usize {
        let count = inner.table.len() + inner.dials.opening;
        let room = self.limits.max_connections.saturating_sub(count);
        if inner.closed || room == 0 || inner.dials.covers(inner.waiters.len()) {
            return 0;
        }
        inner.waiters.retain(|waiter| !waiter.is_closed());
        inner.dials.start(inner.waiters.len(), room)
    }

    fn dial(self: &Arc<Self>, count: usize) {
        for _ in 0..count {
            let guard = DialGuard(Some(Arc::clone(self)));
            let connect_timeout = self.lock().dials.connect_timeout;
            self.context.runtime.launch(async move {
                let Some(class_pool) = &guard.0 else { return };
                let context = &class_pool.context;
                let timeout = DialTimeout::new(connect_timeout, &*context.clock);
                let dialed = context.dialer.dial(&context.origin, timeout).await;
                guard.finish(dialed);
            });
        }
    }

    /// Adds a connection that has been opened, and starts the task that does its I/O.
    fn add(self: &Arc<Self>, new: NewConnection) {
        let now = self.context.clock.now();
        let multiplexed = new.connection.share().is_some();
        let id = {
            let mut inner = self.lock();
            inner.dials.opening -= 1;
            if inner.closed {
                return;
            }
            let capacity = new.connection.max_requests().clamp(1, self.limits.streams);
            inner.dials.record_capacity(capacity, now);
            let id = inner.next_id;
            inner.next_id += 1;
            inner.table.add(id, new.connection, now, self.limits.idle());
            id
        };
        let class = self.class.name();
        tracing::debug!(class, connection = id, multiplexed, "connection opened");
        if let Some(max_streams) = new.max_streams {
            self.watch_max_streams(max_streams);
        }
        let context = Arc::clone(&self.context);
        // Weak, so that a connection does not keep its pool alive.
        let class_pool = Arc::downgrade(self);
        self.context.runtime.launch(async move {
            context.drive(new.driver, class, id).await;
            if let Some(class_pool) = Weak::upgrade(&class_pool) {
                class_pool.remove(id);
            }
        });
        self.serve();
        self.start_reaper();
    }

    /// Starts a task that watches the server's stream limit on an HTTP/2 connection. When the limit rises, the task lets waiting requests
    /// use the connection.
    fn watch_max_streams(self: &Arc<Self>, mut max_streams: watch::Receiver<usize>) {
        let class_pool = Arc::downgrade(self);
        self.context.runtime.launch(async move {
            // Ends with the connection, whose driver owns the sender.
            while max_streams.changed().await.is_ok() {
                match class_pool.upgrade() {
                    Some(class_pool) => class_pool.serve(),
                    None => return,
                }
            }
        });
    }

    /// Handles a failed attempt to open a connection: the requests that the connection would have carried fail with `error`, and more
    /// connections are opened for the remaining requests.
    fn fail_dial(self: &Arc<Self>, error: TransportError) {
        tracing::debug!(class = self.class.name(), %error, "cannot open a connection");
        let waiters: Vec<Waiter> = {
            let mut inner = self.lock();
            inner.dials.opening -= 1;
            let count = inner.dials.expected_requests.min(inner.waiters.len());
            inner.waiters.drain(..count).collect()
        };
        fail(waiters, errors::copies(error));
        self.serve();
    }

    /// Starts the task that closes idle connections, if the task is not running.
    fn start_reaper(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.reaper.is_some() || inner.closed {
            return;
        }
        let class_pool = Arc::downgrade(self);
        inner.reaper = Some(self.context.runtime.spawn(Box::pin(async move {
            while let Some(sleep) = class_pool.upgrade().and_then(|pool| pool.reap()) {
                sleep.await;
            }
        })));
    }

    /// Closes connections that were idle for too long. Returns a sleep until the next idle connection has to be closed, or `None` if no
    /// connection is idle.
    fn reap(&self) -> Option<impl Future<Output = ()> + use<>> {
        let now = self.context.clock.now();
        let (expired, next, reaper) = {
            let mut inner = self.lock();
            let (expired, next) = inner.table.expire(now, self.limits.idle());
            // The calling task ends; the next idle connection starts another one.
            let reaper = inner.reaper.take_if(|_| next.is_none());
            (expired, next, reaper)
        };
        drop(expired);
        if let Some(reaper) = reaper {
            reaper.detach();
        }
        next.map(|at| self.context.clock.sleep_until(at))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard for the attempt to open one connection. If the guard is dropped without a result, because the task panicked or the runtime has
/// ended, all requests that wait for a connection fail.
struct DialGuard(Option<Arc<ClassPool>>);

impl DialGuard {
    fn finish(mut self, dialed: Result<NewConnection, TransportError>) {
        let Some(class_pool) = self.0.take() else {
            return;
        };
        match dialed {
            Ok(new) => class_pool.add(new),
            Err(error) => class_pool.fail_dial(error),
        }
    }
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if let Some(class_pool) = self.0.take() {
            // Does not dial again: the runtime may be ending.
            let mut inner = class_pool.lock();
            inner.dials.opening -= 1;
            let waiters = std::mem::take(&mut inner.waiters);
            drop(inner);
            fail(waiters, || errors::not_opened(&class_pool.context.origin));
        }
    }
}

impl fmt::Debug for ClassPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassPool")
            .field("class", &self.class)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tinkers_core::{BaseUrl, Timeouts, TransportErrorKind};

    use super::*;
    use crate::dialer::Dialer;
    use crate::io_runtime::IoRuntime;
    use crate::proxy::ProxyConfig;
    use crate::tls::{HttpVersions, Tls};

    fn class_pool(versions: HttpVersions) -> Arc<ClassPool> {
        let runtime = IoRuntime::shared().expect("starts");
        let url = BaseUrl::parse("http://far.invalid").expect("valid");
        let context = PoolContext {
            dialer: Dialer::new(Tls::default(), ProxyConfig::none(), versions),
            origin: url.origin().clone(),
            clock: runtime.clock(),
            runtime,
            recovered_errors: Arc::default(),
        };
        let class = RouteClass::Rest;
        ClassPool::new(Arc::new(context), class, ClassConnectionLimits::of(class))
    }

    #[tokio::test]
    async fn request_waits_again_if_the_server_lowers_its_stream_limit() {
        let class_pool = class_pool(HttpVersions::Http2PriorKnowledge);
        let (client, _server) = tokio::io::duplex(1024);
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(client);
        let handshake = hyper::client::conn::http2::handshake(executor, io);
        let (sender, _connection) = handshake.await.expect("the preface is written");
        let (set_max_streams, max_streams) = watch::channel(1);
        let now = class_pool.context.clock.now();
        {
            let mut inner = class_pool.lock();
            let connection = Connection::http2(sender, max_streams);
            let idle = class_pool.limits.idle();
            inner.table.add(0, connection, now, idle);
            // No connection is dialled.
            (inner.dials.expected_requests, inner.dials.opening) = (1, 1);
        }
        let total = Duration::from_secs(60);
        let limits = RequestLimits {
            timeouts: Timeouts::default().with_connect(total).with_total(total),
            total_at: now.after(total),
            max_bytes: usize::MAX,
        };
        let first = class_pool.acquire(&limits).await.expect("a free stream");
        let mut second = Box::pin(class_pool.acquire(&limits));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(first);
        let stats = || (class_pool.stats().in_use, class_pool.stats().waiting);
        assert_eq!(stats(), (1, 0));
        // The limit is lowered between the grant and the next poll of the waiter.
        set_max_streams.send_replace(0);
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert_eq!(stats(), (0, 1));
        set_max_streams.send_replace(1);
        class_pool.serve();
        assert_eq!(second.await.expect("a free stream").id(), 0);
    }

    #[test]
    fn panic_of_a_connection_attempt_fails_all_waiting_requests() {
        let class_pool = class_pool(HttpVersions::Http1);
        let grants: Vec<_> = (0..2)
            .map(|_| {
                let (waiter, grant) = oneshot::channel();
                class_pool.lock().waiters.push_back(waiter);
                grant
            })
            .collect();
        class_pool.lock().dials.opening = 1;
        let guard = DialGuard(Some(Arc::clone(&class_pool)));
        let panicked = std::thread::spawn(move || {
            let _guard = guard;
            std::panic::resume_unwind(Box::new("the dial panicked"));
        });
        panicked.join().expect_err("panicked");
        for mut grant in grants {
            let Err(error) = grant.try_recv().expect("a result") else {
                panic!("there is no connection");
            };
            assert_eq!(
                (error.kind, error.sent),
                (TransportErrorKind::Connect, Sent::NotSent)
            );
            assert!(error.to_string().contains("far.invalid:80"), "{error}");
        }
        let stats = class_pool.stats();
        assert_eq!((stats.opening, stats.waiting), (0, 0));
    }
}
