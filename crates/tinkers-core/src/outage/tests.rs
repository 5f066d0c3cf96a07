//! Hundreds of retries during an outage, with a manual clock.

mod user_code;

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::jitter::{FixedJitter, SplitMix};
use crate::retry::BACKOFF;
use crate::spawn::BoxFuture;
use crate::time::ManualClock;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn secs_at(seconds: f64) -> Timestamp {
    Timestamp::from_origin(secs(seconds))
}

/// A simulated server with an outage, and clients that retry their requests with exponential backoff.
struct Scene {
    clock: ManualClock,
    outage: Outage,
    jitter: SplitMix,
    /// The time at which the server recovers.
    recovers_at: Cell<Timestamp>,
    /// The retry delay that the server sends with each failed response.
    hint: Duration,
    asked: RefCell<Vec<Timestamp>>,
}

impl Scene {
    fn new(lasts: f64) -> Rc<Self> {
        Self::with_hint(lasts, Duration::ZERO)
    }

    fn with_hint(lasts: f64, hint: Duration) -> Rc<Self> {
        Rc::new(Self {
            clock: ManualClock::new(),
            outage: Outage::default(),
            jitter: SplitMix::new(7),
            recovers_at: Cell::new(Timestamp::from_origin(secs(lasts))),
            hint,
            asked: RefCell::default(),
        })
    }

    /// Sends a request again and again until the server responds. If `detect_outages` is set, a detected outage may shorten the pauses
    /// between retries. Returns the time of the response.
    #[expect(clippy::future_not_send, reason = "the tests run on one thread")]
    async fn ask(self: Rc<Self>, detect_outages: bool) -> Timestamp {
        for failures in 0_u32.. {
            let sent_at = self.clock.now();
            self.asked.borrow_mut().push(sent_at);
            if sent_at >= self.recovers_at.get() {
                break;
            }
            let least = self.jitter_of(BACKOFF.pause(failures).max(self.hint));
            let pause = OutageBackoff {
                sent_at,
                not_before: sent_at.after(self.hint),
                until: sent_at.after(least),
            };
            let time: &dyn Clock = &self.clock;
            if detect_outages {
                self.outage.back_off(pause, time, &self.jitter).await;
            } else {
                time.sleep_until(pause.until).await;
            }
        }
        self.outage.answered(self.clock.now(), self.clock.now());
        self.clock.now()
    }

    fn jitter_of(&self, pause: Duration) -> Duration {
        let jitter: &dyn Jitter = &self.jitter;
        jitter.stretch(pause, 0.25)
    }

    /// Runs `clients` clients until each has a response. Returns the times of the responses and the number of failed requests.
    fn run(self: &Rc<Self>, clients: usize, detect_outages: bool) -> (Vec<Timestamp>, usize) {
        let mut asking: Vec<_> = (0..clients)
            .map(|_| Some(Box::pin(Rc::clone(self).ask(detect_outages))))
            .collect();
        let mut answered = Vec::new();
        while answered.len() < clients {
            for slot in &mut asking {
                let Some(ask) = slot else { continue };
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(at) = ask.as_mut().poll(&mut cx) {
                    answered.push(at);
                    *slot = None;
                }
            }
            self.clock.advance_to_next();
        }
        let asked = self.asked.borrow();
        let failed = asked
            .iter()
            .filter(|at| **at < self.recovers_at.get())
            .count();
        (answered, failed)
    }
}

#[test]
fn all_retries_succeed_within_two_seconds_of_server_recovery() {
    for (clients, lasts) in [(1, 30.0), (2, 13.5), (200, 30.0), (50, 4.0)] {
        let scene = Scene::new(lasts);
        let (answered, _) = scene.run(clients, true);
        let last = answered.iter().max().expect("a client");
        let after = last.since(scene.recovers_at.get());
        assert!(after <= secs(2.05), "{clients} after {lasts} s: {after:?}");
        assert!(scene.outage.lock().pending_retries.is_empty());
    }
    // For comparison: backoff without outage detection.
    let (answered, _) = Scene::new(30.0).run(1, false);
    let late = answered[0].since(Timestamp::from_origin(secs(30.0)));
    assert!(late > secs(2.05), "{late:?}");
}

