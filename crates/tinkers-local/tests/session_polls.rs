//! `retrieve_futures`: the completions of a sampling session are sent in order, and repeated until they are acknowledged.

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    BASE, HeldEngine, TestServer, held_server, held_server_with, is_pending, run_until_idle,
    sample, test_server_with,
};
use tinkers_local::{EngineError, LocalConfig, Script};

type Edit = fn(&mut Value);

async fn submit(server: &TestServer, sampler: &str, seq_id: u64) -> String {
    server.submit("asample", sample(sampler, seq_id)).await
}

fn body(sampler: &str, client: u64, cursor: i64, retrieved: &[&str]) -> Value {
    json!({
        "target": { "type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": client },
        "prev_cursor": cursor,
        "retrieved_request_ids": retrieved,
    })
}

/// Polls for the completed samples of a client without waiting. Returns them as pairs of state and request id, and the cursor for
/// the next poll.
async fn poll_now(server: &TestServer, mut body: Value) -> (Vec<(String, String)>, i64) {
    body["timeout"] = 0.into();
    poll_session(server, body).await
}

async fn poll_session(server: &TestServer, body: Value) -> (Vec<(String, String)>, i64) {
    completions(&server.call("retrieve_futures", body).await)
}

/// Returns the completed samples in a response as pairs of state and request id, and the cursor for the next poll.
fn completions(response: &Value) -> (Vec<(String, String)>, i64) {
    let all = response["completions"]
        .as_array()
        .expect("completions")
        .iter();
    let text = |one: &Value, field: &str| one[field].as_str().expect(field).to_owned();
    let seen = all.map(|one| (text(one, "state"), text(one, "request_id")));
    (
        seen.collect(),
        response["cursor"].as_i64().expect("a cursor"),
    )
}

fn finished(ids: &[&String]) -> Vec<(String, String)> {
    let one = |id: &&String| ("finished".to_owned(), (*id).clone());
    ids.iter().map(one).collect()
}

/// Starts a server with a sampling session and three samples, whose engine jobs do not run until the test runs them.
async fn three_samples() -> (TestServer, std::sync::Arc<HeldEngine>, String, Vec<String>) {
    let (server, held) = held_server();
    let sampler = server.create_sampler().await;
    let mut ids = Vec::new();
    for seq_id in 0..3 {
        ids.push(submit(&server, &sampler, seq_id).await);
    }
    (server, held, sampler, ids)
}

