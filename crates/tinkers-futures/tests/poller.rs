//! The session's poll on a clock moved by hand: what it says, how fast, and how it ends.

#[path = "poller/rests.rs"]
mod rests;
mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Scripted, Step, session};
use tinkers_core::{
    Arrival, ClientId, Clock, ErrorKind, ProgressCell, Readmission, RecoveredError, Result,
    SessionContext, Settlement, Timestamp, TransportErrorKind,
};
use tinkers_futures::{CompletionHandle, CompletionNotice, SessionPoller};
use tinkers_wire::PollTarget;

const POLL: &str = "retrieve_futures";
const NOTHING: Step = Step::Json(200, r#"{"completions": [], "cursor": 0}"#);
const FIRST: Step = Step::Json(
    200,
    r#"{"completions": [{"state": "finished", "request_id": "1", "response_payload_uncompressed_size": 70}], "cursor": 5}"#,
);

/// A poller over a script.
struct World {
    server: Arc<Scripted>,
    session: Arc<dyn SessionContext>,
    poller: SessionPoller,
}

fn world(script: impl IntoIterator<Item = Step>) -> World {
    let (session, server) = session(script);
    let target = PollTarget::samples("s:sample:0", 3);
    let session = session as Arc<dyn SessionContext>;
    let poller = SessionPoller::new(Arc::clone(&session), ClientId(0), target);
    World {
        server,
        session,
        poller,
    }
}

impl World {
    fn watch(&self, id: &str) -> CompletionHandle {
        self.watch_with(id, &Arc::new(ProgressCell::new(Timestamp::ORIGIN)))
    }

    fn watch_with(&self, id: &str, progress: &Arc<ProgressCell>) -> CompletionHandle {
        let begun = self.poller.begin().expect("the poller goes on");
        self.poller.watch(begun, id, progress).expect("a new id")
    }

    fn announced(&self, watch: &CompletionHandle) -> Result<CompletionNotice> {
        self.server.drive(watch.announced())
    }

    fn wait(&self, seconds: u64) {
        let time: &dyn Clock = &self.server.clock;
        self.server.drive(time.sleep(Duration::from_secs(seconds)));
    }

    /// What its polls said.
    fn said(&self) -> Vec<Value> {
        let bodies = self.server.bodies(POLL);
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).expect("JSON"))
            .collect()
    }
}

fn body(cursor: i64, retrieved: &[&str]) -> Value {
    json!({
        "target": { "type": "sampling_session", "sampling_session_id": "s:sample:0", "cloned_sampler_id": 3 },
        "prev_cursor": cursor,
        "retrieved_request_ids": retrieved,
    })
}

fn acknowledging(cursor: i64, retrieved: &[&str]) -> Value {
    let mut body = body(cursor, retrieved);
    body["timeout"] = json!(0.0);
    body
}

