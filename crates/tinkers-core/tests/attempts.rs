//! The attempts of a call: the error after several attempts, the permits held during backoff, and the number of retries.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::TransportErrorKind as T;
use tinkers_core::{
    Arrival, CallPolicy, Clock, ErrorKind, ProgressCell, Readmission, RouteClass, Sent, Timestamp,
};

use support::Step::{Fails, Header, Late, Says};
use support::{Step, World, post};

#[path = "attempts/client_options.rs"]
mod client_options;
mod support;
#[path = "attempts/window.rs"]
mod window;

const OK: Step = Says(200, "{}");
const NOT_SENT: Step = Fails(T::Connect, Sent::NotSent);
const LOST: [Step; 5] = [
    Fails(T::Timeout, Sent::MaybeSent),
    Fails(T::Broken, Sent::MaybeSent),
    Says(500, "{}"),
    Says(503, ""),
    Says(408, "{}"),
];

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn broken_connection_is_retried_and_untrusted_certificate_is_not() {
    for kind in [T::Connect, T::Timeout, T::Broken] {
        let world = World::new(&[Fails(kind, Sent::NotSent)], OK);
        world
            .call(post(RouteClass::Train))
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(world.seen().len(), 2, "{kind:?}");
    }
    for kind in [T::Tls, T::Credential, T::Closed, T::Invalid, T::Aborted] {
        let world = World::new(&[Fails(kind, Sent::NotSent)], OK);
        let error = world.call(post(RouteClass::Train)).expect_err("final");
        assert_eq!(error.sent(), Sent::NotSent, "{kind:?}");
        assert_eq!(world.seen().len(), 1, "{kind:?}");
    }
}

#[test]
fn error_is_maybe_sent_after_any_attempt_with_unknown_outcome() {
    for (last, kind, status) in [
        (Fails(T::Tls, Sent::NotSent), ErrorKind::Connection, None),
        (NOT_SENT, ErrorKind::Connection, None),
        (Fails(T::Aborted, Sent::NotSent), ErrorKind::Aborted, None),
        (Says(401, "{}"), ErrorKind::Authentication, Some(401)),
        (Says(409, "{}"), ErrorKind::Conflict, Some(409)),
        (Says(422, "{}"), ErrorKind::Rejected, Some(422)),
        (Says(402, "{}"), ErrorKind::Billing, Some(402)),
        (
            Header(503, "retry-after", "86400"),
            ErrorKind::Server,
            Some(503),
        ),
    ] {
        for lost in LOST {
            // The result of a later attempt must not hide the unknown outcome of the first.
            let alone = World::new(&[], last).call(post(RouteClass::Sample));
            let alone = alone.expect_err("final");
            assert_ne!(alone.sent(), Sent::MaybeSent, "{last:?}");
            for script in [
                vec![lost],
                vec![lost, NOT_SENT],
                vec![NOT_SENT, lost, Says(429, "{}")],
            ] {
                let world = World::new(&script, last);
                let error = world.call(post(RouteClass::Sample)).expect_err("final");
                assert_eq!(
                    (error.sent(), error.kind(), error.status()),
                    (Sent::MaybeSent, kind, status),
                    "{script:?}, then {last:?}"
                );
                assert_eq!(world.in_flight_permits(), 0, "all permits are returned");
            }
        }
    }
}

#[test]
fn call_closed_before_its_retry_reports_whether_it_may_be_sent() {
    let world = World::new(&LOST[..1], OK).closed_after(1);
    let error = world.call(post(RouteClass::Sample)).expect_err("closed");
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Closed, Sent::MaybeSent)
    );
    let world = World::new(&[NOT_SENT], OK).closed_after(1);
    let error = world.call(post(RouteClass::Sample)).expect_err("closed");
    assert_eq!(error.sent(), Sent::NotSent);
}