#[test]
fn early_retries_during_an_outage_do_not_grow_with_the_clients() {
    let scene = Scene::new(600.0);
    let (_, alone) = scene.run(1, true);
    // One outage check per second for 20 s, then one in each twentieth of the outage.
    assert!((60..=110).contains(&alone), "{alone}");
    let (_, usual) = Scene::new(600.0).run(200, false);
    let (_, with_checks) = Scene::new(600.0).run(200, true);
    assert!(
        with_checks <= usual + 200 + 110,
        "{with_checks} instead of {usual}"
    );
}

#[test]
fn retry_woken_after_an_outage_waits_for_the_server_retry_delay() {
    let scene = Scene::with_hint(31.0, secs(20.0));
    let (answered, failed) = scene.run(1, true);
    assert_eq!(failed, 2);
    assert!(answered[0].since_origin() >= secs(40.0));
}

/// A request that has just failed and waits for its backoff, which ends after one hour.
struct Sleeper<'a>(BoxFuture<'a, ()>);

impl<'a> Sleeper<'a> {
    fn new(scene: &'a Scene, sent_at: Timestamp, not_before: Timestamp) -> Self {
        scene.outage.lock().next_check = Timestamp::from_origin(Duration::MAX);
        Self::with_check(scene, sent_at, not_before)
    }

    /// Returns the pending retry of a request that was sent at `sent_at` and failed. The retry may be sent from `not_before` on, so it may
    /// be chosen to check early whether the server responds again.
    fn with_check(scene: &'a Scene, sent_at: Timestamp, not_before: Timestamp) -> Self {
        let pause = OutageBackoff {
            sent_at,
            not_before,
            until: scene.clock.now().after(secs(3600.0)),
        };
        let time: &dyn Clock = &scene.clock;
        let mut sleeper = Self(Box::pin(scene.outage.back_off(pause, time, &scene.jitter)));
        assert!(!sleeper.is_done());
        sleeper
    }

    fn is_done(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.0.as_mut().poll(&mut cx).is_ready()
    }
}

impl Scene {
    fn answered(&self) {
        self.outage.answered(self.clock.now(), self.clock.now());
    }
}

#[test]
fn short_outages_and_fast_outage_cycles_rarely_wake_retries() {
    let scene = Scene::new(0.0);
    let mut called = Vec::new();
    // The server fails for three seconds and responds once, repeatedly.
    for _ in 0..40 {
        let now = scene.clock.now();
        let mut sleeper = Sleeper::new(&scene, now, now);
        scene.clock.advance(secs(3.0));
        scene.answered();
        assert!(!sleeper.is_done(), "it waits for a random time");
        scene.clock.advance(LEAST_SPREAD);
        if sleeper.is_done() {
            called.push(scene.clock.now());
        }
    }
    assert!(called.len() >= 8, "{}", called.len());
    for pair in called.windows(2) {
        assert!(pair[1].since(pair[0]) >= RELEASE_INTERVAL, "{pair:?}");
    }
    // The server responds within two seconds of the first failure.
    let scene = Scene::new(0.0);
    let mut sleeper = Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    scene.clock.advance(secs(1.9));
    scene.answered();
    scene.clock.advance(secs(60.0));
    assert!(!sleeper.is_done());
}

#[test]
fn retry_with_a_long_pause_can_be_sent_early_to_check_the_server() {
    let scene = Scene::new(0.0);
    let mut pending_retries: Vec<_> = (0..100)
        .map(|_| Sleeper::with_check(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN))
        .collect();
    scene.clock.advance(MIN_OUTAGE);
    pending_retries.retain_mut(|one| !one.is_done());
    assert_eq!(pending_retries.len(), 99, "one is the outage check");
    scene.answered();
    pending_retries.retain_mut(|one| !one.is_done());
    scene.clock.advance(LEAST_SPREAD);
    pending_retries.retain_mut(|one| !one.is_done());
    assert!(
        pending_retries.is_empty(),
        "{} retries are still asleep",
        pending_retries.len()
    );
}

