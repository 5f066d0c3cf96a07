//! What the attempts of one call add up to: what is known of it, what it holds, how often it comes back.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::TransportErrorKind as T;
use tinkers_core::{
    Arrival, Clock, ErrorKind, Policy, ProgressCell, Readmission, RouteClass, Sent, Timestamp,
};

use support::Step::{Fails, Header, Late, Says};
use support::{Step, World, post};

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
fn a_connection_that_is_cut_is_passing_and_a_refused_certificate_is_not() {
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
fn what_an_earlier_attempt_may_have_done_is_never_forgotten() {
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
            // Alone it says what it is; the attempts between must not wash off what the first one left.
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
                assert_eq!(world.flights(), 0, "all is given back");
            }
        }
    }
}

#[test]
fn a_client_that_closes_between_two_attempts_does_not_hide_the_first() {
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
fn a_success_that_cannot_be_decoded_is_repeated_where_that_is_safe() {
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
    let accepted = world.call(call(Policy::PATIENT)).expect("readable");
    assert_eq!(world.seen().len(), 3);
    assert_eq!(accepted.earlier, Sent::MaybeSent);
    assert_eq!(accepted.response.body, "{}");
    // A few times only.
    let world = World::new(&[], page);
    let accepted = world.call(call(Policy::PATIENT)).expect("as it is");
    assert_eq!(accepted.response.body, "<html>");
    assert_eq!(world.seen().len(), 4);
    // Not where it may not be applied twice.
    let world = World::new(&[page], OK);
    let once = Policy::PATIENT.giving_up_when_maybe_applied();
    let accepted = world.call(call(once)).expect("as it is");
    assert_eq!(accepted.response.body, "<html>");
    assert_eq!(world.seen().len(), 1);
}

#[test]
fn each_attempt_is_counted_in_its_header_and_by_the_policy() {
    let world = World::new(&[NOT_SENT, Says(500, "{}")], OK);
    world.call(post(RouteClass::Train)).expect("taken");
    assert_eq!(world.retry_counts(), ["0", "1", "2"]);
    let world = World::new(&[], NOT_SENT);
    let mut call = post(RouteClass::Train);
    call.policy = Policy {
        attempts: 2,
        ..Policy::PATIENT
    };
    world.call(call).expect_err("two attempts");
    assert_eq!(world.retry_counts(), ["0", "1"]);
}

#[test]
fn the_progress_knows_whether_any_attempt_may_be_at_the_server() {
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
        // The client closes before the attempt that would be taken.
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
    World::new(&[], OK).call(call).expect("taken");
    assert_eq!(cell.sent(), Sent::MaybeSent, "it is accepted");
}

#[test]
fn nothing_is_held_while_asleep_but_the_flight_of_an_unknown_outcome() {
    for (script, expected) in [
        (vec![NOT_SENT], vec![0]),
        (vec![Says(425, "{}")], vec![0]),
        (vec![Header(503, "retry-after", "2")], vec![0]),
        (vec![Says(400, "")], vec![0]),
        (vec![Says(402, "{}")], vec![0]),
        (vec![Says(429, "{}")], vec![0]),
        (vec![Says(500, "{}")], vec![1]),
        (vec![Fails(T::Broken, Sent::MaybeSent)], vec![1]),
        // It never left this time, and what the first one did is still not known.
        (vec![Says(500, "{}"), NOT_SENT], vec![1, 1]),
        (vec![NOT_SENT, Says(500, "{}"), NOT_SENT], vec![0, 1, 1]),
    ] {
        let world = World::new(&script, OK);
        let accepted = world.call(post(RouteClass::Sample)).expect("taken");
        assert_eq!(world.asleep_with(), expected, "{script:?}");
        assert_eq!(world.flights(), 1, "{script:?}");
        drop(accepted);
        assert_eq!(world.flights(), 0, "{script:?}");
    }
}

/// A request that the limiter kept from leaving.
const HELD: Step = Fails(T::Held, Sent::NotSent);

#[test]
fn permit_is_settled_before_its_flight_is_given_back() {
    for step in [
        Says(429, "{}"),
        Says(402, "{}"),
        Says(425, "{}"),
        NOT_SENT,
        HELD,
    ] {
        let world = World::new(&[step], OK);
        drop(world.call(post(RouteClass::Sample)).expect("taken"));
        let expected = ["permit", "flight", "permit", "flight"];
        assert_eq!(world.given_back(), expected, "{step:?}");
    }
}

#[test]
fn refused_call_keeps_its_place_and_a_failed_one_does_not() {
    let kept = Readmission::AfterRefusal(Arrival(1));
    for (script, expected) in [
        (vec![Says(429, "{}")], vec![kept]),
        (vec![HELD, Says(429, "{}"), HELD], vec![kept; 3]),
        (vec![HELD, Says(500, "{}")], vec![kept, Readmission::New]),
        (vec![HELD, NOT_SENT], vec![kept, Readmission::New]),
    ] {
        let world = World::new(&script, OK);
        world.call(post(RouteClass::Sample)).expect("taken");
        let places = world.places();
        assert_eq!(places[0], Readmission::New, "{script:?}");
        assert_eq!(places[1..], expected, "{script:?}");
    }
}

#[test]
fn admission_and_each_answer_are_news() {
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
fn accepted_calls_alone_pay_the_retry_budget_back() {
    let world = World::new(&[Says(500, "{}"), OK, Says(404, "{}")], OK);
    world.call(post(RouteClass::Sample)).expect("taken");
    assert_eq!(world.credits(), 1);
    world.call(post(RouteClass::Sample)).expect_err("refused");
    assert_eq!(world.credits(), 1);
}

#[test]
fn a_hint_beyond_the_window_fails_at_once_and_says_when() {
    let short = Policy {
        window: secs(30),
        ..Policy::PATIENT
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
            Policy::ONCE,
            Header(503, "retry-after", "7"),
            7,
        ),
        (
            RouteClass::Rest,
            Policy::PATIENT,
            Header(503, "retry-after", "86400"),
            86_400,
        ),
        (
            RouteClass::Rest,
            Policy::PATIENT,
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
fn a_hint_within_the_window_is_followed_whatever_the_jitter_and_the_budget() {
    for hint in ["25", "29"] {
        let answer = Header(503, "retry-after", hint);
        for world in [
            World::new(&[answer], OK).with_jitter(),
            World::new(&[answer], OK).with_jitter().with_empty_budget(),
        ] {
            let mut call = post(RouteClass::Control);
            call.policy.window = secs(30);
            world.call(call).expect("taken the second time");
            let second = world.seen()[1];
            let hint = secs(hint.parse().expect("a number"));
            assert!(second >= hint && second < secs(30), "{second:?}");
        }
    }
}

#[test]
fn a_policy_may_follow_a_hint_for_a_while_only() {
    let mut call = post(RouteClass::Control);
    call.policy = Policy::PATIENT.following_hints_up_to(secs(40));
    for answer in [
        Header(429, "retry-after", "3600"),
        Header(503, "retry-after", "41"),
    ] {
        let world = World::new(&[answer, answer], OK);
        world.call(call.clone()).expect("taken the third time");
        assert_eq!(world.seen(), [secs(0), secs(40), secs(80)], "{answer:?}");
    }
    let world = World::new(&[Header(429, "retry-after", "20")], OK);
    world.call(call).expect("taken the second time");
    assert_eq!(
        world.seen(),
        [secs(0), secs(20)],
        "a shorter one is kept to"
    );
}

#[test]
fn a_repeat_starts_within_the_window_only() {
    let world = World::new(&[], Says(500, "{}"));
    let mut call = post(RouteClass::Rest);
    call.policy.window = secs(10);
    let error = world.call(call).expect_err("never taken");
    assert_eq!((error.kind(), error.retry_at()), (ErrorKind::Server, None));
    let ms: Vec<u128> = world.seen().iter().map(Duration::as_millis).collect();
    // The last two go ahead of their pauses, since nothing else is heard of the server.
    assert_eq!(ms, [0, 500, 1500, 2500, 3500]);
    assert_eq!(world.clock.now().since_origin().as_millis(), 3500);
}

#[test]
fn repeats_without_a_budget_are_slow_and_spread() {
    let too_early = Says(425, "{}");
    let world = World::new(&[too_early], OK).with_empty_budget();
    world.call(post(RouteClass::Train)).expect("taken");
    assert_eq!(world.seen()[1], secs(30));
    // But for the one who tries whether a server that was away is back.
    let world = World::new(&[NOT_SENT], OK).with_empty_budget();
    world.call(post(RouteClass::Train)).expect("taken");
    assert_eq!(world.seen()[1], secs(2));
    let world = World::new(&[too_early], OK)
        .with_empty_budget()
        .with_jitter();
    world.call(post(RouteClass::Train)).expect("taken");
    let second = world.seen()[1];
    assert!(
        second > secs(37) && second <= Duration::from_millis(37_500),
        "{second:?}"
    );
}

#[test]
fn no_hint_is_so_short_that_a_refusal_of_control_becomes_a_hot_loop() {
    // The lane of control has no gate; on the others the limiter holds requests back.
    for refusal in [
        Header(429, "retry-after-ms", "1"),
        Header(429, "retry-after-ms", "0.001"),
        Header(429, "retry-after", "0.001"),
        Says(429, r#"{"retry_after_ms": 1}"#),
        Says(429, ""),
    ] {
        let world = World::new(&[], refusal);
        let outcome = world.call_within(post(RouteClass::Control), secs(60));
        assert!(outcome.is_none(), "it waits for as long as it takes");
        let attempts = world.seen().len();
        assert!((3..75).contains(&attempts), "{refusal:?}: {attempts}");
    }
}

#[test]
fn a_large_request_that_is_refused_without_a_hint_waits_by_itself() {
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
        world.call(call).expect("taken");
        assert_eq!(world.seen()[1], secs(waited), "{bytes} {hint:?}");
    }
}

#[test]
fn an_answer_that_the_caller_calls_final_is_not_repeated() {
    let world = World::new(&[LOST[0], Says(500, "oops")], OK);
    let mut call = post(RouteClass::Train);
    call.is_final = Some(|answer| &answer.body[..] == b"oops");
    let error = world.call(call).expect_err("final");
    assert_eq!(error.status(), Some(500));
    assert_eq!(error.sent(), Sent::MaybeSent, "the first attempt is kept");
    assert_eq!(world.seen().len(), 2);
}

#[test]
fn an_accepted_call_tells_of_an_attempt_before_it_that_may_have_been_applied() {
    for (first, earlier) in [(NOT_SENT, Sent::NotSent), (LOST[0], Sent::MaybeSent)] {
        let world = World::new(&[first, NOT_SENT], OK);
        let accepted = world.call(post(RouteClass::Train)).expect("accepted");
        assert_eq!(accepted.earlier, earlier, "{first:?}");
    }
}
