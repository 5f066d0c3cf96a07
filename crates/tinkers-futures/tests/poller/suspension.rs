//! Tests of suspensions of the shared poll, and of the counters that they reset.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{ProgressCell, Timestamp};
use tinkers_futures::CompletionHandle;

use crate::support::Step;
use crate::{FIRST, Fixture, NOTHING, fixture, is_released};

#[test]
fn failed_shared_poll_is_suspended_and_resumed() {
    let lost = Step::Json(410, r#"{"detail": "no such session"}"#);
    let script = [
        lost.clone(),
        lost.clone(),
        lost.clone(),
        FIRST,
        lost,
        NOTHING,
    ];
    let fixture = fixture(script);
    let mut handles = Vec::new();
    for id in ["a", "b"] {
        handles.push(fixture.register(id));
    }
    for handle in &handles {
        assert!(is_released(fixture.completed(handle)));
    }
    // A request that is registered during the suspension is released at once.
    let new = fixture.register("c");
    assert!(is_released(fixture.completed(&new)));
    assert_eq!(fixture.server.request_times(), [0.0]);
    fixture.wait(31);
    handles.push(fixture.register("d"));
    fixture.wait(61);
    handles.push(fixture.register("e"));
    fixture.wait(121);
    let first = fixture.register("1");
    assert!(!is_released(fixture.completed(&first)));
    assert_eq!(fixture.server.request_times(), [0.0, 31.0, 92.0, 213.0]);
    // After a response, the next suspension is short again.
    let next = fixture.register("f");
    assert!(is_released(fixture.completed(&next)));
    fixture.wait(31);
    let last = fixture.register("g");
    fixture.wait(1);
    assert_eq!(fixture.server.request_times()[4..6], [213.0, 244.0]);
    drop((new, first, next, last, handles));
}

/// Waits until the current suspension of the shared poll ends, and returns the number of seconds that this took. Registers a request each
/// second, since an idle poller does not poll.
fn suspension(fixture: &Fixture, handles: &mut Vec<CompletionHandle>) -> usize {
    let polls = fixture.server.request_times().len();
    (0..1000)
        .find(|_| {
            handles.push(fixture.register(&format!("w{}", handles.len())));
            fixture.wait(1);
            fixture.server.request_times().len() > polls
        })
        .expect("the poll resumes")
}

#[test]
fn shared_poll_suspensions_double_until_the_server_responds() {
    let lost = Step::Json(410, r#"{"detail": "no such session"}"#);
    for response in [NOTHING, Step::Json(408, "{}")] {
        let script = [lost.clone(), lost.clone(), lost.clone(), response.clone()];
        let fixture = fixture(script.into_iter().chain([lost.clone(), lost.clone()]));
        let mut handles = vec![fixture.register("first")];
        fixture.wait(1);
        let suspensions = [(); 4].map(|()| suspension(&fixture, &mut handles));
        let doubled = [29, 59, 119, 29];
        for (suspension, expected) in suspensions.into_iter().zip(doubled) {
            assert!(
                (expected..=expected + 2).contains(&suspension),
                "{response:?}: {suspensions:?}"
            );
        }
    }
}

#[test]
fn shared_poll_suspension_restarts_the_retry_limits() {
    let missing = Step::Json(404, r#"{"detail": "starting"}"#);
    let fixture = fixture(std::iter::repeat_n(missing, 8));
    let first = fixture.register("1");
    assert!(is_released(fixture.completed(&first)));
    assert_eq!(fixture.server.request_times().len(), 4);
    fixture.wait(31);
    let second = fixture.register("2");
    assert!(is_released(fixture.completed(&second)));
    assert_eq!(fixture.server.request_times().len(), 8);
}

#[test]
fn completed_request_restarts_the_retry_limits_of_the_shared_poll() {
    let missing = || std::iter::repeat_n(Step::Json(404, r#"{"detail": "starting"}"#), 3);
    let second = Step::Json(
        200,
        r#"{"completions": [{"state": "finished", "request_id": "2"}], "cursor": 6}"#,
    );
    let script = missing().chain([FIRST]).chain(missing()).chain([second]);
    let fixture = fixture(script);
    let handles = ["1", "2"].map(|id| fixture.register(id));
    for handle in &handles {
        fixture.completed(handle).expect("the poll succeeds");
    }
    assert_eq!(fixture.server.request_times().len(), 8);
}

#[test]
fn rate_limited_shared_poll_resets_all_progress_deadlines() {
    let refusal = Step::WithHeader(429, "retry-after", "100");
    let late = Step::After(Duration::from_secs(5));
    let fixture = fixture([late, refusal, FIRST]);
    let progress = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
    let handle = fixture.register_with("1", &progress);
    fixture.wait(50);
    let news = progress.last_news().since_origin();
    assert_eq!(news, Duration::from_secs(5));
    fixture.completed(&handle).expect("the poll succeeds");
}

#[test]
fn shared_poll_suspension_lasts_at_least_the_server_retry_delay() {
    let lost = Step::WithHeader(401, "retry-after", "100");
    let fixture = fixture(std::iter::repeat_n(lost, 7).chain([FIRST]));
    let handle = fixture.register("0");
    assert!(is_released(fixture.completed(&handle)));
    let failed_at = *fixture.server.request_times().last().unwrap();
    fixture.wait(99);
    let early = fixture.register("2");
    assert!(is_released(fixture.completed(&early)));
    fixture.wait(2);
    let first = fixture.register("1");
    assert!(!is_released(fixture.completed(&first)));
    let resumed_at = *fixture.server.request_times().last().unwrap();
    assert!(resumed_at - failed_at >= 100.0, "{failed_at} {resumed_at}");
}
