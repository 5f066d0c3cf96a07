//! Numbers that no operation was queued for: refused ones, and ones that never come.

mod support;

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{World, backward, is_pending, settle, step, world, world_with};
use tinkers_local::{Fault, LocalConfig, Rule, Script};

/// A bad request of `model` under a number, as route and body, with the status that it is refused with.
fn refused_requests(model: &str, number: u64) -> Vec<(&'static str, Value, u16)> {
    let pass = |pointer: &str, value: Value| {
        let mut body = backward(model, number);
        *body.pointer_mut(pointer).expect("a field") = value;
        ("forward_backward", body, 422)
    };
    let inputs = "/forward_backward_input/data/0/loss_fn_inputs";
    let save = |name: Value| json!({ "model_id": model, "seq_id": number, "path": name });
    let sampler = |fields: Value| {
        let mut body = json!({ "model_id": model, "seq_id": number });
        let more = fields.as_object().expect("fields").clone();
        body.as_object_mut().expect("an object").extend(more);
        ("save_weights_for_sampler", body, 422)
    };
    let load = |path: &str| json!({ "model_id": model, "seq_id": number, "path": path, "optimizer": false });
    let mut rate = step(model, number);
    rate["adam_params"]["learning_rate"] = json!(-1);
    let mut unread = step(model, number);
    unread["adam_params"] = json!("fast");
    vec![
        pass("/forward_backward_input/loss_fn", json!("no_such_loss")),
        pass("/forward_backward_input/data", json!([])),
        pass("/forward_backward_input/data", json!("none")),
        pass(&format!("{inputs}/weights/data"), json!([1.0])),
        pass(&format!("{inputs}/target_tokens/data"), json!([1, 2, 999])),
        ("optim_step", rate, 422),
        ("optim_step", unread, 422),
        ("save_weights", save(json!("a/b")), 422),
        ("save_weights", save(json!(7)), 422),
        sampler(json!({ "path": "../x" })),
        sampler(json!({ "sampling_session_seq_id": 0, "kind": "inflight" })),
        sampler(json!({ "sampling_session_seq_id": 0, "kind": "other" })),
        ("load_weights", load("tinker://m/weights/none"), 404),
        ("load_weights", load("tinker://m/sampler_weights/x"), 422),
        ("load_weights", load("nowhere"), 422),
    ]
}

/// The next request of the model runs and has a result.
async fn next_one_runs(world: &World, model: &str, number: u64) {
    let id = world.post("optim_step", step(model, number)).await.id();
    let told = world.ended(&id).await;
    assert!(told["metrics"].is_object(), "seq_id {number}: {told}");
}

#[tokio::test]
async fn a_refused_number_passes_when_a_later_one_arrives() {
    let world = world();
    let model = world.model().await;
    let mut number = 1;
    for (route, body, status) in refused_requests(&model, 0) {
        let mut body = body;
        body["seq_id"] = json!(number);
        let got = world.post(route, body.clone()).await;
        assert_eq!(got.status, status, "{route} {body}: {}", got.body);
        next_one_runs(&world, &model, number + 1).await;
        // Something later was accepted, so the refused number is gone.
        let late = world.post("optim_step", step(&model, number)).await;
        assert_eq!(late.status, 409, "{route}");
        number += 2;
    }
}

#[tokio::test]
async fn a_refused_number_may_be_used_again_at_once() {
    let world = world();
    let model = world.model().await;
    for (number, (route, body, _)) in (1..).zip(refused_requests(&model, 0)) {
        let mut body = body;
        body["seq_id"] = json!(number);
        assert!(world.post(route, body).await.status >= 400);
        next_one_runs(&world, &model, number).await;
    }
}

#[tokio::test]
async fn a_chain_of_refused_numbers_passes() {
    let world = world();
    let model = world.model().await;
    let all = refused_requests(&model, 0);
    for (number, (route, body, _)) in (1..).zip(all.clone()) {
        let mut body = body;
        body["seq_id"] = json!(number);
        assert!(world.post(route, body).await.status >= 400);
    }
    next_one_runs(&world, &model, all.len() as u64 + 1).await;
}

