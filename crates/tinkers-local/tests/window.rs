//! The window of a scripted server: what it takes, what it refuses, and that it counts both exactly.

mod support;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{Got, HeldEngine, World, held_world_with, sample, settle, world, world_with};
use tinkers_local::{HintForm, LocalConfig, Script, Window, WindowCounts};

const MS: Duration = Duration::from_millis(1);

fn under(window: Window) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.window = Some(window);
    config
}

struct Sampler {
    world: World,
    held: Arc<HeldEngine>,
    id: String,
    next: std::cell::Cell<u64>,
}

impl Sampler {
    async fn under(window: Window) -> Self {
        let (world, held) = held_world_with(under(window));
        let session = world.session().await;
        let body = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
        let made = world.post("create_sampling_session", body).await.ok();
        let id = made["sampling_session_id"].as_str().unwrap().to_owned();
        Self {
            world,
            held,
            id,
            next: std::cell::Cell::new(0),
        }
    }

    async fn submit(&self) -> Got {
        let number = self.next.replace(self.next.get() + 1);
        self.world.post("asample", sample(&self.id, number)).await
    }

    /// The statuses of so many submissions in a row.
    async fn submit_all(&self, n: usize) -> Vec<u16> {
        let mut seen = Vec::new();
        for _ in 0..n {
            seen.push(self.submit().await.status);
        }
        seen
    }

    async fn finish(&self, n: usize) {
        for _ in 0..n {
            assert_eq!(self.held.go(), "sample");
        }
        settle().await;
    }

    fn counts(&self) -> WindowCounts {
        self.world.client.server().window_counts().unwrap()
    }
}

#[tokio::test]
async fn a_sample_beyond_the_window_is_refused_with_the_hint() {
    let window = Window::fixed(2).with_hint(250 * MS, HintForm::Milliseconds);
    let sampler = Sampler::under(window).await;
    assert_eq!(sampler.submit_all(2).await, [200, 200]);
    let refused = sampler.submit().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.raw.header("retry-after-ms"), Some("250"));
    assert_eq!(refused.raw.header("retry-after"), None);
    assert!(
        refused.reason().contains("in flight"),
        "{}",
        refused.reason()
    );
    sampler.finish(1).await;
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    let counts = sampler.counts();
    assert_eq!((counts.accepted, counts.refused, counts.ended), (3, 2, 1));
    assert_eq!((counts.in_flight, counts.most_in_flight), (2, 2));
    // No time passed, so the second came within the first's hint.
    assert_eq!((counts.refused_within_hint, counts.congestions), (1, 1));
    assert_eq!(counts.events[0].refused, 2);
}

#[tokio::test]
async fn a_repeated_submission_is_neither_counted_again_nor_refused() {
    let sampler = Sampler::under(Window::fixed(1)).await;
    let body = sample(&sampler.id, 0);
    let first = sampler.world.post("asample", body.clone()).await.id();
    assert_eq!(sampler.world.post("asample", body).await.id(), first);
    let counts = sampler.counts();
    assert_eq!((counts.accepted, counts.refused), (1, 0));
}

#[tokio::test]
async fn each_form_of_the_hint_is_where_clients_look_for_it() {
    for (form, header, body) in [
        (
            HintForm::Milliseconds,
            Some(("retry-after-ms", "1500")),
            None,
        ),
        (HintForm::Seconds, Some(("retry-after", "2")), None),
        // The clock stands at the epoch.
        (
            HintForm::Date,
            Some(("retry-after", "Thu, 01 Jan 1970 00:00:02 GMT")),
            None,
        ),
        (HintForm::Body, None, Some(1500)),
        (HintForm::None, None, None),
    ] {
        let sampler = Sampler::under(Window::fixed(0).with_hint(1500 * MS, form)).await;
        let refused = sampler.submit().await;
        assert_eq!(refused.status, 429, "{form:?}");
        for name in ["retry-after-ms", "retry-after"] {
            let expected = header.filter(|(expected, _)| *expected == name);
            assert_eq!(
                refused.raw.header(name),
                expected.map(|(_, value)| value),
                "{form:?}"
            );
        }
        assert_eq!(
            refused.body.get("retry_after_ms").and_then(Value::as_u64),
            body,
            "{form:?}"
        );
    }
}

#[tokio::test]
async fn the_window_follows_its_steps_from_the_first_submission_on() {
    let sampler = Sampler::under(Window::steps([1, 3, 2], 1000 * MS).unwrap()).await;
    let clock = &sampler.world.clock;
    // Time before the first submission does not count.
    clock.advance(5500 * MS);
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    clock.advance(999 * MS);
    assert_eq!(sampler.submit().await.status, 429);
    clock.advance(MS);
    assert_eq!(sampler.submit_all(3).await, [200, 200, 429]);
    // A lower level takes nothing back; it lets nothing in until it has room.
    clock.advance(1000 * MS);
    sampler.finish(1).await;
    assert_eq!(sampler.submit().await.status, 429);
    sampler.finish(1).await;
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    clock.advance(1000 * MS);
    let counts = sampler.counts();
    let levels: Vec<_> = counts
        .levels
        .iter()
        .map(|level| (level.at, level.most))
        .collect();
    assert_eq!(
        levels,
        [
            (Duration::ZERO, 1),
            (1000 * MS, 3),
            (2000 * MS, 2),
            (3000 * MS, 1)
        ]
    );
    assert_eq!(
        (counts.accepted, counts.refused, counts.most_in_flight),
        (4, 5, 3)
    );
}

