//! What waits and what is held is bounded, and the bounds never stop what is under way.

mod support;

use serde_json::{Value, json};
use support::{Got, backward, held_model, held_world_with, sample, settle, step, world_with};
use tinkers_local::{EngineError, LocalConfig, Script};

fn assert_busy(refused: &Got) {
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.raw.header("retry-after-ms"), Some("1000"));
    assert_eq!(refused.raw.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_hint_but_takes_the_next_number() {
    let passes = |model: &str| backward(model, 0).to_string().len();
    for by_bytes in [false, true] {
        let mut config = LocalConfig::default();
        if by_bytes {
            // The body in protobuf, which is what is counted, is shorter than JSON; two of them fit and three do not.
            config.max_queued_bytes = passes("") * 2 / 3;
        } else {
            config.max_queued = 2;
        }
        let world = world_with(config, Script::default());
        let model = world.model().await;
        let mut accepted = Vec::new();
        let mut number = 2;
        let refused = loop {
            let got = world.post("forward_backward", backward(&model, number));
            let got = got.await;
            if got.status != 200 {
                break got;
            }
            accepted.push(got.id());
            number += 1;
            assert!(number < 10, "nothing is refused");
        };
        assert_busy(&refused);
        assert!(!accepted.is_empty());
        let next = world.post("forward_backward", backward(&model, 1)).await;
        accepted.push(next.id());
        for id in &accepted {
            assert!(world.result(id).await["metrics"].is_object());
        }
        // There is room again for the one that was refused.
        let again = world.post("forward_backward", backward(&model, number));
        assert!(world.result(&again.await.id()).await["metrics"].is_object());
    }
}

#[tokio::test]
async fn a_repeated_request_finds_its_place_in_a_full_queue() {
    let mut config = LocalConfig::default();
    config.max_queued = 1;
    let world = world_with(config, Script::default());
    let model = world.model().await;
    let first = world.post("optim_step", step(&model, 2)).await.id();
    assert_busy(&world.post("optim_step", step(&model, 3)).await);
    assert_eq!(world.post("optim_step", step(&model, 2)).await.id(), first);
}

#[tokio::test]
async fn samples_under_way_are_bounded() {
    let mut config = LocalConfig::default();
    config.max_queued = 2;
    let (world, held) = held_world_with(config);
    let (_, model) = held_model(&world, &held).await;
    let snapshot = json!({ "model_id": model, "seq_id": 1, "sampling_session_seq_id": 0 });
    let id = world.post("save_weights_for_sampler", snapshot).await.id();
    held.go();
    let made = world.result(&id).await;
    let sampler = made["sampling_session_id"].as_str().unwrap();
    for seq_id in [0, 1] {
        world.post("asample", sample(sampler, seq_id)).await.id();
    }
    assert_busy(&world.post("asample", sample(sampler, 2)).await);
    // A retry of one that was taken is that one.
    world.post("asample", sample(sampler, 1)).await.id();
    held.fail(EngineError::server("no"));
    world.post("asample", sample(sampler, 2)).await.id();
}

/// An unnamed save, and the sampler that it makes.
async fn snapshot(world: &support::World, model: &str, seq_id: u64) -> String {
    let body = json!({ "model_id": model, "seq_id": seq_id, "sampling_session_seq_id": seq_id });
    let id = world.post("save_weights_for_sampler", body).await.id();
    let made = world.result(&id).await;
    made["sampling_session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_model_holds_the_snapshots_that_were_used_last() {
    let mut config = LocalConfig::default();
    config.max_snapshots = 2;
    let world = world_with(config, Script::default());
    let model = world.model().await;
    let first = snapshot(&world, &model, 1).await;
    let second = snapshot(&world, &model, 2).await;
    world.post("asample", sample(&first, 1)).await.ok();
    let third = snapshot(&world, &model, 3).await;
    let refused = world.post("asample", sample(&second, 1)).await;
    assert_eq!(refused.status, 410);
    assert!(
        refused
            .reason()
            .contains("save under a name what is to stay"),
        "{}",
        refused.reason()
    );
    for sampler in [&first, &third] {
        world.post("asample", sample(sampler, 2)).await.ok();
    }
    assert_eq!(world.engine.counts().dropped_snapshots, 1);
}

#[tokio::test]
async fn snapshots_are_dropped_once_with_their_model() {
    let mut config = LocalConfig::default();
    config.session_expiry *= 2;
    let world = world_with(config, Script::default());
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let other = world.model_in(&session, 1).await;
    let gone = snapshot(&world, &model, 1).await;
    let body = json!({ "model_id": other, "seq_id": 1, "sampling_session_seq_id": 7 });
    let kept = world.post("save_weights_for_sampler", body).await.id();
    let kept = world.result(&kept).await["sampling_session_id"].clone();
    let unload = json!({ "model_id": model });
    let unloaded = world.post("unload_model", unload.clone()).await.id();
    world.result(&unloaded).await;
    let refused = world.post("asample", sample(&gone, 1)).await;
    assert_eq!(refused.status, 410);
    assert!(
        refused.reason().contains("was unloaded"),
        "{}",
        refused.reason()
    );
    world
        .post("asample", sample(kept.as_str().unwrap(), 1))
        .await
        .ok();
    assert_eq!(world.engine.counts().dropped_snapshots, 1);
    // Unloading again is the same unloading, also when its result is no longer kept.
    assert_eq!(
        world.post("unload_model", unload.clone()).await.id(),
        unloaded
    );
    let keep = world.client.server().config().keep_fetched;
    world.clock.advance(keep);
    settle().await;
    assert_eq!(world.poll(&unloaded).await.status, 410);
    let again = world.post("unload_model", unload).await.id();
    assert_eq!(world.result(&again).await["model_id"], json!(model));
    assert_eq!(world.engine.counts().unloaded, 1);
    let finish = json!({ "reason": { "type": "success" }, "detail": null });
    let route = format!("sessions/{session}/finish");
    world.post(&route, finish).await.ok();
    assert_eq!(world.engine.counts().dropped_snapshots, 2);
}

#[tokio::test]
async fn a_cancelled_sample_says_why() {
    let (world, held) = held_world_with(LocalConfig::default());
    let (session, _) = held_model(&world, &held).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 3, "base_model": support::BASE });
    world.post("create_sampling_session", sampler).await.ok();
    let sampler = format!("{session}:sample:3");
    let sampled = world.post("asample", sample(&sampler, 0)).await.id();
    let finish = json!({ "reason": { "type": "success" }, "detail": null });
    let route = format!("sessions/{session}/finish");
    world.post(&route, finish).await.ok();
    let told: Value = world.result(&sampled).await;
    assert_eq!(
        told,
        json!({
            "error": format!("session {session} has ended: it was finished; the request was cancelled"),
            "category": "user",
        })
    );
}