#[tokio::test]
async fn waiting_session_poll_reports_completed_samples_in_order() {
    let (server, held, sampler, ids) = three_samples().await;
    let mut poll = pin!(poll_session(&server, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    held.run_next();
    let (first, cursor) = poll.await;
    assert_eq!(first, finished(&[&ids[0]]));
    held.fail_next(EngineError::server("no luck"));
    held.run_next();
    let (rest, last) = poll_session(&server, body(&sampler, 0, cursor, &[])).await;
    assert_eq!(rest[0], ("failed".to_owned(), ids[1].clone()));
    assert_eq!(rest[1..], finished(&[&ids[2]]));
    // Without a new completion, the cursor stays the same.
    let empty = poll_now(&server, body(&sampler, 0, last, &[])).await;
    assert_eq!(empty, (Vec::new(), last));
}

#[tokio::test]
async fn session_poll_reports_the_result_size_of_a_completed_sample() {
    let server = test_server_with(LocalConfig::default(), Script::default());
    let sampler = server.create_sampler().await;
    let id = submit(&server, &sampler, 0).await;
    let response = server
        .call("retrieve_futures", body(&sampler, 0, 0, &[]))
        .await;
    let size = &response["completions"][0]["response_payload_uncompressed_size"];
    let headers = [("accept", "application/x-protobuf")];
    let poll = json!({ "request_id": id, "allow_metadata_only": false }).to_string();
    let path = "/api/v1/retrieve_future";
    let fetched = server.send(http::Method::POST, path, poll, &headers).await;
    assert_eq!(size.as_u64(), Some(fetched.raw.body.len() as u64));
}

#[tokio::test]
async fn completed_samples_are_reported_until_they_are_acknowledged() {
    let (server, held, sampler, ids) = three_samples().await;
    held.run_next();
    held.run_next();
    for _ in 0..2 {
        let (again, _) = poll_session(&server, body(&sampler, 0, 0, &[])).await;
        assert_eq!(again, finished(&[&ids[0], &ids[1]]));
    }
    let (_, cursor) = poll_session(&server, body(&sampler, 0, 0, &[])).await;
    poll_now(&server, body(&sampler, 0, cursor, &[])).await;
    // A delayed poll with an older cursor gets only new completions, and acknowledges none.
    held.run_next();
    let (late, _) = poll_now(&server, body(&sampler, 0, 0, &[])).await;
    assert_eq!(late, finished(&[&ids[2]]));
}

#[tokio::test]
async fn session_poll_ends_at_the_earlier_of_client_and_server_timeout() {
    let (server, _held, sampler, _) = three_samples().await;
    assert_eq!(poll_now(&server, body(&sampler, 0, 0, &[])).await.0, []);
    let limit = server.config().long_poll;
    for (timeout, expected) in [
        (Value::Null, limit),
        (json!(2.5), Duration::from_millis(2500)),
        (json!(1e300), limit),
    ] {
        let mut request = body(&sampler, 0, 0, &[]);
        request["timeout"] = timeout;
        let mut poll = pin!(poll_session(&server, request));
        assert!(is_pending(&mut poll).await);
        server.clock.advance(expected - Duration::from_nanos(1));
        assert!(is_pending(&mut poll).await);
        server.clock.advance(Duration::from_nanos(1));
        assert_eq!(poll.await, (Vec::new(), 0));
    }
}

#[tokio::test]
async fn session_poll_reports_only_samples_of_the_polling_client() {
    let (server, held) = held_server();
    let sampler = server.create_sampler().await;
    let first = submit(&server, &sampler, 999_999_999).await;
    let second = submit(&server, &sampler, 7_000_000_000).await;
    let mut other = pin!(poll_session(&server, body(&sampler, 7, 0, &[])));
    assert!(is_pending(&mut other).await);
    held.run_next();
    assert!(is_pending(&mut other).await);
    held.run_next();
    assert_eq!(other.await.0, finished(&[&second]));
    assert_eq!(
        poll_session(&server, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&first])
    );
    assert_eq!(poll_now(&server, body(&sampler, 3, 0, &[])).await.0, []);
}

#[tokio::test]
async fn acknowledging_samples_drops_results_and_cancels_unfinished_ones() {
    let (server, held, sampler, ids) = three_samples().await;
    held.run_next();
    let both = body(&sampler, 0, 0, &[ids[0].as_str(), ids[2].as_str()]);
    assert_eq!(poll_now(&server, both.clone()).await.0, []);
    assert_eq!(server.poll(&ids[0]).await.status, 410);
    run_until_idle().await;
    // The third sample was cancelled, so it has no completion.
    assert_eq!(held.held_jobs(), ["sample"]);
    assert_eq!(server.poll(&ids[2]).await.status, 410);
    // A repeated acknowledgement has no effect.
    assert_eq!(poll_now(&server, both).await.0, []);
    held.run_next();
    assert_eq!(
        poll_session(&server, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&ids[1]])
    );
    assert_eq!(server.poll(&ids[1]).await.status, 200);
    // Fetching a result acknowledges its completion.
    assert_eq!(poll_now(&server, body(&sampler, 0, 0, &[])).await.0, []);
}

#[tokio::test]
async fn number_of_stored_unacknowledged_samples_is_limited() {
    let mut config = LocalConfig::default();
    config.max_queued = 5;
    let (server, held) = held_server_with(config);
    let sampler = server.create_sampler().await;
    let mut ids = Vec::new();
    for seq_id in 0..9 {
        ids.push(submit(&server, &sampler, seq_id).await);
        held.run_next();
    }
    let (completions, _) = poll_session(&server, body(&sampler, 0, 0, &[])).await;
    assert_eq!(completions, finished(&ids[4..].iter().collect::<Vec<_>>()));
}

