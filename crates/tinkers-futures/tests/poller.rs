//! Tests of the shared poll: its requests, its pauses, and its end.

mod support;
#[path = "poller/suspension.rs"]
mod suspension;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{FakeSession, Scripted, Step, session, session_with_limits};
use tinkers_core::{
    Arrival, AttemptOutcome, ClientId, Clock, ErrorKind, ProgressCell, Readmission, RecoveredError,
    Result, SessionContext, Timestamp, TransportErrorKind,
};
use tinkers_futures::{CompletionHandle, CompletionNotice, SessionPoller};
use tinkers_wire::PollTarget;

const POLL: &str = "retrieve_futures";
const NOTHING: Step = Step::Json(200, r#"{"completions": [], "cursor": 0}"#);
const FIRST: Step = Step::Json(
    200,
    r#"{"completions": [{"state": "finished", "request_id": "1", "response_payload_uncompressed_size": 70}], "cursor": 5}"#,
);

/// A shared poller under test, and the fake server to which it sends its polls.
struct Fixture {
    server: Arc<Scripted>,
    session: Arc<dyn SessionContext>,
    poller: SessionPoller,
}

fn fixture(script: impl IntoIterator<Item = Step>) -> Fixture {
    fixture_of(session(script))
}

fn fixture_of((session, server): (Arc<FakeSession>, Arc<Scripted>)) -> Fixture {
    let target = PollTarget::samples("s:sample:0", 3);
    let session = session as Arc<dyn SessionContext>;
    let poller = SessionPoller::new(Arc::clone(&session), ClientId(0), target);
    Fixture {
        server,
        session,
        poller,
    }
}

impl Fixture {
    fn register(&self, id: &str) -> CompletionHandle {
        self.register_with(id, &Arc::new(ProgressCell::new(Timestamp::ORIGIN)))
    }

    fn register_with(&self, id: &str, progress: &Arc<ProgressCell>) -> CompletionHandle {
        let submission = self.poller.begin().expect("the poller runs");
        self.poller
            .register(submission, id, progress)
            .expect("a new id")
    }

    fn completed(&self, handle: &CompletionHandle) -> Result<CompletionNotice> {
        self.server.drive(handle.completed())
    }

    fn wait(&self, seconds: u64) {
        let time: &dyn Clock = &self.server.clock;
        self.server.drive(time.sleep(Duration::from_secs(seconds)));
    }

    /// Returns the request bodies of the polls that the fake server received, as JSON.
    fn bodies(&self) -> Vec<Value> {
        let bodies = self.server.bodies(POLL);
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).expect("JSON"))
            .collect()
    }
}

fn waiting_body(cursor: i64, retrieved: &[&str]) -> Value {
    json!({
        "target": { "type": "sampling_session", "sampling_session_id": "s:sample:0", "cloned_sampler_id": 3 },
        "prev_cursor": cursor,
        "retrieved_request_ids": retrieved,
    })
}

fn acknowledging_body(cursor: i64, retrieved: &[&str]) -> Value {
    let mut body = waiting_body(cursor, retrieved);
    body["timeout"] = json!(0.0);
    body
}

