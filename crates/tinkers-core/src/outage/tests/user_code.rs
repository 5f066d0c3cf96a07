//! Log subscribers and wakers that use the outage state or panic.

use super::*;

#[test]
fn log_subscribers_and_wakers_run_without_the_outage_lock() {
    struct LooksIn(Arc<Outage>, AtomicUsize);
    impl std::task::Wake for LooksIn {
        fn wake(self: Arc<Self>) {
            assert!(self.0.state.try_lock().is_ok(), "woken under the lock");
            self.1.fetch_add(1, Ordering::SeqCst);
            panic!("a waker that breaks");
        }
    }

    let outage = Arc::new(Outage::default());
    let clock = ManualClock::new();
    let jitter = FixedJitter(0.0);
    let at = |seconds| Timestamp::from_origin(Duration::from_secs(seconds));
    let pause = |seconds| OutageBackoff {
        sent_at: at(seconds),
        not_before: at(seconds + 90),
        until: at(seconds + 100),
    };
    let woken = Arc::new(LooksIn(Arc::clone(&outage), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    // The subscriber behaves like a log shipper that sends through the same client.
    let shared = Arc::clone(&outage);
    let calls_back =
        OnEvent(move || assert!(shared.state.try_lock().is_ok(), "called under the lock"));
    tracing::subscriber::with_default(calls_back, || {
        let mut pending_retries: Vec<_> = (0..3)
            .map(|_| Box::pin(outage.back_off(pause(0), &clock, &jitter)))
            .collect();
        for sleeper in &mut pending_retries {
            assert!(sleeper.as_mut().poll(&mut cx).is_pending());
        }
        clock.advance(Duration::from_secs(3));
        let mut late = Box::pin(outage.back_off(pause(3), &clock, &jitter));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(1));
        outage.answered(at(4), clock.now());
        assert_eq!(
            woken.1.load(Ordering::SeqCst),
            4,
            "a panic stops no other wake-up"
        );
    });
}

#[test]
fn panicking_log_subscriber_does_not_prolong_the_outage() {
    let outage = Outage::default();
    let clock = ManualClock::new();
    let at = |seconds| Timestamp::from_origin(Duration::from_secs(seconds));
    let pause = OutageBackoff {
        sent_at: at(0),
        not_before: at(90),
        until: at(100),
    };
    let recovered_errors = crate::RecoveredErrors::default();
    let panics = OnEvent(|| std::panic::resume_unwind(Box::new("a subscriber that breaks")));
    tracing::subscriber::with_default(panics, || {
        let mut sleeper = Box::pin(outage.back_off(pause, &clock, &FixedJitter(0.0)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sleeper.as_mut().poll(&mut cx).is_pending());
        clock.advance(Duration::from_secs(4));
        outage.answered(at(4), clock.now());
        recovered_errors.record(crate::RecoveredError::Repeat, &"broken");
    });
    assert!(outage.lock().since.is_none(), "the outage has ended");
    assert_eq!(
        recovered_errors
            .snapshot()
            .of(crate::RecoveredError::Repeat),
        1
    );
}
