//! Sleepers by the hundred beside a server that fails, on a clock that is moved by hand.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::rc::Rc;

use super::*;
use crate::jitter::SplitMix;
use crate::spawn::BoxFuture;
use crate::time::ManualClock;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A server that fails for a while, and those who ask it with pauses that double.
struct Scene {
    clock: ManualClock,
    outage: Outage,
    jitter: SplitMix,
    /// When it answers again.
    back: Cell<Moment>,
    /// What the server asks for with each failure.
    hint: Duration,
    asked: RefCell<Vec<Moment>>,
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
            back: Cell::new(Moment::from_origin(secs(lasts))),
            hint,
            asked: RefCell::default(),
        })
    }

    /// Asks until there is an answer; when that came.
    async fn ask(self: Rc<Self>, sit_out: bool) -> Moment {
        for failures in 0_u32.. {
            let sent_at = self.clock.now();
            self.asked.borrow_mut().push(sent_at);
            if sent_at >= self.back.get() {
                break;
            }
            let usual = secs(0.5).saturating_mul(1 << failures.min(6));
            let least = self.jitter_of(usual.min(secs(30.0)).max(self.hint));
            let pause = Pause {
                sent_at,
                not_before: sent_at.after(self.hint),
                until: sent_at.after(least),
            };
            let time: &dyn Time = &self.clock;
            if sit_out {
                self.outage.sit_out(pause, time, &self.jitter).await;
            } else {
                time.sleep_until(pause.until).await;
            }
        }
        self.outage.answered(self.clock.now());
        self.clock.now()
    }

    fn jitter_of(&self, pause: Duration) -> Duration {
        let jitter: &dyn Jitter = &self.jitter;
        jitter.stretch(pause, 0.25)
    }

    /// Lets `many` ask to their end; when each had its answer, and the requests that failed.
    fn run(self: &Rc<Self>, many: usize, sit_out: bool) -> (Vec<Moment>, usize) {
        let mut asking: Vec<_> = (0..many)
            .map(|_| Some(Box::pin(Rc::clone(self).ask(sit_out))))
            .collect();
        let mut answered = Vec::new();
        while answered.len() < many {
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
        let failed = asked.iter().filter(|at| **at < self.back.get()).count();
        (answered, failed)
    }
}

#[test]
fn when_the_server_is_back_everybody_is_within_two_seconds() {
    for (many, lasts) in [(1, 30.0), (2, 13.5), (1000, 30.0), (50, 4.0)] {
        let scene = Scene::new(lasts);
        let (answered, _) = scene.run(many, true);
        let last = answered.iter().max().expect("somebody");
        let after = last.since(scene.back.get());
        assert!(after <= secs(2.05), "{many} after {lasts} s: {after:?}");
        assert!(scene.outage.lock().sleepers.is_empty());
    }
    // The control: pauses that nothing ends.
    let (answered, _) = Scene::new(30.0).run(1, false);
    let late = answered[0].since(Moment::from_origin(secs(30.0)));
    assert!(late > secs(2.05), "{late:?}");
}

#[test]
fn those_who_go_ahead_are_few_however_many_wait() {
    let scene = Scene::new(600.0);
    let (_, alone) = scene.run(1, true);
    // One in each second for twenty, and then one in each twentieth of what has passed.
    assert!((60..=110).contains(&alone), "{alone}");
    let (_, usual) = Scene::new(600.0).run(1000, false);
    let (_, with_scouts) = Scene::new(600.0).run(1000, true);
    assert!(
        with_scouts <= usual + 1000 + 110,
        "{with_scouts} instead of {usual}"
    );
}

#[test]
fn nobody_goes_before_a_hint() {
    let scene = Scene::with_hint(31.0, secs(20.0));
    let (answered, failed) = scene.run(1, true);
    assert_eq!(failed, 2);
    assert!(answered[0].since_origin() >= secs(40.0));
}

#[test]
fn a_hiccup_calls_nobody_and_a_flapping_server_seldom() {
    let scene = Scene::new(f64::from(u32::MAX));
    let time: &dyn Time = &scene.clock;
    let pause = |until: f64| Pause {
        sent_at: scene.clock.now(),
        not_before: scene.clock.now(),
        until: scene.clock.now().after(secs(until)),
    };
    let mut called = Vec::new();
    // It fails for three seconds and answers once, over and over.
    for _ in 0..40 {
        let mut sleeper: BoxFuture<'_, ()> =
            Box::pin(scene.outage.sit_out(pause(3600.0), time, &scene.jitter));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sleeper.as_mut().poll(&mut cx).is_pending());
        scene.clock.advance(secs(3.0));
        scene.outage.answered(scene.clock.now());
        assert!(
            sleeper.as_mut().poll(&mut cx).is_pending(),
            "it has a spread"
        );
        scene.clock.advance(SPREAD);
        if sleeper.as_mut().poll(&mut cx).is_ready() {
            called.push(scene.clock.now());
        }
    }
    assert!(called.len() >= 8, "{}", called.len());
    for pair in called.windows(2) {
        assert!(pair[1].since(pair[0]) >= APART, "{pair:?}");
    }
    // An answer within two seconds of the first failure.
    let mut sleeper = Box::pin(scene.outage.sit_out(pause(3600.0), time, &scene.jitter));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(sleeper.as_mut().poll(&mut cx).is_pending());
    scene.clock.advance(APART);
    scene.outage.lock().since = Some(scene.clock.now());
    scene.clock.advance(secs(1.9));
    scene.outage.answered(scene.clock.now());
    scene.clock.advance(secs(60.0));
    assert!(sleeper.as_mut().poll(&mut cx).is_pending());
}

#[test]
fn what_left_before_the_server_came_back_and_fails_after_is_sent_again_soon() {
    let scene = Scene::new(0.0);
    let time: &dyn Time = &scene.clock;
    let mut cx = Context::from_waker(Waker::noop());
    let started = scene.clock.now();
    let fails = |sent_at: Moment| Pause {
        sent_at,
        not_before: scene.clock.now(),
        until: scene.clock.now().after(secs(30.0)),
    };
    let mut first = Box::pin(scene.outage.sit_out(fails(started), time, &scene.jitter));
    assert!(first.as_mut().poll(&mut cx).is_pending());
    scene.clock.advance(secs(5.0));
    scene.outage.answered(scene.clock.now());
    scene.clock.advance(secs(1.0));
    let mut late = Box::pin(scene.outage.sit_out(fails(started), time, &scene.jitter));
    let mut new = {
        let sent_at = scene.clock.now();
        Box::pin(scene.outage.sit_out(fails(sent_at), time, &scene.jitter))
    };
    assert!(late.as_mut().poll(&mut cx).is_pending());
    assert!(new.as_mut().poll(&mut cx).is_pending());
    scene.clock.advance(SPREAD);
    assert!(late.as_mut().poll(&mut cx).is_ready());
    assert!(new.as_mut().poll(&mut cx).is_pending());
}
