//! The session's poll on a clock moved by hand: what it says, how fast, and how it ends.

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Scripted, Step, session};
use tinkers_core::{
    ClientId, ErrorKind, Moment, ProgressCell, Result, SessionContext, Settlement, Time,
    TransportErrorKind,
};
use tinkers_futures::{Announcement, SessionPoller, Watch};
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
    poller: SessionPoller,
}

fn world(script: impl IntoIterator<Item = Step>) -> World {
    let (session, server) = session(script);
    let target = PollTarget::samples("s:sample:0", 3);
    let poller = SessionPoller::new(session as Arc<dyn SessionContext>, ClientId(0), target);
    World { server, poller }
}

impl World {
    fn watch(&self, id: &str) -> Watch {
        self.watch_with(id, &Arc::new(ProgressCell::new(Moment::ORIGIN)))
    }

    fn watch_with(&self, id: &str, progress: &Arc<ProgressCell>) -> Watch {
        let begun = self.poller.begin().expect("the poller goes on");
        self.poller.watch(begun, id, progress).expect("a new id")
    }

    fn announced(&self, watch: &Watch) -> Result<Announcement> {
        self.server.drive(watch.announced())
    }

    fn wait(&self, seconds: u64) {
        let time: &dyn Time = &self.server.clock;
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
    let progress = Arc::new(ProgressCell::new(Moment::ORIGIN));
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
    let settled = refused.server.settled.lock().unwrap();
    assert!(matches!(settled[0], Settlement::Refused { hint: Some(_) }));

    let quiet = world(std::iter::repeat_n(NOTHING, 50).chain([FIRST]));
    let watch = quiet.watch("1");
    quiet.announced(&watch).unwrap();
    let took = *quiet.server.asked_at().last().unwrap();
    assert!(took > 80.0, "fifty polls in {took} s");
}

#[test]
fn what_ends_it_reaches_those_who_wait_and_those_who_come() {
    for (script, kind) in [
        (
            Step::Json(404, r#"{"detail": "who?"}"#),
            ErrorKind::NotFound,
        ),
        (Step::Json(410, "{}"), ErrorKind::ResultLost),
        (Step::Json(422, "{}"), ErrorKind::Rejected),
        (Step::Json(401, "{}"), ErrorKind::Authentication),
        (
            Step::Fails(TransportErrorKind::Credential),
            ErrorKind::Authentication,
        ),
        (Step::Panics, ErrorKind::Aborted),
    ] {
        let world = world([script]);
        let (one, two) = (world.watch("1"), world.watch("2"));
        for watch in [&one, &two] {
            let error = world.announced(watch).unwrap_err();
            assert_eq!(
                (error.kind(), error.request_id()),
                (kind, Some(watch.request_id()))
            );
        }
        assert_eq!(world.poller.begin().unwrap_err().kind(), kind);
        assert_eq!(world.server.asked_at().len(), 1);
        drop((one, two));
        drop(world.poller);
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_doubted_three_times() {
    let world = world(std::iter::repeat_n(Step::Json(200, "<html>"), 9));
    let watch = world.watch("1");
    assert_eq!(
        world.announced(&watch).unwrap_err().kind(),
        ErrorKind::Protocol
    );
    assert_eq!(world.server.asked_at(), [0.0, 0.5, 1.5, 3.5]);
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
    let time: &dyn Time = &world.server.clock;
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
    let time: &dyn Time = &world.server.clock;
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
    let time: &dyn Time = &world.server.clock;
    world.server.drive(time.sleep(Duration::from_millis(1)));
    assert!(world.server.asked_at().is_empty());
    assert_eq!(world.server.tasks(), 0);
}
