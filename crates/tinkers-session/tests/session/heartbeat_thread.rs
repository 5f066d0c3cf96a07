//! Tests that heartbeats on a dedicated thread do not depend on the caller's runtime.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tinkers_core::{BoxFuture, Clock, ManualClock, Spawn, Timestamp};
use tinkers_session::{HeartbeatParts, Session, SessionOptions, SessionParts};
use tinkers_transport::{DedicatedThread, IoRuntime};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::{Channel, Fixture, Recorded};

/// A manual clock that tells the test thread when a new timer is set, so that the test thread knows when to advance the clock.
#[derive(Debug)]
struct ReportingClock {
    clock: ManualClock,
    timers: Mutex<Sender<Timestamp>>,
}

impl Clock for ReportingClock {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let mut sleep = self.clock.sleep_until(at);
        let timers = self
            .timers
            .lock()
            .expect("the lock is not poisoned")
            .clone();
        let mut is_reported = false;
        Box::pin(std::future::poll_fn(move |cx| {
            let poll = sleep.as_mut().poll(cx);
            if poll.is_pending() && !std::mem::replace(&mut is_reported, true) {
                // The test may have ended.
                let _ = timers.send(at);
            }
            poll
        }))
    }
}

/// The real time for which the test waits for a heartbeat timer before it fails.
const TIME_LIMIT: Duration = Duration::from_secs(60);

struct ThreadFixture {
    fixture: Fixture,
    /// The manual clock of the heartbeats.
    clock: ManualClock,
    timers: Receiver<Timestamp>,
    time: Arc<dyn Clock>,
}

impl ThreadFixture {
    fn new() -> Self {
        let (sender, timers) = mpsc::channel();
        let clock = ManualClock::new();
        let time: Arc<dyn Clock> = Arc::new(ReportingClock {
            clock: clock.clone(),
            timers: Mutex::new(sender),
        });
        Self {
            fixture: Fixture::new(),
            clock,
            timers,
            time,
        }
    }

    /// Returns session parts that run heartbeats on `heartbeat` and all other background tasks on `caller`.
    fn parts(&self, caller: &Handle, heartbeat: Arc<dyn Spawn>) -> SessionParts {
        let parts = self.fixture.parts();
        SessionParts {
            spawner: Arc::new(IoRuntime::from_handle(caller.clone())),
            heartbeat: HeartbeatParts {
                time: Arc::clone(&self.time),
                spawner: heartbeat,
                ..parts.heartbeat
            },
            ..parts
        }
    }

    fn heartbeats(&self) -> usize {
        self.fixture.server.requests_on(Channel::Heartbeat).len()
    }

    fn next_timer(&self) -> Timestamp {
        self.timers
            .recv_timeout(TIME_LIMIT)
            .expect("heartbeats continue")
    }
}

fn caller() -> Runtime {
    let runtime = Builder::new_current_thread().build();
    runtime.expect("a runtime")
}

#[test]
fn heartbeats_continue_while_the_caller_blocks_its_runtime() {
    let threads = ThreadFixture::new();
    let caller = caller();
    let heartbeat = DedicatedThread::start("tinkers-heartbeat-test").expect("a thread");
    let parts = threads.parts(caller.handle(), Arc::new(heartbeat));
    caller.block_on(async {
        let session = Session::open(parts, SessionOptions::default()).await;
        let session = session.expect("opens");
        // This blocks the only thread of the caller for a minute of the heartbeat clock.
        for count in 1..=6 {
            let at = threads.next_timer();
            assert_eq!(at.since_origin(), Duration::from_secs(10 * count));
            threads.clock.advance(Duration::from_secs(10));
        }
        threads.next_timer();
        assert_eq!(threads.heartbeats(), 6);
        assert_eq!(
            session.events().latest(),
            None,
            "the session was never at risk"
        );
        drop(session);
    });
    // The thread has ended, and its timers with it.
    threads.clock.advance(Duration::from_secs(60));
    assert_eq!(threads.heartbeats(), 6);
    assert_eq!(threads.clock.sleepers(), 0);
}

#[test]
fn negative_control_heartbeats_on_a_blocked_runtime_stop() {
    let threads = ThreadFixture::new();
    let caller = caller();
    let heartbeat = IoRuntime::from_handle(caller.handle().clone());
    let parts = threads.parts(caller.handle(), Arc::new(heartbeat));
    caller.block_on(async {
        let session = Session::open(parts, SessionOptions::default()).await;
        let session = session.expect("opens");
        // The first timer may have been set during the opening.
        for _ in 1..=6 {
            threads.clock.advance(Duration::from_secs(10));
        }
        assert_eq!(threads.heartbeats(), 0);
        assert!(
            threads.timers.try_iter().count() <= 1,
            "heartbeats continued"
        );
        drop(session);
    });
}

#[test]
fn session_outlives_the_runtime_that_opened_it() {
    let threads = ThreadFixture::new();
    let heartbeat = DedicatedThread::start("tinkers-heartbeat-test").expect("a thread");
    let first = caller();
    let parts = threads.parts(first.handle(), Arc::new(heartbeat));
    let parts = SessionParts {
        spawner: Arc::new(IoRuntime::shared().expect("a runtime")),
        ..parts
    };
    let session = first.block_on(Session::open(parts, SessionOptions::default()));
    let session = session.expect("opens");
    drop(first);
    for _ in 0..3 {
        threads.next_timer();
        threads.clock.advance(Duration::from_secs(10));
    }
    threads.next_timer();
    assert_eq!(threads.heartbeats(), 3);
    let second = caller();
    let closed = second.block_on(session.close(tinkers_wire::FinishReason::Success, None));
    closed.expect("closed from another runtime");
    let main = threads.fixture.server.requests_on(Channel::Main);
    let last = main.last().map(Recorded::path);
    assert_eq!(last, Some("/api/v1/sessions/session-1/finish"));
    assert_eq!(threads.clock.sleepers(), 0, "heartbeats have stopped");
}