#[test]
fn undecodable_success_response_is_retried_if_a_repeat_is_safe() {
    fn is_json(answer: &tinkers_core::HttpResponse) -> bool {
        answer.body.starts_with(b"{")
    }
    let page = Says(200, "<html>");
    let call = |policy| {
        let mut call = post(RouteClass::Train);
        call.is_readable = Some(is_json);
        call.policy = policy;
        call
    };
    let world = World::new(&[page, page], OK);
    let accepted = world.call(call(CallPolicy::PATIENT)).expect("readable");
    assert_eq!(world.seen().len(), 3);
    assert_eq!(accepted.earlier, Sent::MaybeSent);
    assert_eq!(accepted.response.body, "{}");
    // There are at most a few retries.
    let world = World::new(&[], page);
    let accepted = world
        .call(call(CallPolicy::PATIENT))
        .expect("the response is returned");
    assert_eq!(accepted.response.body, "<html>");
    assert_eq!(world.seen().len(), 4);
    // There is no retry if the request must not be applied twice.
    let world = World::new(&[page], OK);
    let once = CallPolicy::PATIENT.giving_up_when_maybe_applied();
    let accepted = world.call(call(once)).expect("the response is returned");
    assert_eq!(accepted.response.body, "<html>");
    assert_eq!(world.seen().len(), 1);
}

#[test]
fn attempts_are_counted_in_the_retry_count_header_and_by_the_policy() {
    let world = World::new(&[NOT_SENT, Says(500, "{}")], OK);
    world.call(post(RouteClass::Train)).expect("accepted");
    assert_eq!(world.retry_counts(), ["0", "1", "2"]);
    let world = World::new(&[], NOT_SENT);
    let mut call = post(RouteClass::Train);
    call.policy = CallPolicy {
        attempts: 2,
        ..CallPolicy::PATIENT
    };
    world.call(call).expect_err("two attempts");
    assert_eq!(world.retry_counts(), ["0", "1"]);
}

#[test]
fn progress_records_whether_an_attempt_may_have_been_sent() {
    let mut rows = vec![
        (vec![NOT_SENT], Sent::NotSent),
        (vec![NOT_SENT, Says(429, "{}")], Sent::NotSent),
        (vec![Header(503, "retry-after", "1")], Sent::NotSent),
        (vec![Says(425, "{}")], Sent::NotSent),
        (vec![Says(402, "{}")], Sent::NotSent),
    ];
    for lost in LOST {
        rows.push((vec![lost], Sent::MaybeSent));
        rows.push((vec![lost, NOT_SENT, Says(429, "{}")], Sent::MaybeSent));
    }
    for (script, expected) in rows {
        // The client is closed before the attempt that would be accepted.
        let world = World::new(&script, OK).closed_after(script.len());
        let cell = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
        let mut call = post(RouteClass::Train);
        call.progress = Some(Arc::clone(&cell));
        world.call(call).expect_err("closed");
        assert_eq!(cell.sent(), expected, "{script:?}");
    }
    let cell = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
    let mut call = post(RouteClass::Train);
    call.progress = Some(Arc::clone(&cell));
    World::new(&[], OK).call(call).expect("accepted");
    assert_eq!(cell.sent(), Sent::MaybeSent, "the call was accepted");
}

#[test]
fn retry_keeps_its_in_flight_permit_only_after_unknown_outcome() {
    for (script, expected) in [
        (vec![NOT_SENT], vec![0]),
        (vec![Says(425, "{}")], vec![0]),
        (vec![Header(503, "retry-after", "2")], vec![0]),
        (vec![Says(400, "")], vec![0]),
        (vec![Says(402, "{}")], vec![0]),
        (vec![Says(429, "{}")], vec![0]),
        (vec![Says(500, "{}")], vec![1]),
        (vec![Fails(T::Broken, Sent::MaybeSent)], vec![1]),
        // The second attempt was not sent, and the outcome of the first one is still unknown.
        (vec![Says(500, "{}"), NOT_SENT], vec![1, 1]),
        (vec![NOT_SENT, Says(500, "{}"), NOT_SENT], vec![0, 1, 1]),
    ] {
        let world = World::new(&script, OK);
        let accepted = world.call(post(RouteClass::Sample)).expect("accepted");
        assert_eq!(world.permits_during_pauses(), expected, "{script:?}");
        assert_eq!(world.in_flight_permits(), 1, "{script:?}");
        drop(accepted);
        assert_eq!(world.in_flight_permits(), 0, "{script:?}");
    }
}

/// The result of an admitted request that the transport did not send, because the rate-limit gate was closed after the admission.
const HELD: Step = Fails(T::Held, Sent::NotSent);

#[test]
fn submit_permit_is_returned_before_the_in_flight_permit() {
    for step in [
        Says(429, "{}"),
        Says(402, "{}"),
        Says(425, "{}"),
        NOT_SENT,
        HELD,
    ] {
        let world = World::new(&[step], OK);
        drop(world.call(post(RouteClass::Sample)).expect("accepted"));
        let expected = ["permit", "in_flight_permit", "permit", "in_flight_permit"];
        assert_eq!(world.returned_permits(), expected, "{step:?}");
    }
}

