//! A world for one session: a scripted server, a clock and executors that stand still until they are moved.

mod hands;
mod server;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tinkers_core::{Clock, Error, Jitter, ManualClock, SplitMix};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};

pub(crate) use hands::{Flag, Hands};
pub(crate) use server::{Asked, Line, Reply, Server};

/// Where the scripted server is said to be.
pub(crate) const ADDRESS: &str = "http://tinker.example/prefix";

/// What a session lives in.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) server: Arc<Server>,
    /// Runs what is no heartbeat.
    pub(crate) main: Hands,
    /// Runs heartbeats.
    pub(crate) heart: Hands,
    pub(crate) endpoints: Endpoints,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            server: Server::new(clock.clone()),
            clock,
            main: Hands::default(),
            heart: Hands::default(),
            endpoints: Endpoints::new(),
        }
    }

    pub(crate) fn parts_at(&self, address: &str) -> SessionParts {
        let address = BaseUrl::parse(address).expect("a valid address");
        let time: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(7));
        SessionParts {
            transport: self.server.line(Line::Main),
            time: Arc::clone(&time),
            jitter,
            spawner: Arc::new(self.main.clone()),
            endpoint: self
                .endpoints
                .get_or_create(EndpointKey::new(address, b"tml-secret")),
            heartbeat: HeartbeatParts {
                transport: self.server.line(Line::Heart),
                time,
                spawner: Arc::new(self.heart.clone()),
            },
            recovered_errors: Arc::default(),
        }
    }

    pub(crate) fn parts(&self) -> SessionParts {
        self.parts_at(ADDRESS)
    }

    /// Opens a session with `options`; what is sent for it can be read at the server.
    pub(crate) fn try_open(&self, options: SessionOptions) -> Result<Arc<Session>, Error> {
        self.drive(Session::open(self.parts(), options))
    }

    /// Opens a session that nothing stands in the way of.
    pub(crate) fn open(&self) -> Arc<Session> {
        self.try_open(SessionOptions::default())
            .expect("the session opens")
    }

    /// The error of a start that must fail.
    pub(crate) fn open_fails(&self) -> Error {
        self.try_open(SessionOptions::default())
            .expect_err("the session must not open")
    }

    /// Drives `work` to its end beside the background tasks, moving the clock to the next sleeper whenever nothing else can
    /// happen. Only what was woken is polled, so a lost wake-up shows as a hang.
    pub(crate) fn drive<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let woken = Flag::raised();
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..100_000 {
            self.settle();
            if woken.take() {
                if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                    self.settle();
                    return output;
                }
                continue;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "nobody sleeps and nobody can go on: it hangs"
            );
        }
        panic!("it does not end");
    }

    /// Lets the background tasks do what they can at this moment.
    pub(crate) fn settle(&self) {
        for _ in 0..10_000 {
            let main = self.main.turn();
            let heart = self.heart.turn();
            if !main && !heart {
                return;
            }
        }
        panic!("the background tasks never rest");
    }

    /// Moves the clock from sleeper to sleeper until `is_so`.
    pub(crate) fn until(&self, is_so: impl Fn(&Server) -> bool) {
        for _ in 0..10_000 {
            self.settle();
            if is_so(&self.server) {
                return;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "nobody sleeps: it never comes about"
            );
        }
        panic!("it does not come about");
    }

    /// The moments of the first `count` heartbeats, in seconds; waits for them.
    pub(crate) fn beats(&self, count: usize) -> Vec<f64> {
        self.until(|server| server.on_line(Line::Heart).len() >= count);
        let beats = self.server.on_line(Line::Heart);
        beats.iter().map(Asked::seconds).collect()
    }

    pub(crate) fn clock_seconds(&self) -> f64 {
        self.clock.now().since_origin().as_secs_f64()
    }

    /// Nothing runs in the background, nothing waits for the clock.
    pub(crate) fn assert_at_rest(&self) {
        self.settle();
        assert_eq!(self.heart.running(), 0, "a heartbeat runs");
        assert_eq!(self.main.running(), 0, "a background task runs");
        assert_eq!(self.clock.sleepers(), 0, "somebody sleeps");
    }
}
