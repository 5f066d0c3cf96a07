//! One class's connections: who gets the next free one, and when another is opened.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tinkers_core::{RecoveredError, RouteClass, Sent, Spawn, Task, Timestamp, TransportError};
use tokio::sync::{oneshot, watch};

use super::table::{Slot, Table};
use super::{ClassConnectionLimits, ClassConnectionStats, Ground, Lease, Patience};
use crate::dial::{DialLimit, Dialed};
use crate::failure;
use crate::link::Link;

/// The connections of one class, and the requests that wait for one, in order.
pub(crate) struct Lane {
    ground: Arc<Ground>,
    class: RouteClass,
    limits: ClassConnectionLimits,
    inner: Mutex<Inner>,
}

struct Inner {
    table: Table<Link>,
    waiters: VecDeque<Waiter>,
    opening: usize,
    /// How many requests at a time the last connection carried when it was opened; `None` before the first.
    carried: Option<usize>,
    /// How long the latest request would wait for a connection to open.
    connect: Duration,
    /// When a connection turned out to carry fewer than was hoped: those who had counted on it count anew from here.
    let_down_at: Timestamp,
    next_id: u64,
    closed: bool,
    reaper: Option<Task>,
    /// When the lane last looked at both clocks.
    looked_at: (Timestamp, SystemTime),
}

type Waiter = oneshot::Sender<Result<Lease, TransportError>>;

/// When the date moves on by this much more than the clock of timers, the machine was suspended, or the date was set. In either case
/// nobody knows how long the connections have really been idle. The monotonic clocks of Linux and macOS stand still in a suspend.
const SUSPENDED: Duration = Duration::from_millis(500);

/// An HTTP/1.1 connection whose answer is in, but whose upload is not taken, is given up after this long.
const SETTLE: Duration = Duration::from_secs(5);

impl Lane {
    pub(super) fn new(
        ground: Arc<Ground>,
        class: RouteClass,
        limits: ClassConnectionLimits,
    ) -> Arc<Self> {
        let inner = Mutex::new(Inner {
            table: Table::new(),
            waiters: VecDeque::new(),
            opening: 0,
            carried: None,
            connect: Duration::ZERO,
            let_down_at: Timestamp::ORIGIN,
            next_id: 0,
            closed: false,
            reaper: None,
            looked_at: (ground.time.now(), ground.time.wall()),
        });
        Arc::new(Self {
            ground,
            class,
            limits,
            inner,
        })
    }

