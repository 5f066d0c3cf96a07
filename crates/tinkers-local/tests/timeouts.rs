//! Timeouts of polls, sessions, results and checkpoints, on a manual clock.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::json;
use support::{
    HeldEngine, TestServer, backward, checkpoints, create_model, held_model, held_server,
    is_pending, run_until_idle, sample, step, test_server, test_server_with,
};
use tinkers_core::{HttpRequest, RouteClass, Sent, Timeouts, Transport, TransportErrorKind};
use tinkers_local::{CheckpointRecord, LocalConfig, Script};
use tinkers_wire::LoraConfig;

const SECOND: Duration = Duration::from_secs(1);

/// A server on which a client has asked for the creation of a model, whose engine job does not run until the test runs it.
struct PendingCreation {
    server: TestServer,
    held: Arc<HeldEngine>,
    /// The id of the model.
    model: String,
    /// The request id with which a client polls for the created model.
    request: String,
}

async fn pending_creation() -> PendingCreation {
    let (server, held) = held_server();
    let session = server.create_session().await;
    let creation = create_model(&session, 0);
    let request = server.submit("create_model", creation).await;
    PendingCreation {
        server,
        held,
        model: format!("{session}:train:0"),
        request,
    }
}

#[tokio::test]
async fn poll_waits_for_exactly_its_time_limit() {
    let PendingCreation {
        server,
        held,
        model,
        request,
    } = pending_creation().await;
    let mut poll = pin!(server.poll(&request));
    assert!(is_pending(&mut poll).await);
    let limit = server.config().long_poll;
    server.clock.advance(limit - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(Duration::from_nanos(1));
    let result = poll.await.ok();
    assert_eq!(
        result,
        json!({ "type": "try_again", "request_id": request, "queue_state": "active" })
    );
    // The result completes every held poll for it.
    let mut first = pin!(server.poll(&request));
    let mut second = pin!(server.poll(&request));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    held.run_next();
    assert_eq!(first.await.ok()["model_id"], model);
    assert_eq!(second.await.ok()["model_id"], model);
}

#[tokio::test]
async fn poll_reports_the_queue_position() {
    let PendingCreation {
        server,
        held,
        model,
        ..
    } = pending_creation().await;
    server.submit("forward_backward", backward(&model, 1)).await;
    let last = server.submit("optim_step", step(&model, 2)).await;
    assert_eq!(held.held_jobs(), ["create"]);
    let mut poll = pin!(server.poll(&last));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(server.config().long_poll);
    assert_eq!(
        poll.await.ok()["queue_state_reason"],
        "queued behind 2 requests of the same model"
    );
}

#[tokio::test]
async fn result_of_a_disconnected_poll_is_delivered_to_the_next_poll() {
    let PendingCreation {
        server,
        held,
        model,
        request,
    } = pending_creation().await;
    {
        let mut poll = pin!(server.poll(&request));
        assert!(is_pending(&mut poll).await);
    }
    server.clock.advance(server.config().long_poll);
    run_until_idle().await;
    held.run_next();
    assert_eq!(server.result(&request).await["model_id"], model);
    let polls = server.journal.of(tinkers_wire::routes::RETRIEVE_FUTURE);
    assert_eq!(
        polls.iter().map(|entry| entry.status).collect::<Vec<_>>(),
        [None, Some(200)]
    );
}

#[tokio::test]
async fn client_timeout_ends_a_waiting_poll() {
    let PendingCreation {
        server,
        request: id,
        held: _held,
        ..
    } = pending_creation().await;
    let mut request = HttpRequest::new(
        Method::POST,
        tinkers_wire::routes::RETRIEVE_FUTURE,
        RouteClass::Poll,
    );
    request.body = json!({ "request_id": id }).to_string().into();
    request.timeouts = Timeouts::within(5 * SECOND);
    let mut poll = server.client.send(request);
    assert!(is_pending(&mut poll).await);
    server.clock.advance(5 * SECOND);
    let error = poll.await.unwrap_err();
    assert_eq!(
        (error.kind, error.sent),
        (TransportErrorKind::Timeout, Sent::MaybeSent)
    );
}

#[tokio::test]
async fn session_expires_without_heartbeats() {
    let (server, held) = held_server();
    let (session, model) = held_model(&server, &held).await;
    let snapshot = json!({ "model_id": model, "seq_id": 1, "sampling_session_seq_id": 0 });
    let snapshot = server.submit("save_weights_for_sampler", snapshot).await;
    held.run_next();
    let sampler = server.result(&snapshot).await["sampling_session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let heartbeat = || server.post("session_heartbeat", json!({ "session_id": session }));
    let expiry = server.config().session_expiry;
    for _ in 0..3 {
        server.clock.advance(expiry - SECOND);
        run_until_idle().await;
        assert_eq!(heartbeat().await.status, 200);
    }
    let running = server.submit("optim_step", step(&model, 2)).await;
    let queued = server.submit("optim_step", step(&model, 3)).await;
    let sampled = server.submit("asample", sample(&sampler, 0)).await;
    assert_eq!(held.held_jobs(), ["step 0.1", "sample"]);
    server.clock.advance(expiry);
    run_until_idle().await;
    // The running jobs are cancelled; then the snapshot and the model are released.
    assert_eq!(held.held_jobs(), ["drop snapshot", "unload"]);
    for (id, expected) in [
        (&running, "cancelled"),
        (&sampled, "cancelled"),
        (&queued, "without a heartbeat"),
    ] {
        let error = server.result(id).await["error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(error.contains(expected), "{error}");
    }
    let gone = [
        heartbeat().await,
        server.post("create_model", create_model(&session, 1)).await,
        server.post("optim_step", step(&model, 4)).await,
        server.post("get_info", json!({ "model_id": model })).await,
        server.post("asample", sample(&sampler, 1)).await,
        server.post("create_sampling_session", json!({ "session_id": session, "sampling_session_seq_id": 5, "base_model": support::BASE })).await,
    ];
    for response in gone {
        assert_eq!(response.status, 410, "{}", response.body);
        response.assert_reason("without a heartbeat");
    }
    // The listings keep expired sessions and their runs.
    assert_eq!(
        server.get(&format!("sessions/{session}")).await.ok()["training_run_ids"],
        json!([model])
    );
    assert_eq!(
        server.get("training_runs").await.ok()["cursor"]["total_count"],
        1
    );
}

#[tokio::test]
async fn finished_session_refuses_requests() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let finish = json!({ "reason": { "type": "success" }, "detail": null });
    let route = format!("sessions/{session}/finish");
    assert_eq!(server.post(&route, finish.clone()).await.status, 200);
    assert_eq!(server.post(&route, finish.clone()).await.status, 200);
    let heartbeat = server
        .post("session_heartbeat", json!({ "session_id": session }))
        .await;
    assert_eq!(heartbeat.status, 410);
    heartbeat.assert_reason("it was finished; create a new one");
    assert_eq!(server.post("optim_step", step(&model, 1)).await.status, 410);
    assert_eq!(server.engine.counts().unloaded, 1);
    assert_eq!(
        server.post("sessions/nope/finish", finish).await.status,
        404
    );
    assert_eq!(
        server
            .post("session_heartbeat", json!({ "session_id": "nope" }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn results_expire_sooner_after_they_are_fetched() {
    let mut config = LocalConfig::default();
    (config.keep_results, config.keep_fetched) = (100 * SECOND, 10 * SECOND);
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
    let fetched = server.submit("optim_step", step(&model, 1)).await;
    let unfetched = server.submit("optim_step", step(&model, 2)).await;
    server.result(&fetched).await;
    server.clock.advance(10 * SECOND - Duration::from_nanos(1));
    run_until_idle().await;
    assert_eq!(server.poll(&fetched).await.status, 200);
    server.clock.advance(Duration::from_nanos(1));
    run_until_idle().await;
    let gone = server.poll(&fetched).await;
    assert_eq!(gone.status, 410);
    gone.assert_reason("no longer kept");
    server.clock.advance(90 * SECOND);
    run_until_idle().await;
    assert_eq!(server.poll(&unfetched).await.status, 410);
    // Ids that were never issued are 404, not 410.
    for never in [
        "",
        "1",
        "req-0-1",
        "req-",
        &format!("{unfetched}0"),
        &unfetched.replace("-3", "-03"),
    ] {
        assert_eq!(server.poll(never).await.status, 404, "{never}");
    }
}

#[tokio::test]
async fn expired_checkpoint_is_deleted() {
    let mut config = LocalConfig::default();
    config.session_expiry = Duration::from_secs(1 << 20);
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
    let save = |seq_id: u64, name: &str, ttl: u64| json!({ "model_id": model, "seq_id": seq_id, "path": name, "ttl_seconds": ttl, "overwrite": true });
    server.submit("save_weights", save(1, "short", 3600)).await;
    server.submit("save_weights", save(2, "longer", 3600)).await;
    server.submit("save_weights", save(3, "longer", 7200)).await;
    assert_eq!(
        checkpoints(&server).await,
        ["weights/longer", "weights/short"]
    );
    server.clock.advance(Duration::from_secs(3600));
    run_until_idle().await;
    assert_eq!(checkpoints(&server).await, ["weights/longer"]);
    server.clock.advance(Duration::from_secs(3600));
    run_until_idle().await;
    assert!(checkpoints(&server).await.is_empty());
    assert_eq!(server.engine.counts().deleted, 2);
}

#[tokio::test]
async fn checkpoints_of_the_engine_are_listed_at_start() {
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
        owner: None,
        public: false,
        project_id: None,
    };
    let mut script = Script::default();
    script.checkpoints = vec![
        record("tinker://old:train:0/weights/a", 5.0, None),
        record("tinker://old:train:0/sampler_weights/b", 6.0, None),
        record("tinker://old:train:1/weights/c", 1.0, Some(2.0)),
    ];
    let server = test_server_with(LocalConfig::default(), script);
    server.clock.advance(2 * SECOND);
    run_until_idle().await;
    let runs = server.get("training_runs").await.ok();
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
    let session = server.create_session().await;
    let load = json!({ "session_id": session, "model_seq_id": 0, "path": "tinker://old:train:0/weights/a", "optimizer": true });
    let load = server.submit("load_weights", load).await;
    let loaded = server.result(&load).await;
    assert_eq!(
        loaded,
        json!({ "path": "tinker://old:train:0/weights/a", "model_id": format!("{session}:train:0") })
    );
    // The path of sampler weights may omit `sampler_weights/`.
    let mut body = sample("", 0);
    body.as_object_mut().unwrap().remove("sampling_session_id");
    body["model_path"] = "tinker://old:train:0/b".into();
    let id = server.submit("asample", body).await;
    assert!(server.result(&id).await["sequences"].is_array());
}
