//! When an operation is given up: news puts it off up to its deadline, and one timer serves both limits.

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use support::{Scripted, session_with_limits};
use tinkers_core::{Clock, ErrorKind, ProgressCell, Result, RouteClass, SessionContext};
use tinkers_futures::{ApiFuture, Operation, start};

const SILENCE: Duration = Duration::from_secs(10);

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// An operation of at most `deadline` that hears something after each of `news`, in seconds from its start, and no more.
fn operation(deadline: Option<Duration>, news: &'static [u64]) -> (ApiFuture<()>, Arc<Scripted>) {
    let (session, server) = session_with_limits([], SILENCE, deadline);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let (clock, progress) = (server.clock.clone(), Arc::clone(&operation.progress));
    let work = async move {
        hear(&clock, &progress, news).await;
        std::future::pending().await
    };
    (start(operation, work), server)
}

async fn hear(clock: &dyn Clock, progress: &ProgressCell, news: &[u64]) {
    let begun = clock.now();
    for &at in news {
        clock.sleep_until(begun.after(seconds(at))).await;
        progress.news(clock.now());
    }
}

/// Why it was given up, and after how many seconds.
fn end(deadline: Option<Duration>, news: &'static [u64]) -> (ErrorKind, u64) {
    let (handle, server) = operation(deadline, news);
    let begun = server.clock.now();
    let error = server.drive(handle).expect_err("it has no result");
    let took = server.clock.now().since(begun);
    (error.kind(), took.as_secs())
}

#[test]
fn news_puts_off_the_stall_and_never_the_deadline() {
    let deadline = Some(seconds(25));
    assert_eq!(end(deadline, &[]), (ErrorKind::Stalled, 10));
    assert_eq!(end(deadline, &[9]), (ErrorKind::Stalled, 19));
    assert_eq!(end(deadline, &[9, 18]), (ErrorKind::Timeout, 25));
    assert_eq!(end(deadline, &[9, 18, 24]), (ErrorKind::Timeout, 25));
    assert_eq!(end(Some(seconds(3)), &[1, 2]), (ErrorKind::Timeout, 3));
    assert_eq!(end(None, &[9, 18, 24]), (ErrorKind::Stalled, 34));
}

#[test]
fn a_result_wins_over_both_limits_of_the_same_instant() {
    for deadline in [None, Some(SILENCE)] {
        let (session, server) = session_with_limits([], SILENCE, deadline);
        let operation = Operation::new(
            session as Arc<dyn SessionContext>,
            "Test.run",
            RouteClass::Sample,
        );
        let sleep = server.clock.sleep_until(server.clock.now().after(SILENCE));
        let work = async move {
            sleep.await;
            Result::Ok(7)
        };
        assert_eq!(server.drive(start(operation, work)).ok(), Some(7));
    }
}

#[test]
fn one_timer_is_set_for_both_limits_and_none_is_left() {
    let (handle, server) = operation(Some(seconds(25)), &[]);
    let clock = server.clock.clone();
    let looked = server.drive(async {
        // The operation itself sleeps for nothing.
        clock.sleep_until(clock.now().after(seconds(1))).await;
        clock.sleepers()
    });
    assert_eq!(looked, 1);
    drop(handle);
    server.drive(async {
        clock.sleep_until(clock.now().after(seconds(1))).await;
    });
    assert_eq!(clock.sleepers(), 0);
}

/// Looks, when it is woken, whether the work still holds what it was given.
struct Looks {
    held: Weak<()>,
    is_free: Mutex<Vec<bool>>,
}

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let is_free = self.held.strong_count() == 0;
        self.is_free.lock().unwrap().push(is_free);
    }
}

#[test]
fn work_that_is_given_up_is_free_when_the_waiter_is_woken() {
    let deadline = Some(seconds(5));
    let (session, server) = session_with_limits([], SILENCE, deadline);
    let operation = Operation::new(
        session as Arc<dyn SessionContext>,
        "Test.run",
        RouteClass::Sample,
    );
    let held = Arc::new(());
    let looks = Arc::new(Looks {
        held: Arc::downgrade(&held),
        is_free: Mutex::default(),
    });
    let work = async move {
        let _held = held;
        std::future::pending().await
    };
    let mut handle: ApiFuture<()> = start(operation, work);
    let waker = Waker::from(Arc::clone(&looks));
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut handle).poll(&mut cx).is_pending());
    let time: &dyn Clock = &server.clock;
    server.drive(time.sleep(seconds(6)));
    assert_eq!(*looks.is_free.lock().unwrap(), [true]);
}
