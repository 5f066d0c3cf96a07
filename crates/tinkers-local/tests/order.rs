//! The order of a model's operations, and that a repeated one is applied once.

mod support;

use std::pin::pin;

use serde_json::json;
use support::{backward, create_model, held_world, is_pending, step, world};
use tinkers_local::{EngineError, Fault, Rule};

fn backward_of(model: &str, seq_id: u64, token: u32) -> serde_json::Value {
    let mut body = backward(model, seq_id);
    body["forward_backward_input"]["data"][0]["model_input"]["chunks"][0]["tokens"][0] =
        token.into();
    body
}

#[tokio::test]
async fn requests_that_come_out_of_order_run_in_order_one_at_a_time() {
    let (world, held) = held_world();
    let session = world.session().await;
    let create = world
        .post("create_model", create_model(&session, 0))
        .await
        .ok();
    let model = create["model_id"].as_str().unwrap().to_owned();
    // Accepted before the model is there, in the order in which chunks come: the first one last.
    for seq_id in [3, 2] {
        world
            .post(
                "forward_backward",
                backward_of(&model, seq_id, seq_id as u32),
            )
            .await
            .id();
    }
    let last = world.post("optim_step", step(&model, 4)).await.id();
    assert_eq!(held.held(), ["create"]);
    assert_eq!(held.go(), "create");
    assert!(held.held().is_empty(), "number 1 has not come");
    world
        .post("forward_backward", backward_of(&model, 1, 1))
        .await
        .id();
    let mut ran = Vec::new();
    while let [_] = held.held()[..] {
        ran.push(held.go());
    }
    assert_eq!(ran, ["pass 1", "pass 2", "pass 3", "step 0.1"]);
    assert!(world.result(&last).await["metrics"].is_object());
}

#[tokio::test]
async fn a_poll_names_the_missing_number_that_its_request_waits_for() {
    let world = world();
    let model = world.model().await;
    let waiting = world.post("optim_step", step(&model, 2)).await.id();
    let mut poll = pin!(world.poll(&waiting));
    assert!(is_pending(&mut poll).await);
    world
        .clock
        .advance(world.client.server().config().long_poll);
    let told = poll.await.ok();
    assert_eq!(
        (&told["type"], &told["queue_state"]),
        (&json!("try_again"), &json!("active"))
    );
    let reason = told["queue_state_reason"].as_str().unwrap();
    assert!(reason.contains("waiting for seq_id 1"), "{reason}");
    assert!(reason.contains("fails 60s after the wait"), "{reason}");
    // The missing one comes, and both run.
    world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert!(world.result(&waiting).await["metrics"].is_object());
}

#[tokio::test]
async fn a_repeated_request_is_applied_once_and_gets_the_same_promise() {
    let world = world();
    let model = world.model().await;
    let first = world
        .post("forward_backward", backward(&model, 1))
        .await
        .ok();
    assert_eq!(
        world
            .post("forward_backward", backward(&model, 1))
            .await
            .ok(),
        first
    );
    // The order of fields and what is unknown do not make another request of it.
    let mut same = backward(&model, 1);
    same["later"] = json!({ "field": 1 });
    assert_eq!(world.post("forward_backward", same).await.ok(), first);
    // Nor does its encoding.
    let pass =
        tinkers_wire::PassRequest::from_json(backward(&model, 1).to_string().as_bytes()).unwrap();
    let packed = zstd::encode_all(&pass.to_protobuf().unwrap()[..], 3).unwrap();
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "zstd"),
    ];
    let again = world
        .send(
            http::Method::POST,
            "/api/v1/forward_backward",
            packed,
            &headers,
        )
        .await;
    assert_eq!(again.ok(), first);
    let step = world.post("optim_step", step(&model, 2)).await.ok();
    assert_eq!(
        world
            .post("optim_step", support::step(&model, 2))
            .await
            .ok(),
        step
    );
    let counts = world.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (1, 1));
}

#[tokio::test]
async fn a_number_that_was_used_otherwise_is_a_conflict() {
    let world = world();
    let model = world.model().await;
    world
        .post("forward_backward", backward(&model, 1))
        .await
        .ok();
    for (route, body) in [
        ("forward_backward", backward_of(&model, 1, 9)),
        ("optim_step", step(&model, 1)),
        (
            "save_weights",
            json!({ "model_id": model, "seq_id": 1, "path": "x" }),
        ),
    ] {
        let refused = world.post(route, body).await;
        assert_eq!(refused.status, 409, "{route}");
        assert!(
            refused.reason().contains("seq_id 1 was used"),
            "{}",
            refused.reason()
        );
    }
    assert_eq!(world.engine.counts().backwards, 1);
}

#[tokio::test]
async fn a_number_whose_request_is_forgotten_has_passed() {
    let mut config = tinkers_local::LocalConfig::default();
    config.keep_results = std::time::Duration::from_secs(10);
    let world = support::world_with(config, tinkers_local::Script::default());
    let model = world.model().await;
    let id = world.post("optim_step", step(&model, 1)).await.id();
    world
        .clock
        .advance(world.client.server().config().keep_results);
    support::settle().await;
    assert_eq!(world.poll(&id).await.status, 410);
    let refused = world.post("optim_step", step(&model, 1)).await;
    assert_eq!(refused.status, 409);
    assert!(
        refused
            .reason()
            .contains("seq_id 1 has passed; the next of this model is 2"),
        "{}",
        refused.reason()
    );
    assert_eq!(world.engine.counts().steps, 1);
}

