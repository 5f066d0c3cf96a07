//! What a shared poll forgets: doubts, and how often it was given up.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{ProgressCell, Timestamp};
use tinkers_futures::CompletionHandle;

use crate::support::Step;
use crate::{FIRST, NOTHING, World, is_left_alone, world};

#[test]
fn a_poll_that_is_given_up_rests_ever_longer_and_then_goes_on() {
    let lost = Step::Json(410, r#"{"detail": "no such session"}"#);
    let script = [
        lost.clone(),
        lost.clone(),
        lost.clone(),
        FIRST,
        lost,
        NOTHING,
    ];
    let world = world(script);
    let mut watches = Vec::new();
    for id in ["a", "b"] {
        watches.push(world.watch(id));
    }
    for watch in &watches {
        assert!(is_left_alone(world.announced(watch)));
    }
    // A sample that arrives while the shared poll rests is polled for by itself at once.
    let comes = world.watch("c");
    assert!(is_left_alone(world.announced(&comes)));
    assert_eq!(world.server.asked_at(), [0.0]);
    world.wait(31);
    watches.push(world.watch("d"));
    world.wait(61);
    watches.push(world.watch("e"));
    world.wait(121);
    let first = world.watch("1");
    assert!(!is_left_alone(world.announced(&first)));
    assert_eq!(world.server.asked_at(), [0.0, 31.0, 92.0, 213.0]);
    // It went on, so that the next rest is short again.
    let next = world.watch("f");
    assert!(is_left_alone(world.announced(&next)));
    world.wait(31);
    let last = world.watch("g");
    world.wait(1);
    assert_eq!(world.server.asked_at()[4..6], [213.0, 244.0]);
    drop((comes, first, next, last, watches));
}

/// For how many seconds a poll that was just given up rests. It must have a waiter to go on, so one comes each second.
fn rest(world: &World, watches: &mut Vec<CompletionHandle>) -> usize {
    let asked = world.server.asked_at().len();
    (0..1000)
        .find(|_| {
            watches.push(world.watch(&format!("w{}", watches.len())));
            world.wait(1);
            world.server.asked_at().len() > asked
        })
        .expect("it goes on")
}

#[test]
fn rests_in_a_row_double_and_any_answer_makes_them_short_again() {
    let lost = Step::Json(410, r#"{"detail": "no such session"}"#);
    for taken in [NOTHING, Step::Json(408, "{}")] {
        let script = [lost.clone(), lost.clone(), lost.clone(), taken.clone()];
        let world = world(script.into_iter().chain([lost.clone(), lost.clone()]));
        let mut watches = vec![world.watch("first")];
        world.wait(1);
        let rests = [(); 4].map(|()| rest(&world, &mut watches));
        let doubled = [29, 59, 119, 29];
        for (rest, expected) in rests.into_iter().zip(doubled) {
            assert!(
                (expected..=expected + 2).contains(&rest),
                "{taken:?}: {rests:?}"
            );
        }
    }
}

#[test]
fn poll_that_goes_on_after_a_rest_has_all_its_doubts_again() {
    let missing = Step::Json(404, r#"{"detail": "starting"}"#);
    let world = world(std::iter::repeat_n(missing, 8));
    let first = world.watch("1");
    assert!(is_left_alone(world.announced(&first)));
    assert_eq!(world.server.asked_at().len(), 4);
    world.wait(31);
    let second = world.watch("2");
    assert!(is_left_alone(world.announced(&second)));
    assert_eq!(world.server.asked_at().len(), 8);
}

#[test]
fn completion_of_a_waiter_renews_the_doubts() {
    let missing = || std::iter::repeat_n(Step::Json(404, r#"{"detail": "starting"}"#), 3);
    let second = Step::Json(
        200,
        r#"{"completions": [{"state": "finished", "request_id": "2"}], "cursor": 6}"#,
    );
    let script = missing().chain([FIRST]).chain(missing()).chain([second]);
    let world = world(script);
    let watches = ["1", "2"].map(|id| world.watch(id));
    for watch in &watches {
        world.announced(watch).expect("the poll goes on");
    }
    assert_eq!(world.server.asked_at().len(), 8);
}

#[test]
fn refused_poll_is_news_for_all_waiters() {
    let refusal = Step::WithHeader(429, "retry-after", "100");
    let late = Step::After(Duration::from_secs(5));
    let world = world([late, refusal, FIRST]);
    let progress = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
    let watch = world.watch_with("1", &progress);
    world.wait(50);
    let news = progress.last_news().since_origin();
    assert_eq!(news, Duration::from_secs(5));
    world.announced(&watch).expect("the poll goes on");
}

#[test]
fn the_rest_is_no_shorter_than_the_servers_hint() {
    let lost = Step::WithHeader(401, "retry-after", "100");
    let world = world(std::iter::repeat_n(lost, 7).chain([FIRST]));
    let watch = world.watch("0");
    assert!(is_left_alone(world.announced(&watch)));
    let given_up = *world.server.asked_at().last().unwrap();
    world.wait(99);
    let early = world.watch("2");
    assert!(is_left_alone(world.announced(&early)));
    world.wait(2);
    let first = world.watch("1");
    assert!(!is_left_alone(world.announced(&first)));
    let gone_on = *world.server.asked_at().last().unwrap();
    assert!(gone_on - given_up >= 100.0, "{given_up} {gone_on}");
}