#[tokio::test]
async fn requests_accepted_before_a_refusal_are_not_run() {
    let world = world();
    let model = world.model().await;
    let mut bad = backward(&model, 1);
    bad["forward_backward_input"]["loss_fn"] = json!("no_such_loss");
    // Chunks of one pass, the first one last.
    let second = world
        .post("forward_backward", backward(&model, 2))
        .await
        .id();
    assert_eq!(world.post("forward_backward", bad).await.status, 422);
    next_one_runs(&world, &model, 3).await;
    let told = world.ended(&second).await;
    let reason = told["error"].as_str().expect("an error");
    assert!(
        reason.contains("seq_id 1 of") && reason.contains("was refused"),
        "{told}"
    );
    let counts = world.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (0, 1));
}

#[tokio::test]
async fn a_body_that_cannot_be_decoded_gives_up_its_number() {
    let mut config = LocalConfig::default();
    config.max_body = 100_000;
    let world = world_with(config, Script::default());
    let model = world.model().await;
    let pass = |number: u64| {
        let body = backward(&model, number).to_string();
        tinkers_wire::PassRequest::from_json(body.as_bytes()).expect("a pass")
    };
    let protobuf = |number: u64| {
        pass(number)
            .to_protobuf()
            .expect("a protobuf form")
            .to_vec()
    };
    let json = "application/json";
    let proto = "application/x-protobuf";
    let path = |route: &str| format!("/api/v1/{route}");
    // Not JSON: a literal that JSON lacks, and an end that is missing.
    let literal = backward(&model, 1).to_string().replacen("1.0", "NaN", 1);
    let cut = format!("{{\"model_id\": {model:?}, \"seq_id\": 3, \"data\": [1,");
    // Protobuf whose data are cut off.
    let mut short = protobuf(5);
    short.truncate(short.len() - 20);
    let mut long = step(&model, 7);
    long["padding"] = json!("x".repeat(200_000));
    let packed = zstd::encode_all(long.to_string().as_bytes(), 3).expect("packed");
    long["seq_id"] = json!(9);
    for (number, route, body, headers, status) in [
        (
            1,
            "forward_backward",
            literal.into_bytes(),
            vec![("content-type", json)],
            400,
        ),
        (
            3,
            "forward_backward",
            cut.into_bytes(),
            vec![("content-type", json)],
            400,
        ),
        (
            5,
            "forward_backward",
            short,
            vec![("content-type", proto)],
            400,
        ),
        (
            7,
            "optim_step",
            packed,
            vec![("content-encoding", "zstd")],
            413,
        ),
        (9, "optim_step", long.to_string().into_bytes(), vec![], 413),
        (
            11,
            "forward",
            protobuf(11),
            vec![("content-type", proto)],
            415,
        ),
    ] {
        let got = world.send(Method::POST, &path(route), body, &headers).await;
        assert_eq!(got.status, status, "{number}: {}", got.body);
        next_one_runs(&world, &model, number + 1).await;
    }
}

#[tokio::test]
async fn a_request_without_the_key_gives_up_no_number() {
    let config = LocalConfig::default().with_api_key("tml-right");
    let world = world_with(config, Script::default());
    let keyed = |key: &'static str, route: &str, body: Value| {
        let path = format!("/api/v1/{route}");
        let world = &world;
        async move {
            let headers = [("x-api-key", key)];
            let body = body.to_string();
            world.send(Method::POST, &path, body, &headers).await
        }
    };
    let session = keyed("tml-right", "create_session", json!({ "sdk_version": "0" }))
        .await
        .ok();
    let session = session["session_id"].as_str().expect("an id").to_owned();
    let create = support::create_model(&session, 0);
    keyed("tml-right", "create_model", create).await.ok();
    let model = format!("{session}:train:0");
    let refused = keyed("tml-wrong", "optim_step", step(&model, 1)).await;
    assert_eq!(refused.status, 401);
    let id = keyed("tml-right", "optim_step", step(&model, 2)).await.id();
    let first = keyed("tml-right", "optim_step", step(&model, 1)).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let poll = json!({ "request_id": id });
    assert!(keyed("tml-right", "retrieve_future", poll).await.ok()["metrics"].is_object());
}