#[tokio::test]
async fn a_refused_request_does_not_take_its_number() {
    let world = world();
    let model = world.model().await;
    let mut bad = backward(&model, 1);
    bad["forward_backward_input"]["data"] = json!([]);
    assert_eq!(world.post("forward_backward", bad).await.status, 422);
    let id = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert_eq!(world.result(&id).await["metrics"]["loss:sum"], 12.0);
}

#[tokio::test]
async fn requests_without_a_number_run_on_arrival() {
    let world = world();
    let model = world.model().await;
    world.post("optim_step", step(&model, 2)).await.id();
    let mut loose = step(&model, 0);
    let first = world.post("optim_step", loose.clone()).await.id();
    loose.as_object_mut().unwrap().remove("seq_id");
    let second = world.post("optim_step", loose).await.id();
    assert_ne!(first, second);
    assert!(world.result(&first).await["metrics"].is_object());
    assert!(world.result(&second).await["metrics"].is_object());
    assert_eq!(world.engine.counts().steps, 2);
}

#[tokio::test]
async fn a_failed_operation_is_reported_and_the_next_one_runs() {
    let (world, held) = held_world();
    let session = world.session().await;
    let create = world
        .post("create_model", create_model(&session, 0))
        .await
        .ok();
    let model = create["model_id"].as_str().unwrap().to_owned();
    held.go();
    let failing = world.post("optim_step", step(&model, 1)).await.id();
    let next = world.post("optim_step", step(&model, 2)).await.id();
    held.fail(EngineError::user("beta1 is odd"));
    assert_eq!(
        world.result(&failing).await,
        json!({ "error": "beta1 is odd", "category": "user" })
    );
    held.go();
    assert!(world.result(&next).await["metrics"].is_object());
}

#[tokio::test]
async fn a_model_that_cannot_be_created_takes_its_queue_along() {
    let (world, held) = held_world();
    let session = world.session().await;
    let create = world
        .post("create_model", create_model(&session, 0))
        .await
        .ok();
    let model = create["model_id"].as_str().unwrap().to_owned();
    let queued = world.post("optim_step", step(&model, 1)).await.id();
    held.fail(EngineError::server("no memory left"));
    let told = world.result(create["request_id"].as_str().unwrap()).await;
    assert_eq!(
        told,
        json!({ "error": "no memory left", "category": "server" })
    );
    let told = world.result(&queued).await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        told.contains("could not be created: no memory left"),
        "{told}"
    );
    let refused = world.post("optim_step", step(&model, 2)).await;
    assert_eq!(refused.status, 410);
    assert!(held.held().is_empty());
}

#[tokio::test]
async fn a_request_delivered_twice_is_applied_once() {
    let world = world();
    let model = world.model().await;
    world
        .faults
        .add(Rule::on("/api/v1/optim_step"), Fault::duplicate());
    let id = world.post("optim_step", step(&model, 1)).await.id();
    assert!(world.result(&id).await["metrics"].is_object());
    assert_eq!(world.engine.counts().steps, 1);
}

#[tokio::test]
async fn ten_thousand_queued_requests_do_not_grow_the_stack() {
    let world = world();
    let model = world.model().await;
    for seq_id in (2..=10_000).rev() {
        world.post("optim_step", step(&model, seq_id)).await.id();
    }
    world.post("optim_step", step(&model, 1)).await.id();
    assert_eq!(world.engine.counts().steps, 10_000);
}

#[tokio::test]
async fn creations_are_repeatable() {
    let world = world();
    let session = world.session().await;
    let first = world
        .post("create_model", create_model(&session, 0))
        .await
        .ok();
    assert_eq!(
        world
            .post("create_model", create_model(&session, 0))
            .await
            .ok(),
        first
    );
    let mut other = create_model(&session, 0);
    other["lora_config"]["rank"] = 4.into();
    assert_eq!(world.post("create_model", other).await.status, 409);
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
    let first = world
        .post("create_sampling_session", sampler.clone())
        .await
        .ok();
    assert_eq!(first["sampling_session_id"], format!("{session}:sample:0"));
    assert_eq!(
        world.post("create_sampling_session", sampler).await.ok(),
        first
    );
    let sampler = first["sampling_session_id"].as_str().unwrap();
    let sample = world
        .post("asample", support::sample(sampler, 7))
        .await
        .ok();
    assert_eq!(
        world
            .post("asample", support::sample(sampler, 7))
            .await
            .ok(),
        sample
    );
    let mut other = support::sample(sampler, 7);
    other["num_samples"] = 3.into();
    assert_eq!(world.post("asample", other).await.status, 409);
    // An unnamed save takes its number from the same row, and a retry may bring another number along.
    let model = format!("{session}:train:0");
    let save = |seq_id: u64, number: u64| json!({ "model_id": model, "seq_id": seq_id, "sampling_session_seq_id": number });
    assert_eq!(
        world
            .post("save_weights_for_sampler", save(1, 0))
            .await
            .status,
        409
    );
    let saved = world
        .post("save_weights_for_sampler", save(1, 1))
        .await
        .ok();
    assert_eq!(
        world
            .post("save_weights_for_sampler", save(1, 2))
            .await
            .ok(),
        saved
    );
    let counts = world.engine.counts();
    assert_eq!(
        (counts.created, counts.samples, counts.snapshots),
        (1, 1, 1)
    );
}
