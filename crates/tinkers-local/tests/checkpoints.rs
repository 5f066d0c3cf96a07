//! Checkpoints while they are being written and deleted: nothing that a save is writing goes.

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    HeldEngine, World, checkpoints, held_model, held_world_with, is_pending, settle, step,
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

/// A checkpoint `a` that goes after an hour.
async fn saved(world: &World, held: &HeldEngine) -> String {
    let (_, model) = held_model(world, held).await;
    let first = world
        .post("save_weights", save(&model, 1, Some(3600)))
        .await
        .id();
    assert_eq!(held.go(), "save a");
    world.result(&first).await;
    model
}

#[tokio::test]
async fn a_checkpoint_is_not_deleted_while_a_save_writes_it() {
    let (world, held) = held_world_with(long_sessions());
    let model = saved(&world, &held).await;
    let route = format!("training_runs/{model}/checkpoints/weights/a");
    // Two at once: that the first has ended frees nothing.
    let second = world.post("save_weights", save(&model, 2, None)).await.id();
    let third = world.post("save_weights", save(&model, 3, None)).await.id();
    for write in [&second, &third] {
        let refused = world.delete(&route).await;
        assert_eq!(refused.status, 409);
        assert!(
            refused.reason().contains("is being saved"),
            "{}",
            refused.reason()
        );
        assert_eq!(held.go(), "save a");
        world.result(write).await;
    }
    assert!(held.held().is_empty(), "nothing was deleted");
    assert_eq!(checkpoints(&world).await, ["weights/a"]);
    let mut deleted = pin!(world.delete(&route));
    assert!(is_pending(&mut deleted).await);
    // And a save that comes while it is being deleted is not mixed up with what goes.
    assert_eq!(
        world
            .post("save_weights", save(&model, 4, None))
            .await
            .status,
        409
    );
    assert_eq!(held.go(), "delete a");
    assert_eq!(deleted.await.status, 204);
    let again = world.post("save_weights", save(&model, 4, None)).await.id();
    assert_eq!(held.go(), "save a");
    world.result(&again).await;
    assert_eq!(checkpoints(&world).await, ["weights/a"]);
}

#[tokio::test]
async fn a_checkpoint_whose_time_comes_while_a_save_writes_it_stays() {
    let (world, held) = held_world_with(long_sessions());
    let model = saved(&world, &held).await;
    let second = world.post("save_weights", save(&model, 2, None)).await.id();
    world.clock.advance(HOUR);
    settle().await;
    assert_eq!(held.held(), ["save a"], "and no delete");
    assert_eq!(held.go(), "save a");
    world.result(&second).await;
    world.clock.advance(2 * HOUR);
    settle().await;
    assert!(held.held().is_empty());
    assert_eq!(checkpoints(&world).await, ["weights/a"]);
}

#[tokio::test]
async fn a_checkpoint_that_expired_during_a_failed_save_is_deleted() {
    let (world, held) = held_world_with(long_sessions());
    let model = saved(&world, &held).await;
    world.post("save_weights", save(&model, 2, None)).await.id();
    world.clock.advance(HOUR);
    settle().await;
    held.fail(EngineError::server("the disk is full"));
    world.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(held.held(), ["delete a"]);
    assert!(checkpoints(&world).await.is_empty());
}

#[tokio::test]
async fn a_session_that_ends_lets_a_save_that_has_begun_finish() {
    let (world, held) = held_world_with(LocalConfig::default());
    let model = saved(&world, &held).await;
    let write = world.post("save_weights", save(&model, 2, None)).await.id();
    let queued = world.post("save_weights", save(&model, 3, None)).await.id();
    let stepped = world.post("optim_step", step(&model, 4)).await.id();
    world
        .clock
        .advance(world.client.server().config().session_expiry);
    settle().await;
    // The one that waited was given up; the one that runs still stands in the way of a deletion.
    for id in [&queued, &stepped] {
        assert!(world.result(id).await["error"].is_string());
    }
    let route = format!("training_runs/{model}/checkpoints/weights/a");
    assert_eq!(world.delete(&route).await.status, 409);
    assert_eq!(held.go(), "save a");
    assert!(world.result(&write).await["path"].is_string());
    assert_eq!(held.held(), ["unload"]);
    assert_eq!(checkpoints(&world).await, ["weights/a"]);
}
