//! Samples stop when their client cancels them or does not poll for them any more.

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    BASE, HeldEngine, World, backward, held_model, held_world, is_pending, sample, settle,
};

/// A sampler, and its sample number 0, which the engine holds.
async fn held_sample(world: &World, held: &HeldEngine) -> (String, String) {
    let session = world.session().await;
    let body = json!({ "session_id": session, "base_model": BASE });
    let made = world.post("create_sampling_session", body).await.ok();
    let sampler = made["sampling_session_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let id = world.post("asample", sample(&sampler, 0)).await.id();
    assert_eq!(held.held(), ["sample"]);
    (sampler, id)
}

fn words(told: &Value) -> &str {
    told["error"].as_str().expect("an error")
}

#[tokio::test]
async fn a_cancelled_sample_is_stopped_at_once() {
    let (world, held) = held_world();
    let (_, id) = held_sample(&world, &held).await;
    let flags = world.post("client/dynamic_config", json!({})).await.ok();
    assert_eq!(flags["sample_cancel_enabled"], true);
    for _ in 0..2 {
        let cancel = json!({ "request_id": id, "type": "cancel_future" });
        world.post("cancel_future", cancel).await.ok();
        assert!(held.held().is_empty());
    }
    let told = world.ended(&id).await;
    assert!(words(&told).contains("its client cancelled it"), "{told}");
    assert_eq!(told["category"], "user");
}

#[tokio::test]
async fn only_samples_of_this_server_are_cancelled() {
    let (world, held) = held_world();
    let (_, model) = held_model(&world, &held).await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let cancel = async |id: &str| {
        world
            .post("cancel_future", json!({ "request_id": id }))
            .await
    };
    let refused = cancel(&pass).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.reason().starts_with("request_id: "),
        "{}",
        refused.reason()
    );
    assert_eq!(held.held(), ["pass 1"]);
    assert_eq!(cancel("req-0-1").await.status, 404);
}

#[tokio::test]
async fn a_sample_whose_client_has_gone_is_stopped_after_a_while() {
    let (world, held) = held_world();
    let timeout = world.client.server().config().left_timeout;
    let (sampler, id) = held_sample(&world, &held).await;
    let all = || {
        let target = json!({ "type": "sampling_session", "sampling_session_id": sampler });
        world.post("retrieve_futures", json!({ "target": target }))
    };
    {
        let mut poll = pin!(world.poll(&id));
        assert!(is_pending(&mut poll).await);
        let mut both = pin!(all());
        assert!(is_pending(&mut both).await);
    }
    world.clock.advance(timeout - Duration::from_nanos(1));
    settle().await;
    assert_eq!(held.held(), ["sample"]);
    world.clock.advance(Duration::from_nanos(1));
    settle().await;
    assert!(held.held().is_empty());
    let told = world.ended(&id).await;
    assert!(
        words(&told).contains("did not come back within 30s"),
        "{told}"
    );
}

#[tokio::test]
async fn a_client_that_comes_back_finds_its_sample() {
    let (world, held) = held_world();
    let timeout = world.client.server().config().left_timeout;
    let almost = timeout - Duration::from_nanos(1);
    let (sampler, id) = held_sample(&world, &held).await;
    let cut = async || {
        let mut poll = pin!(world.poll(&id));
        assert!(is_pending(&mut poll).await);
    };
    // Short polls that are cut again and again.
    for _ in 0..4 {
        cut().await;
        world.clock.advance(almost);
        settle().await;
    }
    // Then one poll for all, which is held when the time comes.
    let target = json!({ "type": "sampling_session", "sampling_session_id": sampler });
    let mut all = pin!(world.post("retrieve_futures", json!({ "target": target })));
    assert!(is_pending(&mut all).await);
    world.clock.advance(Duration::from_nanos(1));
    settle().await;
    assert_eq!(held.go(), "sample");
    assert_eq!(all.await.ok()["completions"][0]["request_id"], id);
    assert!(world.ended(&id).await["sequences"].is_array());
}

#[tokio::test]
async fn the_end_of_a_session_stops_its_samples() {
    let (world, held) = held_world();
    let (sampler, id) = held_sample(&world, &held).await;
    let (session, _) = sampler.split_once(':').expect("an id");
    let end = format!("sessions/{session}/finish");
    world
        .post(
            &end,
            json!({ "reason": { "type": "success" }, "detail": null }),
        )
        .await
        .ok();
    assert!(!held.held().contains(&"sample".to_owned()));
    let told = world.ended(&id).await;
    assert!(words(&told).contains("it was finished"), "{told}");
}