#[test]
fn call_keeps_its_queue_position_after_a_429_but_not_a_failure() {
    let kept = Readmission::AfterRefusal(Arrival(1));
    for (script, expected) in [
        (vec![Says(429, "{}")], vec![kept]),
        (vec![HELD, Says(429, "{}"), HELD], vec![kept; 3]),
        (vec![HELD, Says(500, "{}")], vec![kept, Readmission::New]),
        (vec![HELD, NOT_SENT], vec![kept, Readmission::New]),
    ] {
        let world = World::new(&script, OK);
        world.call(post(RouteClass::Sample)).expect("accepted");
        let readmissions = world.readmissions();
        assert_eq!(readmissions[0], Readmission::New, "{script:?}");
        assert_eq!(readmissions[1..], expected, "{script:?}");
    }
}

#[test]
fn admissions_and_responses_count_as_progress_of_a_call() {
    let untrusted = Fails(T::Tls, Sent::NotSent);
    for (step, news) in [(untrusted, 600), (Late(5, &Says(404, "{}")), 605)] {
        let world = World::new(&[step], OK).closed_until(secs(600));
        let cell = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
        let mut call = post(RouteClass::Sample);
        call.progress = Some(Arc::clone(&cell));
        world.call(call).expect_err("it fails");
        assert_eq!(cell.last_news().since_origin(), secs(news), "{step:?}");
    }
}

#[test]
fn only_accepted_calls_refill_the_retry_budget() {
    let world = World::new(&[Says(500, "{}"), OK, Says(404, "{}")], OK);
    let before = world.tokens();
    world.call(post(RouteClass::Sample)).expect("accepted");
    // One retry after a 500 costs five tokens, and one success returns one token.
    assert_eq!(world.tokens(), before - 5 + 1);
    world.call(post(RouteClass::Sample)).expect_err("refused");
    assert_eq!(world.tokens(), before - 5 + 1);
}

#[test]
fn retry_delay_beyond_the_retry_window_fails_the_call_at_once() {
    let short = CallPolicy {
        window: secs(30),
        ..CallPolicy::PATIENT
    };
    for (class, policy, answer, wait) in [
        (
            RouteClass::Control,
            short,
            Header(429, "retry-after", "3600"),
            3600,
        ),
        (
            RouteClass::Control,
            short,
            Header(429, "retry-after", "30"),
            30,
        ),
        (
            RouteClass::Control,
            CallPolicy::ONCE,
            Header(503, "retry-after", "7"),
            7,
        ),
        (
            RouteClass::Rest,
            CallPolicy::PATIENT,
            Header(503, "retry-after", "86400"),
            86_400,
        ),
        (
            RouteClass::Rest,
            CallPolicy::PATIENT,
            Header(500, "retry-after", "300"),
            300,
        ),
    ] {
        let world = World::new(&[], answer).with_jitter();
        let mut call = post(class);
        call.policy = policy;
        let error = world.call(call).expect_err("too long");
        assert_eq!(error.retry_after(), Some(secs(wait)), "{answer:?}");
        assert_eq!(error.retry_at(), Some(Timestamp::ORIGIN.after(secs(wait))));
        assert_eq!(world.clock.now(), Timestamp::ORIGIN, "{answer:?}: at once");
        assert_eq!(world.seen().len(), 1, "{answer:?}");
    }
}

#[test]
fn server_retry_delay_is_followed_despite_jitter_and_an_empty_budget() {
    for hint in ["25", "29"] {
        let answer = Header(503, "retry-after", hint);
        for world in [
            World::new(&[answer], OK).with_jitter(),
            World::new(&[answer], OK).with_jitter().with_empty_budget(),
        ] {
            let mut call = post(RouteClass::Control);
            call.policy.window = secs(30);
            world.call(call).expect("accepted at the second attempt");
            let second = world.seen()[1];
            let hint = secs(hint.parse().expect("a number"));
            assert!(second >= hint && second < secs(30), "{second:?}");
        }
    }
}

