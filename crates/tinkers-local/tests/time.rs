//! What happens as time passes, on a clock moved by hand.

mod support;

use std::pin::pin;
use std::time::Duration;

use http::Method;
use serde_json::json;
use support::{
    backward, create_model, held_world, is_pending, sample, settle, step, world, world_with,
};
use tinkers_core::{HttpRequest, RouteClass, Sent, Timeouts, Transport, TransportErrorKind};
use tinkers_local::{CheckpointRecord, LocalConfig, Script};
use tinkers_wire::LoraConfig;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_poll_is_held_to_its_time_and_not_a_nanosecond_less() {
    let (world, held) = held_world();
    let session = world.session().await;
    let id = world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    let mut poll = pin!(world.poll(&id));
    assert!(is_pending(&mut poll).await);
    let limit = world.client.server().config().long_poll;
    world.clock.advance(limit - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    world.clock.advance(Duration::from_nanos(1));
    let told = poll.await.ok();
    assert_eq!(
        told,
        json!({ "type": "try_again", "request_id": id, "queue_state": "active" })
    );
    // A held poll is answered as soon as there is a result; two may wait for the same.
    let mut first = pin!(world.poll(&id));
    let mut second = pin!(world.poll(&id));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    held.go();
    assert_eq!(first.await.ok()["model_id"], format!("{session}:train:0"));
    assert_eq!(second.await.ok()["model_id"], format!("{session}:train:0"));
}

#[tokio::test]
async fn a_queued_operation_tells_how_many_are_before_it() {
    let (world, held) = held_world();
    let session = world.session().await;
    world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    let model = format!("{session}:train:0");
    world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let last = world.post("optim_step", step(&model, 2)).await.id();
    assert_eq!(held.held(), ["create"]);
    let mut poll = pin!(world.poll(&last));
    assert!(is_pending(&mut poll).await);
    world
        .clock
        .advance(world.client.server().config().long_poll);
    assert_eq!(
        poll.await.ok()["queue_state_reason"],
        "queued behind 2 requests of the same model"
    );
}

#[tokio::test]
async fn a_dropped_poll_leaves_nothing_behind() {
    let (world, held) = held_world();
    let session = world.session().await;
    let id = world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    {
        let mut poll = pin!(world.poll(&id));
        assert!(is_pending(&mut poll).await);
    }
    world
        .clock
        .advance(world.client.server().config().long_poll);
    settle().await;
    held.go();
    assert_eq!(
        world.result(&id).await["model_id"],
        format!("{session}:train:0")
    );
    let polls = world.journal.of(tinkers_wire::routes::RETRIEVE_FUTURE);
    assert_eq!(
        polls.iter().map(|entry| entry.status).collect::<Vec<_>>(),
        [None, Some(200)]
    );
}

#[tokio::test]
async fn the_clients_own_time_limit_ends_a_poll() {
    let (world, _held) = held_world();
    let session = world.session().await;
    let id = world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    let mut request = HttpRequest::new(
        Method::POST,
        tinkers_wire::routes::RETRIEVE_FUTURE,
        RouteClass::Poll,
    );
    request.body = json!({ "request_id": id }).to_string().into();
    request.timeouts = Timeouts::within(5 * SECOND);
    let mut poll = world.client.send(request);
    assert!(is_pending(&mut poll).await);
    world.clock.advance(5 * SECOND);
    let error = poll.await.unwrap_err();
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::MaybeSent)
    );
}

