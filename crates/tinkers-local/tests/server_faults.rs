//! What happens to a whole server: a pause, the end of all sessions, a restart.

mod support;

use std::pin::pin;
use std::time::Duration;

use http::Method;
use serde_json::json;
use support::{
    World, backward, checkpoints, create_model, held_model, held_world, is_pending, sample, settle,
    step, world,
};
use tinkers_core::{HttpRequest, RouteClass, Sent, Transport, TransportErrorKind};
use tinkers_local::{Fault, Rule};
use tinkers_wire::routes;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_pause_lets_work_wait_and_tells_polls_why() {
    let (world, held) = held_world();
    let (_, model) = held_model(&world, &held).await;
    let running = world.post("optim_step", step(&model, 1)).await.id();
    let next = world.post("optim_step", step(&model, 2)).await.id();
    let mut poll = pin!(world.poll(&next));
    assert!(is_pending(&mut poll).await);
    // Set off by a request, which is served.
    let heartbeat = Rule::on(routes::HEALTH);
    world
        .faults
        .add(heartbeat, Fault::pause_capacity(SECOND * 20));
    assert_eq!(world.get("healthz").await.status, 200);
    let paused = json!({
        "type": "try_again",
        "request_id": next,
        "queue_state": "paused_capacity",
        "queue_state_reason": "the server is short of capacity",
    });
    assert_eq!(poll.await.ok(), paused);
    // What runs goes on, and nothing follows it.
    assert_eq!(held.go(), "step 0.1");
    assert!(world.result(&running).await["metrics"].is_object());
    assert_eq!(held.held(), [""; 0]);
    let mut poll = pin!(world.poll(&next));
    assert!(is_pending(&mut poll).await);
    world.clock.advance(SECOND - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(poll.await.ok(), paused);
    // A shorter pause does not shorten it.
    world.client.server().pause_capacity(SECOND);
    world.clock.advance(SECOND * 19 - Duration::from_nanos(1));
    settle().await;
    assert_eq!(held.held(), [""; 0]);
    world.clock.advance(Duration::from_nanos(1));
    settle().await;
    assert_eq!(held.go(), "step 0.1");
    assert!(world.result(&next).await["metrics"].is_object());
}

#[tokio::test]
async fn requests_postponed_by_a_pause_end_with_their_session() {
    let (world, held) = held_world();
    let (session, model) = held_model(&world, &held).await;
    world.client.server().pause_capacity(SECOND * 20);
    let waiting = world.post("optim_step", step(&model, 1)).await.id();
    assert_eq!(held.held(), [""; 0]);
    let finish = format!("sessions/{session}/finish");
    let finish = world.post(
        &finish,
        json!({ "reason": { "type": "success" }, "detail": null }),
    );
    assert_eq!(finish.await.status, 200);
    let error = world.result(&waiting).await;
    assert!(
        error["error"].as_str().unwrap().contains("cancelled"),
        "{error}"
    );
    assert_eq!(held.held(), ["unload"]);
}

#[tokio::test]
async fn all_sessions_end_before_the_request_that_is_struck() {
    let world = world();
    let model = world.model().await;
    let other = world.session().await;
    let heartbeats = Rule::on(routes::SESSION_HEARTBEAT);
    world.faults.add(heartbeats, Fault::expire_sessions());
    let heartbeat = world
        .post("session_heartbeat", json!({ "session_id": other }))
        .await;
    assert_eq!(heartbeat.status, 410);
    assert!(heartbeat.reason().contains("without a heartbeat"));
    let gone = world.post("optim_step", step(&model, 1)).await;
    assert_eq!(gone.status, 410);
    assert!(gone.reason().contains("without a heartbeat"));
    let session = world.session().await;
    world.model_in(&session, 0).await;
}

/// What a request that is cut tells.
async fn cut(world: &World, path: &str) -> (TransportErrorKind, Sent) {
    let request = HttpRequest::new(Method::GET, path, RouteClass::Rest);
    let error = world.client.send(request).await.unwrap_err();
    (error.kind, error.sent)
}

#[tokio::test]
async fn a_restart_keeps_the_checkpoints_and_nothing_else() {
    let (world, held) = held_world();
    let (session, model) = held_model(&world, &held).await;
    let save = json!({ "model_id": model, "path": "kept", "seq_id": 1 });
    let saved = world.post("save_weights", save).await.id();
    assert_eq!(held.go(), "save kept");
    world.result(&saved).await;
    let busy = world
        .post("forward_backward", backward(&model, 2))
        .await
        .id();
    world.post("optim_step", step(&model, 3)).await.id();
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 1, "base_model": support::BASE });
    let sampler = world.post("create_sampling_session", sampler).await.ok();
    let sampler = sampler["sampling_session_id"].as_str().unwrap().to_owned();
    world.post("asample", sample(&sampler, 1)).await.id();
    // One without a session.
    let mut lone = sample(&sampler, 2);
    lone["sampling_session_id"] = json!(null);
    lone["base_model"] = json!(support::BASE);
    world.post("asample", lone).await.id();
    assert_eq!(held.held(), ["pass 1", "sample", "sample"]);
    let body = json!({ "request_id": busy }).to_string();
    let mut poll = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURE, RouteClass::Poll);
    poll.body = body.into();
    let mut poll = pin!(world.client.send(poll));
    assert!(is_pending(&mut poll).await);

    world.faults.add(Rule::on(routes::HEALTH), Fault::restart());
    let broken = (TransportErrorKind::Broken, Sent::MaybeSent);
    assert_eq!(cut(&world, routes::HEALTH).await, broken);
    let error = poll.await.unwrap_err();
    assert_eq!((error.kind, error.sent), broken);
    settle().await;
    // Everything was cancelled, and then the model was let go.
    assert_eq!(held.held(), ["unload"]);
    for (route, body) in [
        ("optim_step", step(&model, 4)),
        ("session_heartbeat", json!({ "session_id": session })),
        ("asample", sample(&sampler, 3)),
        ("retrieve_future", json!({ "request_id": busy })),
        ("retrieve_future", json!({ "request_id": saved })),
    ] {
        let lost = world.post(route, body).await;
        assert_eq!(lost.status, 404, "{route}: {}", lost.body);
    }
    assert_eq!(world.get("sessions").await.ok()["sessions"], json!([]));
    assert_eq!(checkpoints(&world).await, ["weights/kept"]);
    // And it goes on.
    let session = world.session().await;
    let path = format!("tinker://{model}/weights/kept");
    let load = json!({
        "session_id": session, "model_seq_id": 0, "path": path, "optimizer": true,
        "base_model": support::BASE,
    });
    let _ = held.go();
    let loaded = world.post("load_weights", load).await.id();
    settle().await;
    let _ = held.go();
    assert_eq!(world.result(&loaded).await["path"], path);
}

#[tokio::test]
async fn a_running_save_survives_a_restart_and_its_model_does_not() {
    let (world, held) = held_world();
    let (_, model) = held_model(&world, &held).await;
    let save = |name: &str, seq_id| json!({ "model_id": model, "path": name, "seq_id": seq_id });
    world.post("save_weights", save("first", 1)).await.id();
    world.post("save_weights", save("second", 2)).await.id();
    world.client.server().pause_capacity(SECOND * 5);
    world.client.server().restart();
    assert_eq!(held.held(), ["save first"]);
    assert_eq!(held.go(), "save first");
    settle().await;
    assert_eq!(held.held(), ["unload"]);
    assert_eq!(checkpoints(&world).await, ["weights/first"]);
    // Nothing is paused any more.
    let session = world.session().await;
    world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    assert_eq!(held.held(), ["unload", "create"]);
}