#[test]
fn retry_delay_above_the_maximum_of_the_call_policy_is_cut() {
    let mut call = post(RouteClass::Control);
    call.policy = CallPolicy::PATIENT.following_hints_up_to(secs(40));
    for answer in [
        Header(429, "retry-after", "3600"),
        Header(503, "retry-after", "41"),
    ] {
        let world = World::new(&[answer, answer], OK);
        world
            .call(call.clone())
            .expect("accepted at the third attempt");
        assert_eq!(world.seen(), [secs(0), secs(40), secs(80)], "{answer:?}");
    }
    let world = World::new(&[Header(429, "retry-after", "20")], OK);
    world.call(call).expect("accepted at the second attempt");
    assert_eq!(
        world.seen(),
        [secs(0), secs(20)],
        "a shorter hint is followed"
    );
}

#[test]
fn retry_starts_only_within_the_retry_window() {
    let world = World::new(&[], Says(500, "{}"));
    let mut call = post(RouteClass::Rest);
    call.policy.window = secs(10);
    let error = world.call(call).expect_err("never taken");
    assert_eq!((error.kind(), error.retry_at()), (ErrorKind::Server, None));
    let ms: Vec<u128> = world.seen().iter().map(Duration::as_millis).collect();
    // The last two retries are outage checks, which are sent early.
    assert_eq!(ms, [0, 500, 1500, 2500, 3500]);
    assert_eq!(world.clock.now().since_origin().as_millis(), 3500);
}

#[test]
fn retries_with_an_empty_retry_budget_wait_longest_and_get_jitter() {
    let too_early = Says(425, "{}");
    let world = World::new(&[too_early], OK).with_empty_budget();
    world.call(post(RouteClass::Train)).expect("accepted");
    assert_eq!(world.seen()[1], secs(30));
    // Outage checks are the exception: they are sent earlier.
    let world = World::new(&[NOT_SENT], OK).with_empty_budget();
    world.call(post(RouteClass::Train)).expect("accepted");
    assert_eq!(world.seen()[1], secs(2));
    let world = World::new(&[too_early], OK)
        .with_empty_budget()
        .with_jitter();
    world.call(post(RouteClass::Train)).expect("accepted");
    let second = world.seen()[1];
    assert!(
        second > secs(37) && second <= Duration::from_millis(37_500),
        "{second:?}"
    );
}

#[test]
fn short_retry_delays_cause_no_busy_loop_of_control_requests() {
    // The route class of control requests has no gate; for other classes the limiter delays the requests.
    for refusal in [
        Header(429, "retry-after-ms", "1"),
        Header(429, "retry-after-ms", "0.001"),
        Header(429, "retry-after", "0.001"),
        Says(429, r#"{"retry_after_ms": 1}"#),
        Says(429, ""),
    ] {
        let world = World::new(&[], refusal);
        let outcome = world.call_within(post(RouteClass::Control), secs(60));
        assert!(outcome.is_none(), "the request waits without a deadline");
        let attempts = world.seen().len();
        assert!((3..75).contains(&attempts), "{refusal:?}: {attempts}");
    }
}

#[test]
fn large_request_pauses_after_a_429_without_a_retry_delay() {
    for (bytes, hint, waited) in [
        (128 * 1024, None, 1),
        (128 * 1024 + 1, None, 5),
        (128 * 1024 + 1, Some("2"), 2),
    ] {
        let refusal = match hint {
            Some(seconds) => Header(429, "retry-after", seconds),
            None => Says(429, ""),
        };
        let world = World::new(&[refusal], OK);
        let mut call = post(RouteClass::Sample);
        call.cost.bytes = bytes;
        world.call(call).expect("accepted");
        assert_eq!(world.seen()[1], secs(waited), "{bytes} {hint:?}");
    }
}

#[test]
fn response_that_a_call_declares_final_is_not_retried() {
    let world = World::new(&[LOST[0], Says(500, "oops")], OK);
    let mut call = post(RouteClass::Train);
    call.is_final = Some(|answer| &answer.body[..] == b"oops");
    let error = world.call(call).expect_err("final");
    assert_eq!(error.status(), Some(500));
    assert_eq!(
        error.sent(),
        Sent::MaybeSent,
        "the first attempt may have been applied"
    );
    assert_eq!(world.seen().len(), 2);
}

#[test]
fn accepted_call_reports_if_an_earlier_attempt_had_an_unknown_outcome() {
    for (first, earlier) in [(NOT_SENT, Sent::NotSent), (LOST[0], Sent::MaybeSent)] {
        let world = World::new(&[first, NOT_SENT], OK);
        let accepted = world.call(post(RouteClass::Train)).expect("accepted");
        assert_eq!(accepted.earlier, earlier, "{first:?}");
    }
}