#[test]
fn response_to_a_request_sent_before_an_outage_does_not_end_the_outage() {
    let scene = Scene::new(0.0);
    scene.clock.advance(secs(1.0));
    let mut sleeper = Sleeper::new(&scene, secs_at(1.0), secs_at(1.0));
    scene.clock.advance(secs(5.0));
    scene.outage.answered(secs_at(0.5), scene.clock.now());
    scene.clock.advance(LEAST_SPREAD);
    assert!(!sleeper.is_done());
    scene.answered();
    scene.clock.advance(LEAST_SPREAD);
    assert!(!sleeper.is_done());
    scene.clock.advance(LEAST_SPREAD);
    assert!(sleeper.is_done());
}

#[test]
fn second_outage_soon_after_the_first_also_ends_on_recovery() {
    let scene = Scene::new(0.0);
    let mut first = Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    scene.clock.advance(secs(5.0));
    scene.answered();
    scene.clock.advance(secs(1.0));
    assert!(!first.is_done());
    let now = scene.clock.now();
    let mut second = Sleeper::new(&scene, now, now);
    scene.clock.advance(secs(4.0));
    scene.answered();
    scene.clock.advance(secs(1.0));
    assert!(!second.is_done(), "too soon after the last release");
    scene.clock.advance(RELEASE_INTERVAL);
    scene.answered();
    assert!(!second.is_done());
    scene.clock.advance(LEAST_SPREAD);
    assert!(second.is_done());
    assert!(!scene.outage.is_failing.load(Ordering::Relaxed));
}