#[test]
fn it_waits_with_those_who_wait_and_acknowledges_what_it_saw_and_what_was_fetched() {
    let world = world([
        Step::After(Duration::from_secs(30)),
        NOTHING,
        Step::After(Duration::from_secs(10)),
        FIRST,
        Step::Json(200, r#"{"completions": [], "cursor": 5}"#),
    ]);
    let progress = Arc::new(ProgressCell::new(Timestamp::ORIGIN));
    let watch = world.watch_with("1", &progress);
    let announcement = world.announced(&watch).unwrap();
    assert_eq!(announcement.size.map(u64::from), Some(70));
    assert_eq!(
        progress.snapshot().last_news.since_origin(),
        Duration::from_secs(40)
    );
    drop(watch);
    world.wait(100);
    let expected = [body(0, &[]), body(0, &[]), acknowledging(5, &["1"])];
    assert_eq!(world.said(), expected);
    // It waited a second for a poll that would take the acknowledgement along.
    assert_eq!(world.server.asked_at(), [0.0, 30.0, 41.0]);
    let asked = world.server.asked.lock().unwrap();
    let limits: Vec<_> = asked
        .iter()
        .map(|(_, poll)| poll.timeouts.first_byte.as_secs())
        .collect();
    assert_eq!(limits, [45, 45, 5]);
}

#[test]
fn an_answer_that_is_lost_leaves_the_cursor_and_the_acknowledgements_where_they_were() {
    let script = [
        FIRST,
        Step::Fails(TransportErrorKind::Broken),
        Step::Json(503, "{}"),
        Step::After(Duration::from_secs(3600)),
        NOTHING,
    ];
    let world = world(script);
    let first = world.watch("1");
    world.announced(&first).unwrap();
    drop(first);
    let _second = world.watch("2");
    world.wait(100);
    let again = body(5, &["1"]);
    assert_eq!(
        world.said(),
        [body(0, &[]), again.clone(), again.clone(), again]
    );
    assert_eq!(world.server.asked_at(), [0.0, 0.0, 0.5, 1.5]);
}

#[test]
fn a_poll_that_outlasts_our_patience_is_made_anew_at_once() {
    let world = world([
        Step::After(Duration::from_secs(45)),
        Step::Fails(TransportErrorKind::Timeout),
        FIRST,
    ]);
    let watch = world.watch("1");
    world.announced(&watch).unwrap();
    assert_eq!(world.server.asked_at(), [0.0, 45.0]);
}

#[test]
fn refusals_close_the_lane_and_answers_that_say_nothing_slow_it_down() {
    let refusal = Step::WithHeader(429, "retry-after-ms", "1500");
    let refused = world([refusal, FIRST]);
    let watch = refused.watch("1");
    refused.announced(&watch).unwrap();
    assert_eq!(refused.server.asked_at(), [0.0, 1.5]);
    let kept = Readmission::AfterRefusal(Arrival(1));
    let places = refused.server.places.lock().unwrap();
    assert_eq!(*places, [Readmission::New, kept], "it keeps its place");
    let settled = refused.server.settled.lock().unwrap();
    assert!(matches!(settled[0], Settlement::Refused { hint: Some(_) }));

    let quiet = world(std::iter::repeat_n(NOTHING, 50).chain([FIRST]));
    let watch = quiet.watch("1");
    quiet.announced(&watch).unwrap();
    let took = *quiet.server.asked_at().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
}

/// Where the poll leaves its waiters to polls of their own.
fn is_left_alone(announcement: Result<CompletionNotice>) -> bool {
    announcement.is_ok_and(|announcement| announcement.size.is_none())
}

#[test]
fn a_doubtful_answer_is_polled_again_and_the_poll_goes_on() {
    let page = "<html>welcome</html>";
    let doubtful = [
        200, 302, 401, 403, 404, 405, 409, 410, 413, 418, 421, 422, 431, 501,
    ]
    .map(|status| Step::Json(status, page))
    .into_iter();
    let doubtful = doubtful.chain(
        [
            TransportErrorKind::Tls,
            TransportErrorKind::Decode,
            TransportErrorKind::Redirect,
            TransportErrorKind::TooLarge,
        ]
        .map(Step::Fails),
    );
    let reason = r#"{"detail": "starting"}"#;
    let doubtful = doubtful.chain([400, 401, 404, 500].map(|status| Step::Json(status, reason)));
    for step in doubtful {
        let world = world([step.clone(), FIRST]);
        let watch = world.watch("1");
        let announcement = world.announced(&watch).unwrap();
        assert_eq!(announcement.size.map(u64::from), Some(70), "{step:?}");
        assert_eq!(world.server.asked_at(), [0.0, 0.5], "{step:?}");
    }
}

#[test]
fn each_kind_of_doubt_has_its_budget() {
    let reason = r#"{"detail": "no such session"}"#;
    let few = &[0.0, 0.5, 1.5, 3.5][..];
    let some = &[0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5][..];
    for (step, asked_at) in [
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
        let world = world(std::iter::repeat_n(step.clone(), 9));
        let watch = world.watch("1");
        assert!(is_left_alone(world.announced(&watch)), "{step:?}");
        assert_eq!(world.server.asked_at(), asked_at, "{step:?}");
    }
}

#[test]
fn an_answer_that_was_taken_renews_the_doubts() {
    let missing = Step::Json(404, r#"{"detail": "starting"}"#);
    let once = std::iter::repeat_n(missing, 3).chain([NOTHING]);
    let world = world(once.cycle().take(20).chain([FIRST]));
    let watch = world.watch("1");
    assert!(!is_left_alone(world.announced(&watch)));
}

#[test]
fn a_cursor_that_goes_back_is_ignored_and_paced() {
    let back = |n: usize| {
        let cursor = [
            r#"{"completions": [], "cursor": 2}"#,
            r#"{"completions": []}"#,
        ];
        Step::Json(200, cursor[n % 2])
    };
    let script = [FIRST].into_iter().chain((0..50).map(back));
    let world = world(script.chain([Step::After(Duration::from_secs(3600)), NOTHING]));
    let watch = world.watch("1");
    world.announced(&watch).unwrap();
    let _second = world.watch("2");
    world.wait(1000);
    let said = world.said();
    assert_eq!(said.len(), 52);
    assert!(said[1..].iter().all(|poll| poll["prev_cursor"] == 5));
    let took = *world.server.asked_at().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
    let counts = world.session.caller().recovered_errors.snapshot();
    assert_eq!(counts.of(RecoveredError::SharedPoll), 1, "it counts once");
}

#[test]
fn a_completion_for_a_waiter_ends_the_pauses_of_quick_answers() {
    let nothing = Step::Json(200, r#"{"completions": [], "cursor": 5}"#);
    let quiet = std::iter::repeat_n(nothing.clone(), 5);
    let script = quiet.chain([FIRST, nothing]);
    let world = world(script.chain([Step::After(Duration::from_secs(3600)), NOTHING]));
    let (first, _second) = (world.watch("1"), world.watch("2"));
    world.announced(&first).unwrap();
    world.wait(10);
    let asked = world.server.asked_at();
    let pauses: Vec<f64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let rounded = pauses.iter().map(|pause| (pause * 1e3).round() as u64);
    let expected = [20, 40, 80, 160, 320, 0, 20];
    assert_eq!(rounded.collect::<Vec<_>>(), expected);
}

#[test]
fn completions_of_nobody_do_not_make_it_hot() {
    let texts: Vec<&'static str> = (0..50)
        .map(|n| {
            let text = format!(
                r#"{{"completions": [{{"state": "finished", "request_id": "x{n}"}}], "cursor": {n}}}"#
            );
            &*Box::leak(text.into_boxed_str())
        })
        .collect();
    let script = texts.into_iter().map(|text| Step::Json(200, text));
    let world = world(script.chain([FIRST]));
    let watch = world.watch("1");
    world.announced(&watch).unwrap();
    let took = *world.server.asked_at().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
}

#[test]
fn the_last_acknowledgement_is_tried_a_few_times_and_ends() {
    let failing = [
        Step::Json(200, r#"{"completions": [], "cursor": 1}"#),
        Step::Json(503, "{}"),
        Step::Fails(TransportErrorKind::Broken),
        Step::Json(404, "<html>"),
        Step::Json(200, "<html>"),
        Step::Json(408, "{}"),
    ];
    for step in failing {
        let world = world(
            [FIRST]
                .into_iter()
                .chain(std::iter::repeat_n(step.clone(), 99)),
        );
        let watch = world.watch("1");
        world.announced(&watch).unwrap();
        drop(watch);
        let World { server, poller, .. } = world;
        drop(poller);
        let time: &dyn Clock = &server.clock;
        server.drive(time.sleep(Duration::from_secs(60)));
        let asked = server.asked_at();
        assert!(asked.len() <= 8, "{step:?}: {asked:?}");
        assert!(*asked.last().unwrap() <= 5.0, "{step:?}: {asked:?}");
        assert_eq!(server.tasks(), 0, "{step:?}");
        let is_taken = matches!(step, Step::Json(200, body) if body.starts_with('{'));
        assert_eq!(asked.len() == 2, is_taken, "{step:?}: {asked:?}");
    }
}

#[test]
fn a_runtime_that_ends_ends_the_wait() {
    let world = world([Step::After(Duration::from_secs(3600)), NOTHING]);
    let watch = world.watch("1");
    world.wait(1);
    assert_eq!(world.server.tasks(), 1);
    world.server.abort_tasks();
    let error = world.announced(&watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert_eq!(world.poller.begin().unwrap_err().kind(), ErrorKind::Aborted);
}

#[test]
fn the_task_starts_with_the_first_sample_and_ends_with_the_handle_after_a_last_word() {
    let world = world([
        FIRST,
        Step::Json(200, r#"{"completions": [], "cursor": 5}"#),
    ]);
    assert_eq!(world.server.tasks(), 0);
    let watch = world.watch("1");
    world.announced(&watch).unwrap();
    drop(watch);
    drop(world.poller);
    let time: &dyn Clock = &world.server.clock;
    world.server.drive(time.sleep(Duration::from_millis(1)));
    assert_eq!(world.server.tasks(), 0);
    let last: Value = serde_json::from_str(&world.server.bodies(POLL)[1]).unwrap();
    assert_eq!(last, acknowledging(5, &["1"]));
}

#[test]
fn a_handle_that_goes_in_the_middle_of_a_poll_leaves_it_and_tells_what_was_given_up() {
    let world = world([
        Step::After(Duration::from_secs(3600)),
        Step::Json(200, r#"{"completions": [], "cursor": 0}"#),
    ]);
    let watch = world.watch("1");
    world.wait(1);
    drop(watch);
    let left = world.watch("2");
    drop(world.poller);
    // One who still waits, against the rules, is told.
    let error = world.server.drive(left.announced()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let time: &dyn Clock = &world.server.clock;
    world.server.drive(time.sleep(Duration::from_millis(1)));
    let last: Value = serde_json::from_str(&world.server.bodies(POLL)[1]).unwrap();
    assert_eq!(last, acknowledging(0, &["1"]));
    assert_eq!(world.server.tasks(), 0);
}

#[test]
fn an_idle_poller_says_nothing() {
    let world = world([]);
    drop(world.poller.begin().unwrap());
    world.wait(1000);
    drop(world.poller);
    let time: &dyn Clock = &world.server.clock;
    world.server.drive(time.sleep(Duration::from_millis(1)));
    assert!(world.server.asked_at().is_empty());
    assert_eq!(world.server.tasks(), 0);
}