#[tokio::test]
async fn a_session_lives_on_heartbeats_and_ends_without() {
    let (world, held) = held_world();
    let session = world.session().await;
    let create = world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    let model = format!("{session}:train:0");
    held.go();
    world.result(&create).await;
    let snapshot = json!({ "model_id": model, "seq_id": 1, "sampling_session_seq_id": 0 });
    let snapshot = world.post("save_weights_for_sampler", snapshot).await.id();
    held.go();
    let sampler = world.result(&snapshot).await["sampling_session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let beat = || world.post("session_heartbeat", json!({ "session_id": session }));
    let expiry = world.client.server().config().session_expiry;
    for _ in 0..3 {
        world.clock.advance(expiry - SECOND);
        settle().await;
        assert_eq!(beat().await.status, 200);
    }
    let running = world.post("optim_step", step(&model, 2)).await.id();
    let queued = world.post("optim_step", step(&model, 3)).await.id();
    let sampled = world.post("asample", sample(&sampler, 0)).await.id();
    assert_eq!(held.held(), ["step 0.1", "sample"]);
    world.clock.advance(expiry);
    settle().await;
    // The running jobs were cancelled, then the engine was told to forget both.
    assert_eq!(held.held(), ["drop snapshot", "unload"]);
    for (id, expected) in [
        (&running, "cancelled"),
        (&sampled, "cancelled"),
        (&queued, "without a heartbeat"),
    ] {
        let told = world.result(id).await["error"].as_str().unwrap().to_owned();
        assert!(told.contains(expected), "{told}");
    }
    let gone = [
        beat().await,
        world.post("create_model", create_model(&session, 1)).await,
        world.post("optim_step", step(&model, 4)).await,
        world.post("get_info", json!({ "model_id": model })).await,
        world.post("asample", sample(&sampler, 1)).await,
        world.post("create_sampling_session", json!({ "session_id": session, "sampling_session_seq_id": 5, "base_model": support::BASE })).await,
    ];
    for got in gone {
        assert_eq!(got.status, 410, "{}", got.body);
        assert!(
            got.reason().contains("without a heartbeat"),
            "{}",
            got.reason()
        );
    }
    // What it was stays in the listings.
    assert_eq!(
        world.get(&format!("sessions/{session}")).await.ok()["training_run_ids"],
        json!([model])
    );
    assert_eq!(
        world.get("training_runs").await.ok()["cursor"]["total_count"],
        1
    );
}

#[tokio::test]
async fn a_finished_session_takes_nothing_more() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let finish = json!({ "reason": { "type": "success" }, "detail": null });
    let route = format!("sessions/{session}/finish");
    assert_eq!(world.post(&route, finish.clone()).await.status, 200);
    assert_eq!(world.post(&route, finish.clone()).await.status, 200);
    let beat = world
        .post("session_heartbeat", json!({ "session_id": session }))
        .await;
    assert_eq!(beat.status, 410);
    assert!(
        beat.reason().contains("it was finished; create a new one"),
        "{}",
        beat.reason()
    );
    assert_eq!(world.post("optim_step", step(&model, 1)).await.status, 410);
    assert_eq!(world.engine.counts().unloaded, 1);
    assert_eq!(world.post("sessions/nope/finish", finish).await.status, 404);
    assert_eq!(
        world
            .post("session_heartbeat", json!({ "session_id": "nope" }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn results_go_after_their_time_and_sooner_once_fetched() {
    let mut config = LocalConfig::default();
    (config.keep_results, config.keep_fetched) = (100 * SECOND, 10 * SECOND);
    let world = world_with(config, Script::default());
    let model = world.model().await;
    let fetched = world.post("optim_step", step(&model, 1)).await.id();
    let unfetched = world.post("optim_step", step(&model, 2)).await.id();
    world.result(&fetched).await;
    world.clock.advance(10 * SECOND - Duration::from_nanos(1));
    settle().await;
    assert_eq!(world.poll(&fetched).await.status, 200);
    world.clock.advance(Duration::from_nanos(1));
    settle().await;
    let gone = world.poll(&fetched).await;
    assert_eq!(gone.status, 410);
    assert!(
        gone.reason().contains("no longer kept"),
        "{}",
        gone.reason()
    );
    world.clock.advance(90 * SECOND);
    settle().await;
    assert_eq!(world.poll(&unfetched).await.status, 410);
    // An id that was never given out is another thing.
    for never in [
        "",
        "1",
        "req-0-1",
        "req-",
        &format!("{unfetched}0"),
        &unfetched.replace("-3", "-03"),
    ] {
        assert_eq!(world.poll(never).await.status, 404, "{never}");
    }
}

#[tokio::test]
async fn an_expired_checkpoint_is_deleted() {
    let mut config = LocalConfig::default();
    config.session_expiry = Duration::from_secs(1 << 20);
    let world = world_with(config, Script::default());
    let model = world.model().await;
    let save = |seq_id: u64, name: &str, ttl: u64| json!({ "model_id": model, "seq_id": seq_id, "path": name, "ttl_seconds": ttl, "overwrite": true });
    world
        .post("save_weights", save(1, "short", 3600))
        .await
        .id();
    world
        .post("save_weights", save(2, "longer", 3600))
        .await
        .id();
    world
        .post("save_weights", save(3, "longer", 7200))
        .await
        .id();
    let names = async || {
        let list = world.get("checkpoints").await.ok();
        let all = list["checkpoints"].as_array().unwrap().iter();
        all.map(|one| one["checkpoint_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["weights/longer", "weights/short"]);
    world.clock.advance(Duration::from_secs(3600));
    settle().await;
    assert_eq!(names().await, ["weights/longer"]);
    world.clock.advance(Duration::from_secs(3600));
    settle().await;
    assert!(names().await.is_empty());
    assert_eq!(world.engine.counts().deleted, 2);
}

#[tokio::test]
async fn checkpoints_of_an_earlier_run_are_there_after_a_restart() {
    let path = "tinkers://";
    assert!(path.parse::<tinkers_wire::TinkerPath>().is_err());
    let record = |path: &str, saved_at: f64, expires_at| CheckpointRecord {
        path: path.parse().unwrap(),
        base_model: support::BASE.to_owned(),
        base_fingerprint: None,
        lora: LoraConfig::rank(4),
        saved_at,
        expires_at,
        size_bytes: 7,
        user_metadata: None,
        run_metadata: Some([("k".to_owned(), "v".to_owned())].into()),
    };
    let mut script = Script::default();
    script.checkpoints = vec![
        record("tinker://old:train:0/weights/a", 5.0, None),
        record("tinker://old:train:0/sampler_weights/b", 6.0, None),
        record("tinker://old:train:1/weights/c", 1.0, Some(2.0)),
    ];
    let world = world_with(LocalConfig::default(), script);
    world.clock.advance(2 * SECOND);
    settle().await;
    let runs = world.get("training_runs").await.ok();
    assert_eq!(runs["cursor"]["total_count"], 1, "{runs}");
    let run = &runs["training_runs"][0];
    assert_eq!(
        (&run["training_run_id"], &run["lora_rank"]),
        (&json!("old:train:0"), &json!(4))
    );
    assert_eq!(
        run["last_checkpoint"]["time"],
        "1970-01-01T00:00:05.000000Z"
    );
    assert_eq!(run["user_metadata"], json!({ "k": "v" }));
    let session = world.session().await;
    let load = json!({ "session_id": session, "model_seq_id": 0, "path": "tinker://old:train:0/weights/a", "optimizer": true });
    let load = world.post("load_weights", load).await.id();
    let loaded = world.result(&load).await;
    assert_eq!(
        loaded,
        json!({ "path": "tinker://old:train:0/weights/a", "model_id": format!("{session}:train:0") })
    );
    // A sampler's path may come without its kind.
    let mut body = sample("", 0);
    body.as_object_mut().unwrap().remove("sampling_session_id");
    body["model_path"] = "tinker://old:train:0/b".into();
    let id = world.post("asample", body).await.id();
    assert!(world.result(&id).await["sequences"].is_array());
}