#[test]
fn if_an_early_retry_is_dropped_another_one_checks_the_server() {
    let scene = Scene::new(0.0);
    let check = Sleeper::with_check(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    let gone = Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    let mut last = Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    drop(check);
    // This retry was woken to become the outage check, and is dropped before it is sent.
    drop(gone);
    assert!(!last.is_done());
    scene.clock.advance(MIN_OUTAGE);
    assert!(last.is_done());
    // An overdue outage check is sent at once.
    scene.outage.lock().next_check = Timestamp::ORIGIN;
    let check = Sleeper::with_check(&scene, scene.clock.now(), scene.clock.now());
    scene.clock.advance(secs(10.0));
    drop(check);
    let now = scene.clock.now();
    let pause = OutageBackoff {
        sent_at: now,
        not_before: now,
        until: now.after(secs(3600.0)),
    };
    scene.outage.lock().next_check = Timestamp::from_origin(Duration::MAX);
    let time: &dyn Clock = &scene.clock;
    let mut sleeper = Sleeper(Box::pin(scene.outage.back_off(pause, time, &scene.jitter)));
    assert!(sleeper.is_done());
}

#[test]
fn retry_woken_after_an_outage_waits_for_retry_delay_and_jitter() {
    let scene = Scene::new(0.0);
    let hint = secs_at(20.0);
    let mut pending_retries: Vec<_> = (0..1000)
        .map(|_| Sleeper::new(&scene, Timestamp::ORIGIN, hint))
        .collect();
    scene.clock.advance(secs(10.0));
    scene.answered();
    for step in 0..400 {
        let now = scene.clock.now();
        let before = pending_retries.len();
        pending_retries.retain_mut(|one| !one.is_done());
        assert!(
            before - pending_retries.len() < 200,
            "too many retries at step {step}"
        );
        assert!(
            now >= hint || pending_retries.len() == 1000,
            "a retry was released at {now:?}"
        );
        scene.clock.advance(secs(0.05));
    }
    assert!(
        pending_retries.is_empty(),
        "{} retries are still asleep",
        pending_retries.len()
    );
}

#[test]
fn request_that_fails_after_the_end_of_an_outage_is_retried_soon() {
    let scene = Scene::new(0.0);
    let first = Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    scene.clock.advance(secs(5.0));
    scene.answered();
    drop(first);
    scene.clock.advance(secs(1.0));
    let now = scene.clock.now();
    let mut late = Sleeper::new(&scene, Timestamp::ORIGIN, now);
    let mut new = Sleeper::new(&scene, now, now);
    scene.clock.advance(LEAST_SPREAD);
    assert!(late.is_done());
    assert!(!new.is_done());
}

#[test]
fn schedule_of_early_retries_is_reset_after_an_outage() {
    let scene = Scene::new(0.0);
    let first = Sleeper::with_check(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN);
    scene.clock.advance(secs(300.0));
    let now = scene.clock.now();
    // The outage checks are 15 s apart, and the first one has no retry when the server responds.
    let others: Vec<_> = (0..20)
        .map(|_| Sleeper::with_check(&scene, now, now))
        .collect();
    drop(first);
    scene.answered();
    drop(others);
    scene.clock.advance(secs(20.0));
    let now = scene.clock.now();
    let mut next = Sleeper::with_check(&scene, now, now);
    scene.clock.advance(MIN_OUTAGE - Duration::from_nanos(1));
    assert!(!next.is_done());
    scene.clock.advance(Duration::from_nanos(1));
    assert!(next.is_done());
}

/// A log subscriber that calls a function for each log event.
struct OnEvent<F>(F);

impl<F: Fn() + Send + Sync + 'static> tracing::Subscriber for OnEvent<F> {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        (self.0)();
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn start_and_end_of_an_outage_are_logged_once() {
    let events = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&events);
    let counts = OnEvent(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    tracing::subscriber::with_default(counts, || {
        let scene = Scene::new(0.0);
        for outage in 0..3 {
            for failures in 0..4 {
                let now = scene.clock.now();
                drop(Sleeper::new(&scene, now, now));
                let logged = usize::from(failures >= 2);
                assert_eq!(events.load(Ordering::SeqCst), 2 * outage + logged);
                scene.clock.advance(secs(1.0));
            }
            scene.answered();
            scene.answered();
            assert_eq!(events.load(Ordering::SeqCst), 2 * outage + 2);
            scene.clock.advance(RELEASE_INTERVAL);
        }
    });
}

#[test]
fn retries_woken_after_an_outage_are_spread_by_half_a_millisecond_each() {
    let scene = Scene::new(0.0);
    let mut pending_retries: Vec<_> = (0..2000)
        .map(|_| Sleeper::new(&scene, Timestamp::ORIGIN, Timestamp::ORIGIN))
        .collect();
    scene.clock.advance(secs(10.0));
    scene.answered();
    pending_retries.retain_mut(|one| !one.is_done());
    scene.clock.advance(secs(0.5));
    pending_retries.retain_mut(|one| !one.is_done());
    assert!(
        (800..1200).contains(&pending_retries.len()),
        "{}",
        pending_retries.len()
    );
    scene.clock.advance(secs(0.5));
    pending_retries.retain_mut(|one| !one.is_done());
    assert!(pending_retries.is_empty());
}

#[test]
fn outage_state_is_reset_before_pending_retries_are_woken() {
    struct Looks(Arc<Outage>, Mutex<Vec<(u64, bool)>>);
    impl std::task::Wake for Looks {
        fn wake(self: Arc<Self>) {
            let is_failing = self.0.is_failing.load(Ordering::Acquire);
            let seen = (self.0.lock().releases, is_failing);
            self.1.lock().unwrap().push(seen);
        }
    }

    let outage = Arc::new(Outage::default());
    let clock = ManualClock::new();
    let jitter = FixedJitter(0.0);
    let looks = Arc::new(Looks(Arc::clone(&outage), Mutex::default()));
    let waker = Waker::from(Arc::clone(&looks));
    let pause = OutageBackoff {
        sent_at: Timestamp::ORIGIN,
        not_before: secs_at(90.0),
        until: secs_at(100.0),
    };
    let mut sleeper = Box::pin(outage.back_off(pause, &clock, &jitter));
    let mut cx = Context::from_waker(&waker);
    assert!(sleeper.as_mut().poll(&mut cx).is_pending());
    clock.advance(secs(5.0));
    outage.answered(clock.now(), clock.now());
    assert_eq!(*looks.1.lock().unwrap(), [(1, false)]);
}