#[tokio::test]
async fn reopening_is_timed_to_the_first_grant_and_to_full_flow() {
    let window = Window::fixed(10).with_hint(200 * MS, HintForm::Milliseconds);
    let sampler = Sampler::under(window).await;
    let clock = &sampler.world.clock;
    assert_eq!(sampler.submit_all(12).await[9..], [200, 429, 429]);
    clock.advance(150 * MS);
    // Refused within the hint: the event goes on and ends later.
    assert_eq!(sampler.submit().await.status, 429);
    sampler.finish(10).await;
    // Accepted before the hint has run out: no measure of the way back.
    assert_eq!(sampler.submit().await.status, 200);
    clock.advance(203 * MS);
    assert_eq!(sampler.submit().await.status, 200);
    clock.advance(40 * MS);
    assert_eq!(sampler.submit_all(7).await, [200; 7]);
    let counts = sampler.counts();
    assert_eq!((counts.congestions, counts.refused_within_hint), (1, 2));
    let event = &counts.events[0];
    assert_eq!(
        (event.began, event.in_flight, event.refused),
        (Duration::ZERO, 10, 3)
    );
    assert_eq!(event.over, 350 * MS);
    assert_eq!(event.first_grant, Some(3 * MS));
    assert_eq!(event.full_flow, Some(43 * MS));
}

#[tokio::test]
async fn without_room_at_reopening_the_time_starts_when_there_is_room() {
    let window = Window::fixed(1).with_hint(200 * MS, HintForm::Milliseconds);
    let sampler = Sampler::under(window).await;
    let clock = &sampler.world.clock;
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    clock.advance(500 * MS);
    sampler.finish(1).await;
    clock.advance(7 * MS);
    assert_eq!(sampler.submit().await.status, 200);
    assert_eq!(sampler.counts().events[0].first_grant, Some(7 * MS));
    // A refused probe is an event of its own, and the one before it has no measure.
    clock.advance(300 * MS);
    assert_eq!(sampler.submit().await.status, 429);
    clock.advance(300 * MS);
    assert_eq!(sampler.submit().await.status, 429);
    let counts = sampler.counts();
    assert_eq!(counts.congestions, 3);
    assert_eq!(
        (counts.events[1].first_grant, counts.events[1].refused),
        (None, 1)
    );
}

#[tokio::test]
async fn without_a_hint_refusals_close_together_are_one_event() {
    let window = Window::fixed(0).with_hint(200 * MS, HintForm::None);
    let sampler = Sampler::under(window).await;
    for pause in [0, 99, 99, 100] {
        sampler.world.clock.advance(pause * MS);
        sampler.submit().await;
    }
    let counts = sampler.counts();
    let refused: Vec<_> = counts.events.iter().map(|event| event.refused).collect();
    assert_eq!(refused, [3, 1]);
    assert_eq!(counts.refused_within_hint, 0);
    assert_eq!(counts.events[0].over, 198 * MS);
}

#[tokio::test]
async fn the_route_of_counts_exists_only_with_a_window() {
    let path = "/scripted/counts";
    let lost = world().send(Method::GET, path, "", &[]).await;
    assert_eq!(lost.status, 404);

    let sampler = Sampler::under(Window::unbounded()).await;
    let fetch = || sampler.world.send(Method::GET, path, "", &[]);
    assert_eq!(fetch().await.ok()["levels"], json!([]));
    assert_eq!(sampler.submit_all(3).await, [200; 3]);
    sampler.world.clock.advance(1500 * MS);
    sampler.finish(2).await;
    let told = fetch().await.ok();
    for (name, value) in [
        ("accepted", json!(3)),
        ("refused", json!(0)),
        ("ended", json!(2)),
        ("in_flight", json!(1)),
        ("most_in_flight", json!(3)),
        ("last_end_ms", json!(1500.0)),
        ("events", json!([])),
        ("levels", json!([{ "at_ms": 0.0, "window": u32::MAX }])),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    let wrong = sampler.world.send(Method::POST, path, "", &[]).await;
    assert_eq!(
        (wrong.status, wrong.raw.header("allow")),
        (405, Some("GET"))
    );
    let (world, _) = held_world_with(under(Window::fixed(1)).with_api_key("tml-abab"));
    assert_eq!(world.send(Method::GET, path, "", &[]).await.status, 401);
}

#[tokio::test]
async fn samples_end_of_themselves_where_the_script_says_so() {
    let mut script = Script::default();
    script.longest_sample = Some(3);
    let world = world_with(LocalConfig::default(), script);
    let mut body = sample("", 0);
    body["base_model"] = support::BASE.into();
    body.as_object_mut().unwrap().remove("sampling_session_id");
    for (asked, tokens, reason) in [(4, 3, "stop"), (3, 3, "length"), (2, 2, "length")] {
        body["sampling_params"]["max_tokens"] = asked.into();
        let id = world.post("asample", body.clone()).await.id();
        let sequence = &world.result(&id).await["sequences"][0];
        assert_eq!(sequence["tokens"].as_array().unwrap().len(), tokens);
        assert_eq!(sequence["stop_reason"], reason);
    }
}