#[tokio::test]
async fn a_taken_name_is_a_failed_future_and_its_number_is_used() {
    let world = world();
    let model = world.model().await;
    for (route, first) in [("save_weights", 1), ("save_weights_for_sampler", 4)] {
        let save = |number: u64| json!({ "model_id": model, "seq_id": number, "path": "x" });
        let id = world.post(route, save(first)).await.id();
        assert!(world.ended(&id).await["path"].is_string());
        let failed = world.post(route, save(first + 1)).await.id();
        let told = world.ended(&failed).await;
        assert_eq!(told["category"], "user");
        assert!(
            told["error"].as_str().expect("words").contains("/x exists"),
            "{told}"
        );
        // A repeat is the same request, with the same outcome.
        assert_eq!(world.post(route, save(first + 1)).await.id(), failed);
        next_one_runs(&world, &model, first + 2).await;
    }
    assert_eq!(world.engine.counts().saves, 2);
}

/// Whether a poll is not answered even now.
async fn held_on<F: Future>(poll: &mut Pin<&mut F>) -> bool {
    tokio::select! {
        biased;
        _ = poll => false,
        () = settle() => true,
    }
}

#[tokio::test]
async fn requests_waiting_for_a_missing_number_time_out() {
    let world = world();
    let model = world.model().await;
    let bound = world.client.server().config().gap_timeout;
    let first = world
        .post("forward_backward", backward(&model, 3))
        .await
        .id();
    world.clock.advance(bound / 4 * 3);
    let second = world.post("optim_step", step(&model, 4)).await.id();
    let mut poll = pin!(world.poll(&second));
    assert!(is_pending(&mut poll).await);
    world.clock.advance(bound / 4 - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    world.clock.advance(Duration::from_nanos(1));
    let words = |told: Value| told["error"].as_str().expect("an error").to_owned();
    assert!(!held_on(&mut poll).await, "the wait has no end");
    let told = words(world.ended(&second).await);
    assert!(
        told.contains("seq_id 1 of") && told.contains("seq_id 4, which"),
        "{told}"
    );
    assert!(told.contains("60s"), "{told}");
    let told = words(world.ended(&first).await);
    assert!(
        told.contains("seq_id 1 of") && told.contains("seq_id 3, which"),
        "{told}"
    );
    // The missing number has passed, and later requests run.
    assert_eq!(world.post("optim_step", step(&model, 1)).await.status, 409);
    next_one_runs(&world, &model, 5).await;
    let counts = world.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (0, 1));
}

#[tokio::test]
async fn a_number_that_comes_in_time_ends_the_wait_for_it() {
    let world = world();
    let model = world.model().await;
    let bound = world.client.server().config().gap_timeout;
    let almost = bound - Duration::from_nanos(1);
    let third = world.post("optim_step", step(&model, 3)).await.id();
    world.clock.advance(almost);
    world.post("optim_step", step(&model, 1)).await.id();
    // Now number 2 is missing, and has the whole time.
    world.clock.advance(almost);
    settle().await;
    world.post("optim_step", step(&model, 2)).await.id();
    assert!(world.ended(&third).await["metrics"].is_object());
    world.clock.advance(bound * 2);
    settle().await;
    next_one_runs(&world, &model, 4).await;
}

#[tokio::test]
async fn an_attempt_that_met_a_fault_is_no_refusal_and_is_waited_for() {
    let world = world();
    let model = world.model().await;
    let bound = world.client.server().config().gap_timeout;
    let almost = bound - Duration::from_nanos(1);
    let later = world.post("optim_step", step(&model, 2)).await.id();
    for status in [429, 503, 422] {
        world.clock.advance(almost);
        let fault = Fault::status(StatusCode::from_u16(status).expect("a status"), "not now");
        world
            .faults
            .add(Rule::on("/api/v1/optim_step").nth(1), fault);
        assert_eq!(
            world.post("optim_step", step(&model, 1)).await.status,
            status
        );
    }
    world.clock.advance(almost);
    settle().await;
    world.post("optim_step", step(&model, 1)).await.id();
    assert!(world.ended(&later).await["metrics"].is_object());
    assert_eq!(world.engine.counts().steps, 2);
}