#[test]
fn shared_poll_waits_for_completions_and_acknowledges_them() {
    let fixture = fixture([
        Step::After(Duration::from_secs(30)),
        NOTHING,
        Step::After(Duration::from_secs(10)),
        FIRST,
        Step::Json(200, r#"{"completions": [], "cursor": 5}"#),
    ]);
    let progress = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
    let handle = fixture.register_with("1", &progress);
    assert_eq!(handle.request_id(), "1");
    let notice = fixture.completed(&handle).unwrap();
    assert_eq!(notice.size.map(u64::from), Some(70));
    assert_eq!(
        progress.snapshot().last_news.since_origin(),
        Duration::from_secs(40)
    );
    drop(handle);
    fixture.wait(100);
    let expected = [
        waiting_body(0, &[]),
        waiting_body(0, &[]),
        acknowledging_body(5, &["1"]),
    ];
    assert_eq!(fixture.bodies(), expected);
    // The acknowledgement waits for a second for a poll that can carry it.
    assert_eq!(fixture.server.request_times(), [0.0, 30.0, 41.0]);
    let asked = fixture.server.requests.lock().unwrap();
    let limits: Vec<_> = asked
        .iter()
        .map(|(_, poll)| poll.timeouts.first_byte.as_secs())
        .collect();
    assert_eq!(limits, [45, 45, 5]);
}

#[test]
fn lost_poll_response_leaves_cursor_and_acknowledgements_unchanged() {
    let script = [
        FIRST,
        Step::Fails(TransportErrorKind::Broken),
        Step::Json(503, "{}"),
        Step::After(Duration::from_secs(3600)),
        NOTHING,
    ];
    let fixture = fixture(script);
    let first = fixture.register("1");
    fixture.completed(&first).unwrap();
    drop(first);
    let _second = fixture.register("2");
    fixture.wait(100);
    let repeated = waiting_body(5, &["1"]);
    assert_eq!(
        fixture.bodies(),
        [
            waiting_body(0, &[]),
            repeated.clone(),
            repeated.clone(),
            repeated
        ]
    );
    assert_eq!(fixture.server.request_times(), [0.0, 0.0, 0.5, 1.5]);
}

#[test]
fn next_shared_poll_follows_a_timed_out_long_poll_at_once() {
    let fixture = fixture([
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
        FIRST,
    ]);
    let handle = fixture.register("1");
    fixture.completed(&handle).unwrap();
    assert_eq!(fixture.server.request_times(), [0.0, 45.0]);
}

#[test]
fn rate_limits_and_empty_responses_lengthen_shared_poll_pauses() {
    let refusal = Step::WithHeader(429, "retry-after-ms", "1500");
    let refused = fixture([refusal, FIRST]);
    let handle = refused.register("1");
    refused.completed(&handle).unwrap();
    assert_eq!(refused.server.request_times(), [0.0, 1.5]);
    let kept = Readmission::AfterRefusal(Arrival(1));
    let readmissions = refused.server.readmissions.lock().unwrap();
    assert_eq!(*readmissions, [Readmission::New, kept]);
    let settled = refused.server.settled.lock().unwrap();
    assert!(matches!(
        settled[0],
        AttemptOutcome::Refused { hint: Some(_) }
    ));

    let quiet = fixture(std::iter::repeat_n(NOTHING, 50).chain([FIRST]));
    let handle = quiet.register("1");
    quiet.completed(&handle).unwrap();
    let took = *quiet.server.request_times().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
}

/// Returns whether `outcome`, the outcome of a wait for a completion, tells the caller to poll individually for its result.
fn is_released(outcome: Result<CompletionNotice>) -> bool {
    outcome.is_ok_and(|notice| notice.size.is_none())
}

#[test]
fn poll_is_retried_after_a_possibly_transient_failure() {
    let page = "<html>welcome</html>";
    let steps = [
        200, 302, 401, 403, 404, 405, 409, 410, 413, 418, 421, 422, 431, 501,
    ]
    .map(|status| Step::Json(status, page))
    .into_iter();
    let steps = steps.chain(
        [
            TransportErrorKind::Tls,
            TransportErrorKind::Decode,
            TransportErrorKind::Redirect,
            TransportErrorKind::TooLarge,
        ]
        .map(Step::Fails),
    );
    let reason = r#"{"detail": "starting"}"#;
    let steps = steps.chain([400, 401, 404, 500].map(|status| Step::Json(status, reason)));
    for step in steps {
        let fixture = fixture([step.clone(), FIRST]);
        let handle = fixture.register("1");
        let notice = fixture.completed(&handle).unwrap();
        assert_eq!(notice.size.map(u64::from), Some(70), "{step:?}");
        assert_eq!(fixture.server.request_times(), [0.0, 0.5], "{step:?}");
    }
}

#[test]
fn each_cause_of_shared_poll_retries_has_its_own_retry_limit() {
    let reason = r#"{"detail": "no such session"}"#;
    let few = &[0.0, 0.5, 1.5, 3.5][..];
    let some = &[0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5][..];
    for (step, times) in [
        (Step::Json(404, reason), few),
        (Step::Json(200, "<html>"), few),
        (Step::Json(404, "<html>"), some),
        (Step::Json(500, reason), some),
        (Step::Fails(TransportErrorKind::Tls), some),
        (Step::Fails(TransportErrorKind::Decode), some),
        (Step::Fails(TransportErrorKind::TooLarge), &[0.0, 0.5][..]),
        (Step::Fails(TransportErrorKind::Credential), &[0.0][..]),
        (Step::Json(410, reason), &[0.0][..]),
        (Step::Panics, &[0.0][..]),
    ] {
        let fixture = fixture(std::iter::repeat_n(step.clone(), 9));
        let handle = fixture.register("1");
        assert!(is_released(fixture.completed(&handle)), "{step:?}");
        assert_eq!(fixture.server.request_times(), times, "{step:?}");
    }
}

#[test]
fn valid_shared_poll_response_restarts_the_retry_limits() {
    let missing = Step::Json(404, r#"{"detail": "starting"}"#);
    let once = std::iter::repeat_n(missing, 3).chain([NOTHING]);
    let fixture = fixture(once.cycle().take(20).chain([FIRST]));
    let handle = fixture.register("1");
    assert!(!is_released(fixture.completed(&handle)));
}

#[test]
fn poll_cursor_that_goes_back_is_ignored_and_causes_a_backoff() {
    let back = |n: usize| {
        let cursor = [
            r#"{"completions": [], "cursor": 2}"#,
            r#"{"completions": []}"#,
        ];
        Step::Json(200, cursor[n % 2])
    };
    let script = [FIRST].into_iter().chain((0..50).map(back));
    let fixture = fixture(script.chain([Step::After(Duration::from_secs(3600)), NOTHING]));
    let handle = fixture.register("1");
    fixture.completed(&handle).unwrap();
    let _second = fixture.register("2");
    fixture.wait(1000);
    let bodies = fixture.bodies();
    assert_eq!(bodies.len(), 52);
    assert!(bodies[1..].iter().all(|poll| poll["prev_cursor"] == 5));
    let took = *fixture.server.request_times().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
    let counts = fixture.session.caller().recovered_errors.snapshot();
    assert_eq!(counts.of(RecoveredError::SharedPoll), 1, "counted once");
}

#[test]
fn completed_request_resets_the_backoff_of_the_shared_poll() {
    let nothing = Step::Json(200, r#"{"completions": [], "cursor": 5}"#);
    let quiet = std::iter::repeat_n(nothing.clone(), 5);
    let script = quiet.chain([FIRST, nothing]);
    let fixture = fixture(script.chain([Step::After(Duration::from_secs(3600)), NOTHING]));
    let (first, _second) = (fixture.register("1"), fixture.register("2"));
    fixture.completed(&first).unwrap();
    fixture.wait(10);
    let times = fixture.server.request_times();
    let pauses: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let rounded = pauses.iter().map(|pause| (pause * 1e3).round() as u64);
    let expected = [20, 40, 80, 160, 320, 0, 20];
    assert_eq!(rounded.collect::<Vec<_>>(), expected);
}

#[test]
fn completions_of_unknown_requests_cause_no_busy_loop_of_polls() {
    let texts: Vec<&'static str> = (0..50)
        .map(|n| {
            let text = format!(
                r#"{{"completions": [{{"state": "finished", "request_id": "x{n}"}}], "cursor": {n}}}"#
            );
            &*Box::leak(text.into_boxed_str())
        })
        .collect();
    let script = texts.into_iter().map(|text| Step::Json(200, text));
    let fixture = fixture(script.chain([FIRST]));
    let handle = fixture.register("1");
    fixture.completed(&handle).unwrap();
    let took = *fixture.server.request_times().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
}

#[test]
fn final_acknowledgement_is_retried_a_limited_number_of_times() {
    let failing = [
        Step::Json(200, r#"{"completions": [], "cursor": 1}"#),
        Step::Json(503, "{}"),
        Step::Fails(TransportErrorKind::Broken),
        Step::Json(404, "<html>"),
        Step::Json(200, "<html>"),
        Step::Json(408, "{}"),
    ];
    for step in failing {
        let fixture = fixture(
            [FIRST]
                .into_iter()
                .chain(std::iter::repeat_n(step.clone(), 99)),
        );
        let handle = fixture.register("1");
        fixture.completed(&handle).unwrap();
        drop(handle);
        let Fixture { server, poller, .. } = fixture;
        drop(poller);
        let time: &dyn Clock = &server.clock;
        server.drive(time.sleep(Duration::from_secs(60)));
        let times = server.request_times();
        assert!(times.len() <= 8, "{step:?}: {times:?}");
        assert!(*times.last().unwrap() <= 5.0, "{step:?}: {times:?}");
        assert_eq!(server.tasks(), 0, "{step:?}");
        let is_acknowledged = matches!(step, Step::Json(200, body) if body.starts_with('{'));
        assert_eq!(times.len() == 2, is_acknowledged, "{step:?}: {times:?}");
    }
}

#[test]
fn rate_limited_final_acknowledgement_is_sent_20_times() {
    let refusal = Step::WithHeader(429, "retry-after-ms", "10");
    let script = [FIRST].into_iter().chain(std::iter::repeat_n(refusal, 99));
    let fixture = fixture(script);
    let handle = fixture.register("1");
    fixture.completed(&handle).unwrap();
    drop(handle);
    let Fixture {
        server,
        session,
        poller,
    } = fixture;
    drop(poller);
    let time: &dyn Clock = &server.clock;
    server.drive(time.sleep(Duration::from_secs(60)));
    assert_eq!(server.request_times().len(), 1 + 20);
    assert_eq!(server.tasks(), 0);
    let counts = session.caller().recovered_errors.snapshot();
    assert_eq!(counts.of(RecoveredError::Acknowledgement), 1);
}

#[test]
fn request_polls_individually_after_half_the_progress_deadline() {
    let held = |seconds| Step::After(Duration::from_secs(seconds));
    let script = [held(29), NOTHING, held(2), NOTHING, held(3600), NOTHING];
    let fixture = fixture_of(session_with_limits(script, Duration::from_secs(60), None));
    let handle = fixture.register("1");
    assert!(is_released(fixture.completed(&handle)));
    assert_eq!(fixture.server.clock.now().since_origin().as_secs(), 31);
    // No waiter is left, so there is no third poll.
    fixture.wait(1);
    assert_eq!(fixture.server.request_times(), [0.0, 29.0]);
}

#[test]
fn runtime_shutdown_fails_requests_that_wait_in_the_poller() {
    let fixture = fixture([Step::After(Duration::from_secs(3600)), NOTHING]);
    let handle = fixture.register("1");
    fixture.wait(1);
    assert_eq!(fixture.server.tasks(), 1);
    fixture.server.abort_tasks();
    let error = fixture.completed(&handle).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert_eq!(
        fixture.poller.begin().unwrap_err().kind(),
        ErrorKind::Aborted
    );
}

#[test]
fn polling_task_starts_with_the_first_sample_and_ends_after_drop() {
    let fixture = fixture([
        FIRST,
        Step::Json(200, r#"{"completions": [], "cursor": 5}"#),
    ]);
    assert_eq!(fixture.server.tasks(), 0);
    let handle = fixture.register("1");
    fixture.completed(&handle).unwrap();
    drop(handle);
    drop(fixture.poller);
    let time: &dyn Clock = &fixture.server.clock;
    fixture.server.drive(time.sleep(Duration::from_millis(1)));
    assert_eq!(fixture.server.tasks(), 0);
    let last: Value = serde_json::from_str(&fixture.server.bodies(POLL)[1]).unwrap();
    assert_eq!(last, acknowledging_body(5, &["1"]));
}

#[test]
fn dropped_poller_cancels_the_shared_poll_and_acknowledges_results() {
    let fixture = fixture([
        Step::After(Duration::from_secs(3600)),
        Step::Json(200, r#"{"completions": [], "cursor": 0}"#),
    ]);
    let handle = fixture.register("1");
    fixture.wait(1);
    drop(handle);
    let remaining = fixture.register("2");
    drop(fixture.poller);
    // A handle that outlives the poller returns an error.
    let error = fixture.server.drive(remaining.completed()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let time: &dyn Clock = &fixture.server.clock;
    fixture.server.drive(time.sleep(Duration::from_millis(1)));
    let last: Value = serde_json::from_str(&fixture.server.bodies(POLL)[1]).unwrap();
    assert_eq!(last, acknowledging_body(0, &["1"]));
    assert_eq!(fixture.server.tasks(), 0);
}

#[test]
fn idle_poller_sends_no_polls() {
    let fixture = fixture([]);
    drop(fixture.poller.begin().unwrap());
    fixture.wait(1000);
    drop(fixture.poller);
    let time: &dyn Clock = &fixture.server.clock;
    fixture.server.drive(time.sleep(Duration::from_millis(1)));
    assert!(fixture.server.request_times().is_empty());
    assert_eq!(fixture.server.tasks(), 0);
}
