//! The in-flight limit of a scripted server: refusals beyond the limit, and their exact counts.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{
    HeldEngine, Response, TestServer, held_server_with, run_until_idle, sample, test_server,
    test_server_with,
};
use tinkers_local::{HintForm, LocalConfig, Script, Window, WindowCounts};

const MS: Duration = Duration::from_millis(1);

fn config_with(window: Window) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.window = Some(window);
    config
}

struct Sampler {
    server: TestServer,
    held: Arc<HeldEngine>,
    id: String,
    next: AtomicU64,
}

impl Sampler {
    async fn new(window: Window) -> Self {
        let (server, held) = held_server_with(config_with(window));
        let id = server.create_sampler().await;
        Self {
            server,
            held,
            id,
            next: AtomicU64::new(0),
        }
    }

    async fn submit(&self) -> Response {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.server.post("asample", sample(&self.id, number)).await
    }

    /// Submits `n` samples one after another and returns the statuses of the responses.
    async fn submit_all(&self, n: usize) -> Vec<u16> {
        let mut seen = Vec::new();
        for _ in 0..n {
            seen.push(self.submit().await.status);
        }
        seen
    }

    async fn finish(&self, n: usize) {
        for _ in 0..n {
            assert_eq!(self.held.run_next(), "sample");
        }
        run_until_idle().await;
    }

    fn counts(&self) -> WindowCounts {
        self.server.local().window_counts().unwrap()
    }
}

#[tokio::test]
async fn sample_beyond_the_in_flight_limit_gets_a_retry_after_hint() {
    let window = Window::fixed(2).with_hint(250 * MS, HintForm::Milliseconds);
    let sampler = Sampler::new(window).await;
    assert_eq!(sampler.submit_all(2).await, [200, 200]);
    let refused = sampler.submit().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.raw.header("retry-after-ms"), Some("250"));
    assert_eq!(refused.raw.header("retry-after"), None);
    refused.assert_reason("in flight");
    sampler.finish(1).await;
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    let counts = sampler.counts();
    assert_eq!((counts.accepted, counts.refused, counts.ended), (3, 2, 1));
    assert_eq!((counts.in_flight, counts.most_in_flight), (2, 2));
    // No time has passed, so the second refusal comes before the hint of the first one expires.
    assert_eq!((counts.refused_within_hint, counts.congestions), (1, 1));
    assert_eq!(counts.events[0].refused, 2);
}

#[tokio::test]
async fn in_flight_limit_counts_a_repeated_sample_request_once() {
    let sampler = Sampler::new(Window::fixed(1)).await;
    let body = sample(&sampler.id, 0);
    let first = sampler.server.submit("asample", body.clone()).await;
    assert_eq!(sampler.server.submit("asample", body).await, first);
    let counts = sampler.counts();
    assert_eq!((counts.accepted, counts.refused), (1, 0));
}

