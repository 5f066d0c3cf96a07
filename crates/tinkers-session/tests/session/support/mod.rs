//! The test fixture of a session: a scripted server, a manual clock and manual executors.

mod executor;
mod server;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tinkers_core::{Clock, Error, Jitter, ManualClock, SplitMix};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};

pub(crate) use executor::{ManualExecutor, WakeFlag};
pub(crate) use server::{Channel, Recorded, Reply, Server};

/// The base URL of the fake server.
pub(crate) const ADDRESS: &str = "http://tinker.example/prefix";

/// The fake server, clock, executors and endpoint registry for sessions under test.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) clock: ManualClock,
    pub(crate) server: Arc<Server>,
    /// The executor that runs all background tasks except heartbeats.
    pub(crate) main: ManualExecutor,
    /// The executor that runs the heartbeats.
    pub(crate) heartbeat: ManualExecutor,
    pub(crate) endpoints: Endpoints,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            server: Server::new(clock.clone()),
            clock,
            main: ManualExecutor::default(),
            heartbeat: ManualExecutor::default(),
            endpoints: Endpoints::new(),
        }
    }

    pub(crate) fn parts_at(&self, address: &str) -> SessionParts {
        let address = BaseUrl::parse(address).expect("a valid address");
        let time: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(7));
        SessionParts {
            auth: None,
            transport: self.server.transport(Channel::Main),
            time: Arc::clone(&time),
            jitter,
            spawner: Arc::new(self.main.clone()),
            endpoint: self
                .endpoints
                .get_or_create(EndpointKey::new(address, b"tml-secret")),
            heartbeat: HeartbeatParts {
                transport: self.server.transport(Channel::Heartbeat),
                time,
                spawner: Arc::new(self.heartbeat.clone()),
            },
            recovered_errors: Arc::default(),
        }
    }

    pub(crate) fn parts(&self) -> SessionParts {
        self.parts_at(ADDRESS)
    }

    /// Opens a session with `options`, and returns the error if the opening fails.
    pub(crate) fn try_open(&self, options: SessionOptions) -> Result<Arc<Session>, Error> {
        self.drive(Session::open(self.parts(), options))
    }

    /// Opens a session with default options. Panics if the opening fails.
    pub(crate) fn open(&self) -> Arc<Session> {
        self.try_open(SessionOptions::default())
            .expect("the session opens")
    }

    /// Opens a session with default options, and returns the error. Panics if the opening succeeds.
    pub(crate) fn open_error(&self) -> Error {
        self.try_open(SessionOptions::default())
            .expect_err("the session must not open")
    }

    /// Polls `work` and the background tasks until `work` ends. Advances the clock to the next timer when all tasks wait. Only woken tasks
    /// are polled, so a lost wake-up fails the test.
    pub(crate) fn drive<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let woken = WakeFlag::raised();
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..100_000 {
            self.run_tasks();
            if woken.take() {
                if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                    self.run_tasks();
                    return output;
                }
                continue;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "the work hangs: there is no timer left"
            );
        }
        panic!("the work does not end");
    }

    /// Polls the background tasks until none of them can make progress without an advance of the clock.
    pub(crate) fn run_tasks(&self) {
        for _ in 0..10_000 {
            let main = self.main.poll_woken();
            let heartbeat = self.heartbeat.poll_woken();
            if !main && !heartbeat {
                return;
            }
        }
        panic!("the background tasks never wait");
    }

    /// Polls the background tasks and advances the clock until `condition` returns true for the fake server.
    pub(crate) fn run_until(&self, condition: impl Fn(&Server) -> bool) {
        for _ in 0..10_000 {
            self.run_tasks();
            if condition(&self.server) {
                return;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "the condition never holds: there is no timer left"
            );
        }
        panic!("the condition never holds");
    }

    /// Advances the clock until `count` heartbeats were sent. Returns the times of all heartbeats in seconds.
    pub(crate) fn heartbeat_times(&self, count: usize) -> Vec<f64> {
        self.run_until(|server| server.requests_on(Channel::Heartbeat).len() >= count);
        let heartbeats = self.server.requests_on(Channel::Heartbeat);
        heartbeats.iter().map(Recorded::seconds).collect()
    }

    pub(crate) fn clock_seconds(&self) -> f64 {
        self.clock.now().since_origin().as_secs_f64()
    }

    /// Asserts that no background task is running and no timer is set.
    pub(crate) fn assert_idle(&self) {
        self.run_tasks();
        assert_eq!(self.heartbeat.running(), 0, "heartbeats are running");
        assert_eq!(self.main.running(), 0, "a background task is running");
        assert_eq!(self.clock.sleepers(), 0, "a timer is left");
    }
}
