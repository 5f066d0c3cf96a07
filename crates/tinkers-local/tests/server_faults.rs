//! Faults of the whole server: pauses, expiry of all sessions, restarts.

mod support;

use std::pin::pin;
use std::time::Duration;

use http::Method;
use serde_json::json;
use support::{
    TestServer, backward, checkpoints, create_model, held_model, held_server, is_pending,
    run_until_idle, sample, step, test_server,
};
use tinkers_core::{HttpRequest, RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_local::{Fault, Rule};
use tinkers_wire::routes;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn simulated_capacity_pause_delays_jobs_and_is_reported_to_polls() {
    let (server, held) = held_server();
    let (_, model) = held_model(&server, &held).await;
    let running = server.submit("optim_step", step(&model, 1)).await;
    let next = server.submit("optim_step", step(&model, 2)).await;
    let mut poll = pin!(server.poll(&next));
    assert!(is_pending(&mut poll).await);
    // The request that triggers the pause succeeds.
    let heartbeat = Rule::on(routes::HEALTH);
    server
        .faults
        .add(heartbeat, Fault::pause_capacity(SECOND * 20));
    assert_eq!(server.get("healthz").await.status, 200);
    let paused = json!({
        "type": "try_again",
        "request_id": next,
        "queue_state": "paused_capacity",
        "queue_state_reason": "the server is short of capacity",
    });
    assert_eq!(poll.await.ok(), paused);
    // The running job finishes, but no other job starts.
    assert_eq!(held.run_next(), "step 0.1");
    assert!(server.result(&running).await["metrics"].is_object());
    assert_eq!(held.held_jobs(), [""; 0]);
    let mut poll = pin!(server.poll(&next));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(SECOND - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(Duration::from_nanos(1));
    assert_eq!(poll.await.ok(), paused);
    // A shorter pause does not shorten the current one.
    server.local().pause_capacity(SECOND);
    server.clock.advance(SECOND * 19 - Duration::from_nanos(1));
    run_until_idle().await;
    assert_eq!(held.held_jobs(), [""; 0]);
    server.clock.advance(Duration::from_nanos(1));
    run_until_idle().await;
    assert_eq!(held.run_next(), "step 0.1");
    assert!(server.result(&next).await["metrics"].is_object());
}

#[tokio::test]
async fn requests_delayed_by_a_capacity_pause_fail_if_the_session_ends() {
    let (server, held) = held_server();
    let (session, model) = held_model(&server, &held).await;
    server.local().pause_capacity(SECOND * 20);
    let waiting = server.submit("optim_step", step(&model, 1)).await;
    assert_eq!(held.held_jobs(), [""; 0]);
    server.finish(&session).await;
    let error = server.result(&waiting).await;
    assert!(
        error["error"].as_str().unwrap().contains("cancelled"),
        "{error}"
    );
    assert_eq!(held.held_jobs(), ["unload"]);
}

#[tokio::test]
async fn expire_sessions_fault_applies_before_the_matching_request() {
    let server = test_server();
    let model = server.create_model().await;
    let other = server.create_session().await;
    let heartbeats = Rule::on(routes::SESSION_HEARTBEAT);
    server.faults.add(heartbeats, Fault::expire_sessions());
    let heartbeat = server
        .post("session_heartbeat", json!({ "session_id": other }))
        .await;
    assert_eq!(heartbeat.status, 410);
    assert!(heartbeat.reason().contains("without a heartbeat"));
    let gone = server.post("optim_step", step(&model, 1)).await;
    assert_eq!(gone.status, 410);
    assert!(gone.reason().contains("without a heartbeat"));
    let session = server.create_session().await;
    server.create_model_in(&session, 0).await;
}

/// Sends a request whose connection is cut. Returns the kind of the transport error and whether the request was sent.
async fn transport_error(server: &TestServer, path: &str) -> (TransportErrorKind, Sent) {
    let request = HttpRequest::new(Method::GET, path, RouteClass::Rest);
    let error = server.client.send(request).await.unwrap_err();
    (error.kind, error.sent)
}

#[tokio::test]
async fn server_restart_keeps_only_checkpoints_and_records() {
    let (server, held) = held_server();
    let (session, model) = held_model(&server, &held).await;
    let save = json!({ "model_id": model, "path": "kept", "seq_id": 1 });
    let saved = server.submit("save_weights", save).await;
    assert_eq!(held.run_next(), "save kept");
    server.result(&saved).await;
    let busy = server.submit("forward_backward", backward(&model, 2)).await;
    server.submit("optim_step", step(&model, 3)).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 1, "base_model": support::BASE });
    let sampler = server.call("create_sampling_session", sampler).await;
    let sampler = sampler["sampling_session_id"].as_str().unwrap().to_owned();
    server.submit("asample", sample(&sampler, 1)).await;
    let mut sessionless = sample(&sampler, 2);
    sessionless["sampling_session_id"] = json!(null);
    sessionless["base_model"] = json!(support::BASE);
    server.submit("asample", sessionless).await;
    assert_eq!(held.held_jobs(), ["pass 1", "sample", "sample"]);
    let body = json!({ "request_id": busy }).to_string();
    let mut poll = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURE, RouteClass::Poll);
    poll.body = body.into();
    let mut poll = pin!(server.client.send(poll));
    assert!(is_pending(&mut poll).await);

    server
        .faults
        .add(Rule::on(routes::HEALTH), Fault::restart());
    let broken = (TransportErrorKind::Broken, Sent::MaybeSent);
    assert_eq!(transport_error(&server, routes::HEALTH).await, broken);
    let error = poll.await.unwrap_err();
    assert_eq!((error.kind, error.sent), broken);
    run_until_idle().await;
    // All jobs were cancelled, and then the model was unloaded.
    assert_eq!(held.held_jobs(), ["unload"]);
    for (route, body) in [
        ("optim_step", step(&model, 4)),
        ("session_heartbeat", json!({ "session_id": session })),
        ("asample", sample(&sampler, 3)),
        ("retrieve_future", json!({ "request_id": busy })),
        ("retrieve_future", json!({ "request_id": saved })),
    ] {
        let lost = server.post(route, body).await;
        assert_eq!(lost.status, 404, "{route}: {}", lost.body);
    }
    // The session has ended, but is still listed.
    assert_eq!(
        server.get("sessions").await.ok()["sessions"],
        json!([session])
    );
    assert_eq!(checkpoints(&server).await, ["weights/kept"]);
    // The restarted server accepts new requests.
    let session = server.create_session().await;
    let path = format!("tinker://{model}/weights/kept");
    let load = json!({
        "session_id": session, "model_seq_id": 0, "path": path, "optimizer": true,
        "base_model": support::BASE,
    });
    let _ = held.run_next();
    let loaded = server.submit("load_weights", load).await;
    run_until_idle().await;
    let _ = held.run_next();
    assert_eq!(server.result(&loaded).await["path"], path);
}

#[tokio::test]
async fn running_save_survives_a_server_restart() {
    let (server, held) = held_server();
    let (_, model) = held_model(&server, &held).await;
    let save = |name: &str, seq_id| json!({ "model_id": model, "path": name, "seq_id": seq_id });
    server.submit("save_weights", save("first", 1)).await;
    server.submit("save_weights", save("second", 2)).await;
    server.local().pause_capacity(SECOND * 5);
    server.local().restart();
    assert_eq!(held.held_jobs(), ["save first"]);
    assert_eq!(held.run_next(), "save first");
    run_until_idle().await;
    assert_eq!(held.held_jobs(), ["unload"]);
    assert_eq!(checkpoints(&server).await, ["weights/first"]);
    // The restart ended the pause.
    let session = server.create_session().await;
    server
        .submit("create_model", create_model(&session, 0))
        .await;
    assert_eq!(held.held_jobs(), ["unload", "create"]);
}
