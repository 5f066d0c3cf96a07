//! The retry policy and the timeouts of the client.

use tinkers_core::{CallPolicy, ClassTimeouts, ErrorKind, RetryPolicy, RouteClass, Timeouts};

use crate::support::Step::Says;
use crate::support::{World, post};
use crate::{OK, secs};

#[test]
fn client_retry_policy_sets_attempts_window_and_pauses_of_a_call() {
    let sent_at = |retries: RetryPolicy| {
        // Not a status of 5xx, after which outage checks may send a retry early.
        let mut world = World::new(&[], Says(408, "{}"));
        world.caller.retries = retries;
        let error = world.call(post(RouteClass::Rest)).expect_err("never taken");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        world.seen()
    };
    assert_eq!(sent_at(RetryPolicy::none()), [secs(0)]);
    let slow = RetryPolicy::new().with_backoff(secs(2), secs(8));
    assert_eq!(sent_at(slow.with_max_attempts(2)), [secs(0), secs(2)]);
    let within = sent_at(slow.with_window(secs(20)));
    assert_eq!(within, [secs(0), secs(2), secs(6), secs(14)]);
    // Longer than the default window of five minutes.
    let seen = sent_at(slow.with_window(secs(1000)));
    assert!(seen.last() > Some(&secs(900)), "{seen:?}");
}

#[test]
fn client_retry_policy_adds_no_retries_to_a_call_with_one_attempt() {
    let mut world = World::new(&[], Says(500, "{}"));
    world.caller.retries = RetryPolicy::new().with_window(secs(1000));
    let mut call = post(RouteClass::Rest);
    call.policy = CallPolicy::ONCE;
    world.call(call).expect_err("one attempt");
    assert_eq!(world.seen().len(), 1);
}

#[test]
fn retries_without_a_retry_budget_follow_the_backoff() {
    for (has_budget, pause) in [(true, 8), (false, 2)] {
        let mut world = World::new(&[Says(408, "{}")], OK).with_empty_budget();
        let retries = RetryPolicy::new().with_backoff(secs(2), secs(8));
        world.caller.retries = match has_budget {
            true => retries,
            false => retries.without_budget(),
        };
        let call = post(RouteClass::Rest);
        world.call(call).expect("accepted at the second attempt");
        assert_eq!(world.seen(), [secs(0), secs(pause)], "{has_budget}");
    }
}

#[test]
fn request_has_the_timeouts_of_its_route_class() {
    let mut timeouts = ClassTimeouts::default();
    timeouts.set_connect(secs(7));
    let of_train = Timeouts::of(RouteClass::Train).with_first_byte(secs(9));
    timeouts.set(RouteClass::Train, of_train);
    let mut world = World::new(&[], OK);
    world.caller.timeouts = timeouts;
    world.call(post(RouteClass::Train)).expect("accepted");
    world.call(post(RouteClass::Rest)).expect("accepted");
    let mut limited = post(RouteClass::Rest);
    limited.attempt_limit = Some(secs(8));
    world.call(limited).expect("accepted");
    let expected = [
        of_train,
        Timeouts::new().with_connect(secs(7)),
        Timeouts::within(secs(8)).with_connect(secs(7)),
    ];
    assert_eq!(world.timeouts(), expected);
}