#[tokio::test]
async fn refusal_carries_the_retry_hint_in_the_configured_header_or_field() {
    for (form, header, body) in [
        (
            HintForm::Milliseconds,
            Some(("retry-after-ms", "1500")),
            None,
        ),
        (HintForm::Seconds, Some(("retry-after", "2")), None),
        // The wall clock is at the Unix epoch.
        (
            HintForm::Date,
            Some(("retry-after", "Thu, 01 Jan 1970 00:00:02 GMT")),
            None,
        ),
        (HintForm::Body, None, Some(1500)),
        (HintForm::None, None, None),
    ] {
        let sampler = Sampler::new(Window::fixed(0).with_hint(1500 * MS, form)).await;
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
async fn in_flight_limit_changes_are_timed_from_the_first_sample() {
    let sampler = Sampler::new(Window::steps([1, 3, 2], 1000 * MS).unwrap()).await;
    let clock = &sampler.server.clock;
    // The values of the limit are timed from the first submission.
    clock.advance(5500 * MS);
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    clock.advance(999 * MS);
    assert_eq!(sampler.submit().await.status, 429);
    clock.advance(MS);
    assert_eq!(sampler.submit_all(3).await, [200, 200, 429]);
    // A lower limit keeps accepted samples. New ones are refused until enough samples have ended.
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
async fn congestion_recovery_time_to_first_sample_and_90_percent_load() {
    let window = Window::fixed(10).with_hint(200 * MS, HintForm::Milliseconds);
    let sampler = Sampler::new(window).await;
    let clock = &sampler.server.clock;
    assert_eq!(sampler.submit_all(12).await[9..], [200, 429, 429]);
    clock.advance(150 * MS);
    // A refusal before the hint expires extends the congestion event.
    assert_eq!(sampler.submit().await.status, 429);
    sampler.finish(10).await;
    // A sample that is accepted before the hint expires does not count as the first grant.
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
async fn congestion_recovery_time_begins_when_a_sample_frees_capacity() {
    let window = Window::fixed(1).with_hint(200 * MS, HintForm::Milliseconds);
    let sampler = Sampler::new(window).await;
    let clock = &sampler.server.clock;
    assert_eq!(sampler.submit_all(2).await, [200, 429]);
    clock.advance(500 * MS);
    sampler.finish(1).await;
    clock.advance(7 * MS);
    assert_eq!(sampler.submit().await.status, 200);
    assert_eq!(sampler.counts().events[0].first_grant, Some(7 * MS));
    // A refused submission after the hint starts a new event. The previous event has no first grant.
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
async fn refusals_without_hints_within_100_ms_are_one_congestion_event() {
    let window = Window::fixed(0).with_hint(200 * MS, HintForm::None);
    let sampler = Sampler::new(window).await;
    for pause in [0, 99, 99, 100] {
        sampler.server.clock.advance(pause * MS);
        sampler.submit().await;
    }
    let counts = sampler.counts();
    let refused: Vec<_> = counts.events.iter().map(|event| event.refused).collect();
    assert_eq!(refused, [3, 1]);
    assert_eq!(counts.refused_within_hint, 0);
    assert_eq!(counts.events[0].over, 198 * MS);
}

#[tokio::test]
async fn scripted_counts_route_exists_only_with_an_in_flight_limit() {
    let path = "/scripted/counts";
    let lost = test_server().send(Method::GET, path, "", &[]).await;
    assert_eq!(lost.status, 404);

    let sampler = Sampler::new(Window::unbounded()).await;
    let fetch = || sampler.server.send(Method::GET, path, "", &[]);
    assert_eq!(fetch().await.ok()["levels"], json!([]));
    assert_eq!(sampler.submit_all(3).await, [200; 3]);
    sampler.server.clock.advance(1500 * MS);
    sampler.finish(2).await;
    let result = fetch().await.ok();
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
        assert_eq!(result[name], value, "{name}");
    }
    let wrong = sampler.server.send(Method::POST, path, "", &[]).await;
    assert_eq!(
        (wrong.status, wrong.raw.header("allow")),
        (405, Some("GET"))
    );
    let (server, _) = held_server_with(config_with(Window::fixed(1)).with_api_key("tml-abab"));
    assert_eq!(server.send(Method::GET, path, "", &[]).await.status, 401);
}

#[tokio::test]
async fn scripted_engine_limits_the_length_of_samples() {
    let mut script = Script::default();
    script.longest_sample = Some(3);
    let server = test_server_with(LocalConfig::default(), script);
    let mut body = sample("", 0);
    body["base_model"] = support::BASE.into();
    body.as_object_mut().unwrap().remove("sampling_session_id");
    for (asked, tokens, reason) in [(4, 3, "stop"), (3, 3, "length"), (2, 2, "length")] {
        body["sampling_params"]["max_tokens"] = asked.into();
        let id = server.submit("asample", body.clone()).await;
        let sequence = &server.result(&id).await["sequences"][0];
        assert_eq!(sequence["tokens"].as_array().unwrap().len(), tokens);
        assert_eq!(sequence["stop_reason"], reason);
    }
}