    /// Waits for room on a connection, first come, first served. Cancel-safe: a connection given to a dropped wait goes on to
    /// the next.
    ///
    /// The peer may lower its stream limit between the grant and the moment when the waiter runs. A request beyond the limit would
    /// wait inside of h2, where nothing asks the rate limit again, so it waits here once more.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        patience: Patience,
    ) -> Result<Lease, TransportError> {
        loop {
            let lease = self.granted(patience).await?;
            if self.lock().table.fits(lease.id(), self.limits.streams) {
                return Ok(lease);
            }
        }
    }

    async fn granted(self: &Arc<Self>, patience: Patience) -> Result<Lease, TransportError> {
        // Dropped when the lock is free again.
        let mut gone = self.after_suspend();
        let (mut grant, dials, covered) = {
            let now = self.ground.time.now();
            let mut inner = self.lock();
            if inner.closed {
                return Err(failure::closed());
            }
            if inner.waiters.is_empty()
                && let Some(taken) = inner.table.take(self.limits.streams, now, &mut gone)
            {
                return Ok(Lease::new(Arc::clone(self), taken));
            }
            let (waiter, grant) = oneshot::channel();
            inner.waiters.push_back(waiter);
            inner.connect = patience.connect;
            let dials = self.dials_needed(&mut inner);
            (
                grant,
                dials,
                inner.waiters.len() <= inner.opening * self.carries(&inner),
            )
        };
        drop(gone);
        self.dial(dials);
        let time = &self.ground.time;
        let mut counted_from = time.now();
        while covered && counted_from.after(patience.connect) < patience.total_at {
            let connect_at = counted_from.after(patience.connect);
            if let Some(granted) = time.deadline(connect_at, &mut grant).await {
                return granted.unwrap_or_else(|_| Err(failure::closed()));
            }
            let (is_full, let_down_at) = self.prospects();
            if is_full {
                // As many connections as may be: it waits for others' requests, not for one to open.
                break;
            }
            if let_down_at <= counted_from {
                let (origin, limit) = (&self.ground.origin, patience.connect);
                return Err(failure::timed_out(origin, "connect", limit, Sent::NotSent));
            }
            counted_from = let_down_at;
        }
        match time.deadline(patience.total_at, grant).await {
            Some(granted) => granted.unwrap_or_else(|_| Err(failure::closed())),
            None => {
                let (origin, limit) = (&self.ground.origin, patience.total);
                Err(failure::timed_out(origin, "total", limit, Sent::NotSent))
            }
        }
    }

    /// Retires all connections when the machine was suspended since the last look; gives those that nobody uses.
    fn after_suspend(&self) -> Vec<Link> {
        let (now, wall) = (self.ground.time.now(), self.ground.time.wall());
        let mut inner = self.lock();
        let (last, last_wall) = std::mem::replace(&mut inner.looked_at, (now, wall));
        let by_date = wall.duration_since(last_wall).unwrap_or_default();
        if by_date.saturating_sub(now.since(last)) < SUSPENDED {
            return Vec::new();
        }
        inner.table.retire(now)
    }

    /// Whether there are as many connections as may be, and when a hope was last let down.
    fn prospects(&self) -> (bool, Timestamp) {
        let inner = self.lock();
        let is_full = inner.opening == 0 && inner.table.len() >= self.limits.max_connections;
        (is_full, inner.let_down_at)
    }

    /// Closes what nobody uses: after one kept connection turned out stale, the others are too.
    pub(crate) fn purge_idle(&self) {
        let gone = self.lock().table.drain_idle();
        drop(gone);
    }

    /// Refuses all who wait or come later, and closes each connection when its last request ends.
    pub(super) fn close(&self) {
        let (waiters, links, reaper) = {
            let mut inner = self.lock();
            inner.closed = true;
            (
                std::mem::take(&mut inner.waiters),
                inner.table.drain_idle(),
                inner.reaper.take(),
            )
        };
        drop((links, reaper));
        for waiter in waiters {
            // One who left needs no answer.
            let _ = waiter.send(Err(failure::closed()));
        }
    }

    pub(crate) fn stats(&self) -> ClassConnectionStats {
        let inner = self.lock();
        ClassConnectionStats {
            open: inner.table.len(),
            opening: inner.opening,
            in_use: inner.table.in_use(),
            waiting: inner
                .waiters
                .iter()
                .filter(|waiter| !waiter.is_closed())
                .count(),
            opened: inner.next_id,
        }
    }

    /// Takes back a connection whose request ended well.
    pub(super) fn recycle(self: &Arc<Self>, id: u64, mut link: Link) {
        if link.is_ready() || link.share().is_some() {
            return self.give_back(id, link);
        }
        let lane = Arc::clone(self);
        self.ground.runtime.launch(async move {
            let time = Arc::clone(&lane.ground.time);
            let settled = time.deadline(time.now().after(SETTLE), link.ready()).await;
            if matches!(settled, Some(Ok(()))) {
                lane.give_back(id, link);
            } else {
                lane.forget(id);
            }
        });
    }

    pub(super) fn give_back(self: &Arc<Self>, id: u64, link: Link) {
        let now = self.ground.time.now();
        let gone = {
            let mut inner = self.lock();
            let mut gone = Vec::from_iter(inner.table.give_back(id, link, now, self.limits.idle()));
            if inner.closed {
                gone.extend(inner.table.drain_idle());
            }
            gone
        };
        drop(gone);
        self.serve();
        self.reap();
    }

    /// Forgets a connection that broke, was abandoned or has ended.
    pub(super) fn forget(self: &Arc<Self>, id: u64) {
        if self.lock().table.forget(id) {
            self.serve();
        }
    }

    /// Hands free connections to those who wait, and opens more where there are too few.
    fn serve(self: &Arc<Self>) {
        let (mut grants, mut gone) = (Vec::new(), Vec::new());
        let now = self.ground.time.now();
        let dials = {
            let mut inner = self.lock();
            while let Some(waiter) = inner.waiters.pop_front() {
                if waiter.is_closed() {
                    continue;
                }
                match inner.table.take(self.limits.streams, now, &mut gone) {
                    Some(taken) => grants.push((waiter, Lease::new(Arc::clone(self), taken))),
                    None => {
                        inner.waiters.push_front(waiter);
                        break;
                    }
                }
            }
            self.dials_needed(&mut inner)
        };
        drop(gone);
        for (waiter, lease) in grants {
            // One who left a moment ago gives the lease back here, and its drop serves the next.
            drop(waiter.send(Ok(lease)));
        }
        self.dial(dials);
    }

    /// How many connections to open now; counts them as being opened.
    fn dials_needed(&self, inner: &mut Inner) -> usize {
        let room = self
            .limits
            .max_connections
            .saturating_sub(inner.table.len() + inner.opening);
        let each = self.carries(inner);
        if inner.closed || room == 0 || inner.waiters.len() <= inner.opening * each {
            return 0;
        }
        inner.waiters.retain(|waiter| !waiter.is_closed());
        let unserved = inner.waiters.len().saturating_sub(inner.opening * each);
        let dials = unserved.div_ceil(each).min(room);
        inner.opening += dials;
        dials
    }

    /// How many requests a connection is expected to carry. Until the first one tells, hope for many: one more round trip for
    /// an HTTP/1.1 server is cheaper than fifty connections to an HTTP/2 one.
    fn carries(&self, inner: &Inner) -> usize {
        inner.carried.unwrap_or_else(|| {
            match self.ground.dialer.may_multiplex(&self.ground.origin) {
                true => self.limits.streams,
                false => 1,
            }
        })
    }

    fn dial(self: &Arc<Self>, count: usize) {
        for _ in 0..count {
            let opening = Opening(Some(Arc::clone(self)));
            let connect = self.lock().connect;
            self.ground.runtime.launch(async move {
                let Some(lane) = &opening.0 else { return };
                let Ground {
                    dialer,
                    origin,
                    time,
                    ..
                } = &*lane.ground;
                let limit = DialLimit::within(connect, &**time);
                let dialed = dialer.dial(origin, limit).await;
                opening.done(dialed);
            });
        }
    }

    fn opened(self: &Arc<Self>, dialed: Dialed) {
        let now = self.ground.time.now();
        let multiplexed = dialed.link.share().is_some();
        let id = {
            let mut inner = self.lock();
            inner.opening -= 1;
            if inner.closed {
                return;
            }
            let carried = dialed.link.allowed().clamp(1, self.limits.streams);
            if carried < self.carries(&inner) {
                inner.let_down_at = now;
            }
            inner.carried = Some(carried);
            let id = inner.next_id;
            inner.next_id += 1;
            inner.table.add(id, dialed.link, now, self.limits.idle());
            id
        };
        tracing::debug!(
            class = self.class.name(),
            connection = id,
            multiplexed,
            "connection opened"
        );
        // Weak, so that a connection does not keep alive the lane that would close it.
        let lane = Arc::downgrade(self);
        let class = self.class.name();
        let recovered_errors = Arc::clone(&self.ground.recovered_errors);
        if let Some(allowed) = dialed.allowed {
            self.watch(allowed);
        }
        self.ground.runtime.launch(async move {
            match dialed.driver.await {
                Ok(()) => tracing::debug!(class, connection = id, "connection closed"),
                Err(error) => {
                    recovered_errors.count(RecoveredError::Connection);
                    tracing::debug!(recovered_error = RecoveredError::Connection.name(), class, connection = id, %error, "connection broke");
                }
            }
            if let Some(lane) = Weak::upgrade(&lane) {
                lane.forget(id);
            }
        });
        self.serve();
        self.reap();
    }

    /// Serves those who wait whenever a server allows more streams on a connection than before.
    fn watch(self: &Arc<Self>, mut allowed: watch::Receiver<usize>) {
        let lane = Arc::downgrade(self);
        self.ground.runtime.launch(async move {
            // Ends with the connection, whose driver holds the other end.
            while allowed.changed().await.is_ok() {
                match lane.upgrade() {
                    Some(lane) => lane.serve(),
                    None => return,
                }
            }
        });
    }

    /// A connection could not be opened: those who counted on it learn why, the others go on.
    fn failed(self: &Arc<Self>, error: TransportError) {
        tracing::debug!(class = self.class.name(), %error, "no connection");
        let waiters: Vec<Waiter> = {
            let mut inner = self.lock();
            inner.opening -= 1;
            let each = self.carries(&inner).min(inner.waiters.len());
            inner.waiters.drain(..each).collect()
        };
        let error = failure::copies(error);
        for waiter in waiters {
            let _ = waiter.send(Err(error()));
        }
        self.serve();
    }

    /// Sees to it that idle connections are closed in time.
    fn reap(self: &Arc<Self>) {
        let mut inner = self.lock();
        if inner.reaper.is_some() || inner.closed {
            return;
        }
        let lane = Arc::downgrade(self);
        inner.reaper = Some(self.ground.runtime.spawn(Box::pin(async move {
            while let Some(sleep) = lane.upgrade().and_then(|lane| lane.expire()) {
                sleep.await;
            }
        })));
    }

    fn expire(&self) -> Option<impl Future<Output = ()> + use<>> {
        let now = self.ground.time.now();
        let (gone, next, reaper) = {
            let mut inner = self.lock();
            let (gone, next) = inner.table.expire(now, self.limits.idle());
            // The next connection to become idle starts another.
            let reaper = if next.is_none() {
                inner.reaper.take()
            } else {
                None
            };
            (gone, next, reaper)
        };
        drop(gone);
        if let Some(own) = reaper {
            own.detach();
        }
        next.map(|at| self.ground.time.sleep_until(at))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection being opened. Dropped without an outcome (a panic, or the end of the runtime), it counts as failed.
struct Opening(Option<Arc<Lane>>);

impl Opening {
    fn done(mut self, dialed: Result<Dialed, TransportError>) {
        let Some(lane) = self.0.take() else { return };
        match dialed {
            Ok(dialed) => lane.opened(dialed),
            Err(error) => lane.failed(error),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(lane) = self.0.take() {
            // No new attempt: the runtime may be ending.
            let mut inner = lane.lock();
            inner.opening -= 1;
            let waiters = std::mem::take(&mut inner.waiters);
            drop(inner);
            for waiter in waiters {
                // One who left needs no answer.
                let _ = waiter.send(Err(failure::not_opened(&lane.ground.origin)));
            }
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("class", &self.class)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tinkers_core::{BaseUrl, TransportErrorKind};

    use super::*;
    use crate::dial::Dialer;
    use crate::proxy::ProxyConfig;
    use crate::runtime::IoRuntime;
    use crate::tls::{Protocol, Tls};

    fn lane(protocol: Protocol) -> Arc<Lane> {
        let runtime = IoRuntime::shared().expect("starts");
        let ground = Ground {
            dialer: Dialer::new(Tls::default(), ProxyConfig::none(), protocol),
            origin: BaseUrl::parse("http://far.invalid")
                .expect("valid")
                .origin()
                .clone(),
            time: runtime.time(),
            runtime,
            recovered_errors: Arc::default(),
        };
        let class = RouteClass::Rest;
        Lane::new(Arc::new(ground), class, ClassConnectionLimits::of(class))
    }

    #[tokio::test]
    async fn a_lowered_stream_limit_takes_back_a_grant() {
        let lane = lane(Protocol::Http2PriorKnowledge);
        let (near, _far) = tokio::io::duplex(1024);
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(near);
        let handshake = hyper::client::conn::http2::handshake(executor, io);
        let (sender, _connection) = handshake.await.expect("a preface fits");
        let (allow, allowed) = watch::channel(1);
        {
            let mut inner = lane.lock();
            let (now, idle) = (lane.ground.time.now(), lane.limits.idle());
            inner.table.add(0, Link::shared(sender, allowed), now, idle);
        }
        let total = Duration::from_secs(60);
        let patience = Patience {
            connect: total,
            total,
            total_at: lane.ground.time.now().after(total),
        };
        // It waits for no dial.
        lane.lock().carried = Some(1);
        lane.lock().opening = 1;
        let first = lane.acquire(patience).await.expect("room");
        let mut second = Box::pin(lane.acquire(patience));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert_eq!((lane.stats().in_use, lane.stats().waiting), (1, 0));
        // Granted, and taken away before the waiter runs.
        allow.send_replace(0);
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert_eq!((lane.stats().in_use, lane.stats().waiting), (0, 1));
        allow.send_replace(1);
        lane.serve();
        assert_eq!(second.await.expect("room again").id(), 0);
    }

    #[test]
    fn a_dial_that_is_cut_off_is_no_connection_for_those_who_wait() {
        let lane = lane(Protocol::Http1);
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let (waiter, grant) = oneshot::channel();
                lane.lock().waiters.push_back(waiter);
                grant
            })
            .collect();
        lane.lock().opening = 1;
        let opening = Opening(Some(Arc::clone(&lane)));
        let panicked = std::thread::spawn(move || {
            let _held = opening;
            std::panic::resume_unwind(Box::new("the dial panicked"));
        });
        panicked.join().expect_err("it panicked");
        for mut grant in waiting {
            let error = match grant.try_recv().expect("told") {
                Ok(_) => panic!("there is no connection"),
                Err(error) => error,
            };
            assert_eq!(
                (error.kind, error.sent),
                (TransportErrorKind::Connect, Sent::NotSent)
            );
            assert!(error.to_string().contains("far.invalid:80"), "{error}");
        }
        let stats = lane.stats();
        assert_eq!((stats.opening, stats.waiting), (0, 0));
    }
}