#[tokio::test]
async fn disconnect_and_server_shutdown_end_waiting_session_polls() {
    let (server, held, sampler, ids) = three_samples().await;
    {
        let mut poll = pin!(poll_session(&server, body(&sampler, 0, 0, &[])));
        assert!(is_pending(&mut poll).await);
    }
    let mut poll = pin!(poll_session(&server, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    server.local().drain();
    assert_eq!(poll.await, (Vec::new(), 0));
    assert_eq!(
        poll_session(&server, body(&sampler, 0, 0, &[])).await,
        (Vec::new(), 0)
    );
    held.run_next();
    assert_eq!(
        poll_session(&server, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&ids[0]])
    );
}

#[tokio::test]
async fn finishing_a_session_ends_waiting_polls_for_its_samples() {
    let (server, _held, sampler, ids) = three_samples().await;
    let mut poll = pin!(poll_session(&server, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    let (session, _) = sampler.split_once(':').expect("a session");
    server.finish(session).await;
    let mut completions = poll.await.0;
    let cursor = 0;
    completions.extend(poll_now(&server, body(&sampler, 0, cursor, &[])).await.0);
    let failed = |id: &String| completions.contains(&("failed".to_owned(), id.clone()));
    assert!(ids.iter().all(failed), "{completions:?}");
}

#[tokio::test]
async fn invalid_session_poll_is_refused_without_effect() {
    let (server, held, sampler, ids) = three_samples().await;
    held.run_next();
    let other = {
        let body = json!({ "base_model": BASE, "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [1] }] },
            "sampling_params": { "max_tokens": 1 } });
        server.submit("asample", body).await
    };
    let unknown = server
        .post("retrieve_futures", body("unknown:sample:0", 0, 0, &[]))
        .await;
    assert_eq!(unknown.status, 404, "{}", unknown.reason());
    let valid = body(&sampler, 0, 0, &[ids[0].as_str()]);
    let edits: [(&str, Edit); 9] = [
        ("target.type", |body| {
            body["target"]["type"] = "training_session".into()
        }),
        ("target.sampling_session_id", |body| {
            body["target"]
                .as_object_mut()
                .expect("an object")
                .remove("sampling_session_id");
        }),
        ("target.cloned_sampler_id", |body| {
            body["target"]["cloned_sampler_id"] = (-1).into()
        }),
        ("target", |body| body["target"] = "sampling_session".into()),
        ("prev_cursor", |body| body["prev_cursor"] = (-1).into()),
        ("prev_cursor", |body| body["prev_cursor"] = 99.into()),
        ("timeout", |body| body["timeout"] = (-1).into()),
        ("timeout", |body| body["timeout"] = "soon".into()),
        ("retrieved_request_ids.0", |body| {
            body["retrieved_request_ids"] = json!(["req-0-1"])
        }),
    ];
    for (field, edit) in edits {
        let mut invalid = valid.clone();
        edit(&mut invalid);
        let response = server.post("retrieve_futures", invalid).await;
        assert_eq!(response.status, 422, "{field}: {}", response.reason());
        assert!(
            response.reason().starts_with(field),
            "{field}: {}",
            response.reason()
        );
    }
    let foreign = server
        .post("retrieve_futures", body(&sampler, 0, 0, &[other.as_str()]))
        .await;
    assert_eq!(foreign.status, 422);
    assert!(
        foreign.reason().starts_with("retrieved_request_ids.0"),
        "{}",
        foreign.reason()
    );
    assert_eq!(server.post("retrieve_futures", json!([])).await.status, 422);
    // The refused polls acknowledged nothing.
    assert_eq!(server.poll(&ids[0]).await.status, 200);
}

#[tokio::test]
async fn client_config_offers_session_polls_unless_disabled() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let server = test_server_with(config, Script::default());
        let config = server
            .call("client/config", json!({ "sdk_version": "0.38.0" }))
            .await;
        assert_eq!(config["sample_use_retrieve_futures"], session_polls);
    }
}
