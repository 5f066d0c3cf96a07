//! Deletion, expiry and publication of checkpoints, also while other requests save or change them.

mod support;

use std::pin::pin;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{
    HeldEngine, TestServer, checkpoints, held_model, held_server_with, is_pending, run_until_idle,
    step, test_server,
};
use tinkers_local::{EngineError, LocalConfig};

const HOUR: Duration = Duration::from_secs(3600);

fn long_sessions() -> LocalConfig {
    let mut config = LocalConfig::default();
    config.session_expiry = 1000 * HOUR;
    config
}

fn save(model: &str, seq_id: u64, ttl: Option<u64>) -> Value {
    json!({ "model_id": model, "seq_id": seq_id, "path": "a", "overwrite": true, "ttl_seconds": ttl })
}

/// Creates a model and saves a checkpoint `a` of it, which expires after an hour. Returns the id of the model.
async fn saved(server: &TestServer, held: &HeldEngine) -> String {
    let (_, model) = held_model(server, held).await;
    let first = server
        .submit("save_weights", save(&model, 1, Some(3600)))
        .await;
    assert_eq!(held.run_next(), "save a");
    server.result(&first).await;
    model
}

#[tokio::test]
async fn checkpoint_cannot_be_deleted_during_a_save() {
    let (server, held) = held_server_with(long_sessions());
    let model = saved(&server, &held).await;
    let route = format!("training_runs/{model}/checkpoints/weights/a");
    // The checkpoint cannot be deleted until the last of two saves has ended.
    let second = server.submit("save_weights", save(&model, 2, None)).await;
    let third = server.submit("save_weights", save(&model, 3, None)).await;
    for write in [&second, &third] {
        let refused = server.delete(&route).await;
        assert_eq!(refused.status, 409);
        refused.assert_reason("is being saved");
        assert_eq!(held.run_next(), "save a");
        server.result(write).await;
    }
    assert!(held.held_jobs().is_empty(), "no deletion has started");
    assert_eq!(checkpoints(&server).await, ["weights/a"]);
    let mut deleted = pin!(server.delete(&route));
    assert!(is_pending(&mut deleted).await);
    // A save during the deletion is refused.
    assert_eq!(
        server
            .post("save_weights", save(&model, 4, None))
            .await
            .status,
        409
    );
    assert_eq!(held.run_next(), "delete a");
    assert_eq!(deleted.await.status, 204);
    let again = server.submit("save_weights", save(&model, 4, None)).await;
    assert_eq!(held.run_next(), "save a");
    server.result(&again).await;
    assert_eq!(checkpoints(&server).await, ["weights/a"]);
}

#[tokio::test]
async fn checkpoint_does_not_expire_during_a_save() {
    let (server, held) = held_server_with(long_sessions());
    let model = saved(&server, &held).await;
    let second = server.submit("save_weights", save(&model, 2, None)).await;
    server.clock.advance(HOUR);
    run_until_idle().await;
    assert_eq!(held.held_jobs(), ["save a"], "no deletion has started");
    assert_eq!(held.run_next(), "save a");
    server.result(&second).await;
    server.clock.advance(2 * HOUR);
    run_until_idle().await;
    assert!(held.held_jobs().is_empty());
    assert_eq!(checkpoints(&server).await, ["weights/a"]);
}

#[tokio::test]
async fn checkpoint_expired_during_a_failed_save_is_deleted() {
    let (server, held) = held_server_with(long_sessions());
    let model = saved(&server, &held).await;
    server.submit("save_weights", save(&model, 2, None)).await;
    server.clock.advance(HOUR);
    run_until_idle().await;
    held.fail_next(EngineError::server("the disk is full"));
    server.clock.advance(Duration::from_secs(1));
    run_until_idle().await;
    assert_eq!(held.held_jobs(), ["delete a"]);
    assert!(checkpoints(&server).await.is_empty());
}

#[tokio::test]
async fn running_save_completes_after_its_session_has_ended() {
    let (server, held) = held_server_with(LocalConfig::default());
    let model = saved(&server, &held).await;
    let write = server.submit("save_weights", save(&model, 2, None)).await;
    let queued = server.submit("save_weights", save(&model, 3, None)).await;
    let stepped = server.submit("optim_step", step(&model, 4)).await;
    server.clock.advance(server.config().session_expiry);
    run_until_idle().await;
    // The queued requests fail. The running save still prevents the deletion.
    for id in [&queued, &stepped] {
        assert!(server.result(id).await["error"].is_string());
    }
    let route = format!("training_runs/{model}/checkpoints/weights/a");
    assert_eq!(server.delete(&route).await.status, 409);
    assert_eq!(held.run_next(), "save a");
    assert!(server.result(&write).await["path"].is_string());
    assert_eq!(held.held_jobs(), ["unload"]);
    assert_eq!(checkpoints(&server).await, ["weights/a"]);
}

#[tokio::test]
async fn checkpoint_in_a_request_path_must_have_its_kind() {
    let server = test_server();
    let model = server.create_model().await;
    let save = json!({ "model_id": model, "seq_id": 1, "path": "x" });
    let save = server.submit("save_weights_for_sampler", save).await;
    server.result(&save).await;
    for name in ["x", "other"] {
        let route = format!("training_runs/{model}/checkpoints/{name}");
        let refused = server.delete(&route).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        refused.assert_reason("expected weights/<name> or sampler_weights/<name>");
    }
    assert_eq!(checkpoints(&server).await, ["sampler_weights/x"]);
    let route = format!("training_runs/{model}/checkpoints/sampler_weights%2Fx");
    assert_eq!(server.delete(&route).await.status, 204);
}

#[tokio::test]
async fn changes_during_a_save_apply_to_the_checkpoint_that_it_replaces() {
    let (server, held) = held_server_with(long_sessions());
    let model = saved(&server, &held).await;
    let route = format!("/api/v1/training_runs/{model}/checkpoints/weights/a/publish");
    let again = server.submit("save_weights", save(&model, 2, None)).await;
    assert_eq!(server.send(Method::POST, &route, "", &[]).await.status, 200);
    let twice = server.send(Method::POST, &route, "", &[]).await;
    assert_eq!(twice.status, 409);
    twice.assert_reason("is already public");
    assert_eq!(held.run_next(), "save a");
    server.result(&again).await;
    // The new checkpoint is not published.
    let unpublished = server.send(Method::DELETE, &route, "", &[]).await;
    assert_eq!(unpublished.status, 409);
    unpublished.assert_reason("is not public");
}
