//! `retrieve_futures`: what of a sampling session has ended, in order, told until it is acknowledged.

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    BASE, HeldEngine, World, held_world, held_world_with, is_pending, sample, settle, world_with,
};
use tinkers_local::{EngineError, LocalConfig, Script};

type Edit = fn(&mut Value);

/// A sampler over the base model.
async fn sampler(world: &World) -> String {
    let session = world.session().await;
    let body = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
    let created = world.post("create_sampling_session", body).await.ok();
    created["sampling_session_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

async fn submit(world: &World, sampler: &str, seq_id: u64) -> String {
    world.post("asample", sample(sampler, seq_id)).await.id()
}

fn body(sampler: &str, client: u64, cursor: i64, retrieved: &[&str]) -> Value {
    json!({
        "target": { "type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": client },
        "prev_cursor": cursor,
        "retrieved_request_ids": retrieved,
    })
}

fn at_once(mut body: Value) -> Value {
    body["timeout"] = 0.into();
    body
}

async fn ask(world: &World, body: Value) -> (Vec<(String, String)>, i64) {
    told(&world.post("retrieve_futures", body).await.ok())
}

/// The states and ids of an answer, and its cursor.
fn told(answer: &Value) -> (Vec<(String, String)>, i64) {
    let all = answer["completions"]
        .as_array()
        .expect("completions")
        .iter();
    let text = |one: &Value, field: &str| one[field].as_str().expect(field).to_owned();
    let seen = all.map(|one| (text(one, "state"), text(one, "request_id")));
    (seen.collect(), answer["cursor"].as_i64().expect("a cursor"))
}

fn finished(ids: &[&String]) -> Vec<(String, String)> {
    let one = |id: &&String| ("finished".to_owned(), (*id).clone());
    ids.iter().map(one).collect()
}

/// A server that holds its jobs, a sampler, and three samples under way.
async fn three() -> (World, std::sync::Arc<HeldEngine>, String, Vec<String>) {
    let (world, held) = held_world();
    let sampler = sampler(&world).await;
    let mut ids = Vec::new();
    for seq_id in 0..3 {
        ids.push(submit(&world, &sampler, seq_id).await);
    }
    (world, held, sampler, ids)
}

#[tokio::test]
async fn a_held_poll_reports_completions_in_order() {
    let (world, held, sampler, ids) = three().await;
    let mut poll = pin!(ask(&world, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    held.go();
    let (first, cursor) = poll.await;
    assert_eq!(first, finished(&[&ids[0]]));
    held.fail(EngineError::server("no luck"));
    held.go();
    let (rest, last) = ask(&world, body(&sampler, 0, cursor, &[])).await;
    assert_eq!(rest[0], ("failed".to_owned(), ids[1].clone()));
    assert_eq!(rest[1..], finished(&[&ids[2]]));
    // Nothing new: the cursor stays.
    let quiet = ask(&world, at_once(body(&sampler, 0, last, &[]))).await;
    assert_eq!(quiet, (Vec::new(), last));
}

#[tokio::test]
async fn a_size_comes_with_what_finished_and_is_that_of_the_result() {
    let world = world_with(LocalConfig::default(), Script::default());
    let sampler = sampler(&world).await;
    let id = submit(&world, &sampler, 0).await;
    let answer = world
        .post("retrieve_futures", body(&sampler, 0, 0, &[]))
        .await
        .ok();
    let size = &answer["completions"][0]["response_payload_uncompressed_size"];
    let headers = [("accept", "application/x-protobuf")];
    let poll = json!({ "request_id": id, "allow_metadata_only": false }).to_string();
    let path = "/api/v1/retrieve_future";
    let fetched = world.send(http::Method::POST, path, poll, &headers).await;
    assert_eq!(size.as_u64(), Some(fetched.raw.body.len() as u64));
}

#[tokio::test]
async fn completions_are_repeated_until_their_cursor_is_acknowledged() {
    let (world, held, sampler, ids) = three().await;
    held.go();
    held.go();
    for _ in 0..2 {
        let (again, _) = ask(&world, body(&sampler, 0, 0, &[])).await;
        assert_eq!(again, finished(&[&ids[0], &ids[1]]));
    }
    let (_, cursor) = ask(&world, body(&sampler, 0, 0, &[])).await;
    ask(&world, at_once(body(&sampler, 0, cursor, &[]))).await;
    // An older poll that comes late finds nothing of it, and takes nothing from what came since.
    held.go();
    let (late, _) = ask(&world, at_once(body(&sampler, 0, 0, &[]))).await;
    assert_eq!(late, finished(&[&ids[2]]));
}

#[tokio::test]
async fn a_poll_ends_at_its_timeout_or_the_servers() {
    let (world, _held, sampler, _) = three().await;
    assert_eq!(ask(&world, at_once(body(&sampler, 0, 0, &[]))).await.0, []);
    let own = world.client.server().config().long_poll;
    for (timeout, expected) in [
        (Value::Null, own),
        (json!(2.5), Duration::from_millis(2500)),
        (json!(1e300), own),
    ] {
        let mut asked = body(&sampler, 0, 0, &[]);
        asked["timeout"] = timeout;
        let mut poll = pin!(ask(&world, asked));
        assert!(is_pending(&mut poll).await);
        world.clock.advance(expected - Duration::from_nanos(1));
        assert!(is_pending(&mut poll).await);
        world.clock.advance(Duration::from_nanos(1));
        assert_eq!(poll.await, (Vec::new(), 0));
    }
}

#[tokio::test]
async fn each_client_of_a_sampling_session_hears_of_its_own_samples() {
    let (world, held) = held_world();
    let sampler = sampler(&world).await;
    let first = submit(&world, &sampler, 999_999_999).await;
    let second = submit(&world, &sampler, 7_000_000_000).await;
    let mut other = pin!(ask(&world, body(&sampler, 7, 0, &[])));
    assert!(is_pending(&mut other).await);
    held.go();
    assert!(is_pending(&mut other).await);
    held.go();
    assert_eq!(other.await.0, finished(&[&second]));
    assert_eq!(
        ask(&world, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&first])
    );
    assert_eq!(ask(&world, at_once(body(&sampler, 3, 0, &[]))).await.0, []);
}

#[tokio::test]
async fn acknowledged_results_are_freed_and_running_samples_stopped() {
    let (world, held, sampler, ids) = three().await;
    held.go();
    let both = body(&sampler, 0, 0, &[ids[0].as_str(), ids[2].as_str()]);
    assert_eq!(ask(&world, at_once(both.clone())).await.0, []);
    assert_eq!(world.poll(&ids[0]).await.status, 410);
    settle().await;
    // The third was cancelled; nobody is told.
    assert_eq!(held.held(), ["sample"]);
    assert_eq!(world.poll(&ids[2]).await.status, 410);
    // To say it twice does no harm.
    assert_eq!(ask(&world, at_once(both)).await.0, []);
    held.go();
    assert_eq!(
        ask(&world, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&ids[1]])
    );
    assert_eq!(world.poll(&ids[1]).await.status, 200);
    // Who has fetched a result need not be told that it is there.
    assert_eq!(ask(&world, at_once(body(&sampler, 0, 0, &[]))).await.0, []);
}

#[tokio::test]
async fn unacknowledged_completions_are_bounded_and_the_newest_stay() {
    let mut config = LocalConfig::default();
    config.max_queued = 5;
    let (world, held) = held_world_with(config);
    let sampler = sampler(&world).await;
    let mut ids = Vec::new();
    for seq_id in 0..9 {
        ids.push(submit(&world, &sampler, seq_id).await);
        held.go();
    }
    let (told, _) = ask(&world, body(&sampler, 0, 0, &[])).await;
    assert_eq!(told, finished(&ids[4..].iter().collect::<Vec<_>>()));
}

#[tokio::test]
async fn a_dropped_poll_and_a_draining_server_leave_no_poll_behind() {
    let (world, held, sampler, ids) = three().await;
    {
        let mut poll = pin!(ask(&world, body(&sampler, 0, 0, &[])));
        assert!(is_pending(&mut poll).await);
    }
    let mut poll = pin!(ask(&world, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    world.client.server().drain();
    assert_eq!(poll.await, (Vec::new(), 0));
    assert_eq!(
        ask(&world, body(&sampler, 0, 0, &[])).await,
        (Vec::new(), 0)
    );
    held.go();
    assert_eq!(
        ask(&world, body(&sampler, 0, 0, &[])).await.0,
        finished(&[&ids[0]])
    );
}

#[tokio::test]
async fn the_end_of_a_session_answers_held_polls() {
    let (world, _held, sampler, ids) = three().await;
    let mut poll = pin!(ask(&world, body(&sampler, 0, 0, &[])));
    assert!(is_pending(&mut poll).await);
    let session = sampler.split(':').next().expect("a session").to_owned();
    let reason = json!({ "reason": { "type": "success" }, "detail": null });
    world
        .post(&format!("sessions/{session}/finish"), reason)
        .await
        .ok();
    let mut told = poll.await.0;
    let cursor = 0;
    told.extend(ask(&world, at_once(body(&sampler, 0, cursor, &[]))).await.0);
    let failed = |id: &String| told.contains(&("failed".to_owned(), id.clone()));
    assert!(ids.iter().all(failed), "{told:?}");
}

#[tokio::test]
async fn invalid_polls_are_refused_by_field_and_change_nothing() {
    let (world, held, sampler, ids) = three().await;
    held.go();
    let other = {
        let body = json!({ "base_model": BASE, "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [1] }] },
            "sampling_params": { "max_tokens": 1 } });
        world.post("asample", body).await.id()
    };
    let unknown = world
        .post("retrieve_futures", body("nobody:sample:0", 0, 0, &[]))
        .await;
    assert_eq!(unknown.status, 404, "{}", unknown.reason());
    let right = body(&sampler, 0, 0, &[ids[0].as_str()]);
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
        let mut wrong = right.clone();
        edit(&mut wrong);
        let got = world.post("retrieve_futures", wrong).await;
        assert_eq!(got.status, 422, "{field}: {}", got.reason());
        assert!(got.reason().starts_with(field), "{field}: {}", got.reason());
    }
    let foreign = world
        .post("retrieve_futures", body(&sampler, 0, 0, &[other.as_str()]))
        .await;
    assert_eq!(foreign.status, 422);
    assert!(
        foreign.reason().starts_with("retrieved_request_ids.0"),
        "{}",
        foreign.reason()
    );
    assert_eq!(world.post("retrieve_futures", json!([])).await.status, 422);
    // The acknowledgement in them was not taken.
    assert_eq!(world.poll(&ids[0]).await.status, 200);
}

#[tokio::test]
async fn session_polls_are_offered_unless_configured_off() {
    for session_polls in [true, false] {
        let mut config = LocalConfig::default();
        config.session_polls = session_polls;
        let world = world_with(config, Script::default());
        let told = world
            .post("client/config", json!({ "sdk_version": "0.38.0" }))
            .await
            .ok();
        assert_eq!(told["sample_use_retrieve_futures"], session_polls);
    }
}
