//! The heart on a thread of its own goes on while the caller's runtime is blocked, and one on that runtime would not.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tinkers_core::{BoxFuture, Clock, ManualClock, Spawn, Timestamp};
use tinkers_session::{HeartbeatParts, Session, SessionOptions, SessionParts};
use tinkers_transport::{DedicatedThread, IoRuntime};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::{Asked, Line, World};

/// A manual clock that tells when somebody starts to wait for it, so that another thread can move it at the right moment.
#[derive(Debug)]
struct ToldClock {
    clock: ManualClock,
    waits: Mutex<Sender<Timestamp>>,
}

impl Clock for ToldClock {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> BoxFuture<'static, ()> {
        let mut sleep = self.clock.sleep_until(at);
        let waits = self.waits.lock().expect("nobody panics in here").clone();
        let mut told = false;
        Box::pin(std::future::poll_fn(move |cx| {
            let poll = sleep.as_mut().poll(cx);
            if poll.is_pending() && !std::mem::replace(&mut told, true) {
                // The test may be over by now.
                let _ = waits.send(at);
            }
            poll
        }))
    }
}

/// For how long a test waits for what should come at once: a guard against hanging, not a measure.
const NEVER: Duration = Duration::from_secs(60);

struct Setting {
    world: World,
    /// The heart's clock, which nothing else looks at.
    clock: ManualClock,
    waits: Receiver<Timestamp>,
    time: Arc<dyn Clock>,
}

impl Setting {
    fn new() -> Self {
        let (tell, waits) = mpsc::channel();
        let clock = ManualClock::new();
        let time: Arc<dyn Clock> = Arc::new(ToldClock {
            clock: clock.clone(),
            waits: Mutex::new(tell),
        });
        Self {
            world: World::new(),
            clock,
            waits,
            time,
        }
    }

    /// A session whose background work is the caller's runtime's, but for heartbeats, which are `heart`'s.
    fn parts(&self, caller: &Handle, heart: Arc<dyn Spawn>) -> SessionParts {
        let parts = self.world.parts();
        SessionParts {
            spawner: Arc::new(IoRuntime::from_handle(caller.clone())),
            heartbeat: HeartbeatParts {
                time: Arc::clone(&self.time),
                spawner: heart,
                ..parts.heartbeat
            },
            ..parts
        }
    }

    fn beats(&self) -> usize {
        self.world.server.on_line(Line::Heart).len()
    }

    fn next_wait(&self) -> Timestamp {
        self.waits.recv_timeout(NEVER).expect("the heart goes on")
    }
}

fn caller() -> Runtime {
    let runtime = Builder::new_current_thread().build();
    runtime.expect("a runtime")
}

#[test]
fn a_heart_on_its_own_thread_beats_on_while_the_callers_runtime_is_blocked() {
    let setting = Setting::new();
    let caller = caller();
    let heart = DedicatedThread::start("tinkers-heart-test").expect("a thread");
    let parts = setting.parts(caller.handle(), Arc::new(heart));
    caller.block_on(async {
        let session = Session::open(parts, SessionOptions::default()).await;
        let session = session.expect("opens");
        // From here on the caller's only thread does nothing but this: a minute of the heart's clock.
        for beat in 1..=6 {
            let at = setting.next_wait();
            assert_eq!(at.since_origin(), Duration::from_secs(10 * beat));
            setting.clock.advance(Duration::from_secs(10));
        }
        setting.next_wait();
        assert_eq!(setting.beats(), 6);
        assert_eq!(session.events().latest(), None, "it was never at risk");
        drop(session);
    });
    // Its thread is gone, and with it whoever could wait.
    setting.clock.advance(Duration::from_secs(60));
    assert_eq!(setting.beats(), 6);
    assert_eq!(setting.clock.sleepers(), 0);
}

#[test]
fn a_heart_on_the_callers_runtime_would_be_held_up_by_the_same_block() {
    let setting = Setting::new();
    let caller = caller();
    let heart = IoRuntime::from_handle(caller.handle().clone());
    let parts = setting.parts(caller.handle(), Arc::new(heart));
    caller.block_on(async {
        let session = Session::open(parts, SessionOptions::default()).await;
        let session = session.expect("opens");
        // It may have begun to wait while the session was opened.
        for _ in 1..=6 {
            setting.clock.advance(Duration::from_secs(10));
        }
        assert_eq!(setting.beats(), 0);
        assert!(setting.waits.try_iter().count() <= 1, "it went on");
        drop(session);
    });
}

#[test]
fn a_session_outlives_the_runtime_that_opened_it() {
    let setting = Setting::new();
    let heart = DedicatedThread::start("tinkers-heart-test").expect("a thread");
    let first = caller();
    let parts = setting.parts(first.handle(), Arc::new(heart));
    let parts = SessionParts {
        spawner: Arc::new(IoRuntime::shared().expect("a runtime")),
        ..parts
    };
    let session = first.block_on(Session::open(parts, SessionOptions::default()));
    let session = session.expect("opens");
    drop(first);
    for _ in 0..3 {
        setting.next_wait();
        setting.clock.advance(Duration::from_secs(10));
    }
    setting.next_wait();
    assert_eq!(setting.beats(), 3);
    let second = caller();
    let closed = second.block_on(session.close(tinkers_wire::FinishReason::Success, None));
    closed.expect("closed from another runtime");
    let main = setting.world.server.on_line(Line::Main);
    let last = main.last().map(Asked::path);
    assert_eq!(last, Some("/api/v1/sessions/session-1/finish"));
    assert_eq!(setting.clock.sleepers(), 0, "the heart has stopped");
}
