//! The order of a model's operations, and deduplication of repeated requests.

mod support;

use std::pin::pin;

use serde_json::json;
use support::{backward, create_model, held_server, is_pending, step, test_server};
use tinkers_local::{EngineError, Fault, Rule};

fn backward_of(model: &str, seq_id: u64, token: u32) -> serde_json::Value {
    let mut body = backward(model, seq_id);
    body["forward_backward_input"]["data"][0]["model_input"]["chunks"][0]["tokens"][0] =
        token.into();
    body
}

#[tokio::test]
async fn requests_of_a_model_run_in_order_one_at_a_time() {
    let (server, held) = held_server();
    let session = server.create_session().await;
    let create = server.call("create_model", create_model(&session, 0)).await;
    let model = create["model_id"].as_str().unwrap().to_owned();
    // The requests are accepted before the model exists, in reverse order.
    for seq_id in [3, 2] {
        server
            .submit(
                "forward_backward",
                backward_of(&model, seq_id, seq_id as u32),
            )
            .await;
    }
    let last = server.submit("optim_step", step(&model, 4)).await;
    assert_eq!(held.held_jobs(), ["create"]);
    assert_eq!(held.run_next(), "create");
    assert!(held.held_jobs().is_empty(), "sequence number 1 is missing");
    server
        .submit("forward_backward", backward_of(&model, 1, 1))
        .await;
    let mut ran = Vec::new();
    while let [_] = held.held_jobs()[..] {
        ran.push(held.run_next());
    }
    assert_eq!(ran, ["pass 1", "pass 2", "pass 3", "step 0.1"]);
    assert!(server.result(&last).await["metrics"].is_object());
}

#[tokio::test]
async fn poll_response_of_a_waiting_request_names_the_missing_number() {
    let server = test_server();
    let model = server.create_model().await;
    let waiting = server.submit("optim_step", step(&model, 2)).await;
    let mut poll = pin!(server.poll(&waiting));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(server.config().long_poll);
    let result = poll.await.ok();
    assert_eq!(
        (&result["type"], &result["queue_state"]),
        (&json!("try_again"), &json!("active"))
    );
    let reason = result["queue_state_reason"].as_str().unwrap();
    assert!(reason.contains("waiting for seq_id 1"), "{reason}");
    assert!(reason.contains("fails 60s after the wait"), "{reason}");
    // The missing request arrives, and then both requests run.
    server.submit("forward_backward", backward(&model, 1)).await;
    assert!(server.result(&waiting).await["metrics"].is_object());
}

#[tokio::test]
async fn repeated_request_is_applied_once_and_gets_the_same_request_id() {
    let server = test_server();
    let model = server.create_model().await;
    let first = server.call("forward_backward", backward(&model, 1)).await;
    assert_eq!(
        server.call("forward_backward", backward(&model, 1)).await,
        first
    );
    // The order of fields and unknown fields make no difference.
    let mut same = backward(&model, 1);
    same["later"] = json!({ "field": 1 });
    assert_eq!(server.call("forward_backward", same).await, first);
    // The encoding makes no difference either.
    let pass =
        tinkers_wire::PassRequest::from_json(backward(&model, 1).to_string().as_bytes()).unwrap();
    let packed = zstd::encode_all(&pass.to_protobuf().unwrap()[..], 3).unwrap();
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "zstd"),
    ];
    let again = server
        .send(
            http::Method::POST,
            "/api/v1/forward_backward",
            packed,
            &headers,
        )
        .await;
    assert_eq!(again.ok(), first);
    let step = server.call("optim_step", step(&model, 2)).await;
    assert_eq!(
        server.call("optim_step", support::step(&model, 2)).await,
        step
    );
    let counts = server.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (1, 1));
}

#[tokio::test]
async fn reusing_the_sequence_number_of_another_request_is_a_conflict() {
    let server = test_server();
    let model = server.create_model().await;
    server.call("forward_backward", backward(&model, 1)).await;
    for (route, body) in [
        ("forward_backward", backward_of(&model, 1, 9)),
        ("optim_step", step(&model, 1)),
        (
            "save_weights",
            json!({ "model_id": model, "seq_id": 1, "path": "x" }),
        ),
    ] {
        let refused = server.post(route, body).await;
        assert_eq!(refused.status, 409, "{route}");
        refused.assert_reason("seq_id 1 was used");
    }
    assert_eq!(server.engine.counts().backwards, 1);
}

#[tokio::test]
async fn reusing_the_sequence_number_of_an_expired_result_is_a_conflict() {
    let mut config = tinkers_local::LocalConfig::default();
    config.keep_results = std::time::Duration::from_secs(10);
    let server = support::test_server_with(config, tinkers_local::Script::default());
    let model = server.create_model().await;
    let id = server.submit("optim_step", step(&model, 1)).await;
    server.clock.advance(server.config().keep_results);
    support::run_until_idle().await;
    assert_eq!(server.poll(&id).await.status, 410);
    let refused = server.post("optim_step", step(&model, 1)).await;
    assert_eq!(refused.status, 409);
    refused.assert_reason("seq_id 1 has passed; the next of this model is 2");
    assert_eq!(server.engine.counts().steps, 1);
}

#[tokio::test]
async fn refused_request_does_not_use_up_its_sequence_number() {
    let server = test_server();
    let model = server.create_model().await;
    let mut bad = backward(&model, 1);
    bad["forward_backward_input"]["data"] = json!([]);
    assert_eq!(server.post("forward_backward", bad).await.status, 422);
    let id = server.submit("forward_backward", backward(&model, 1)).await;
    assert_eq!(server.result(&id).await["metrics"]["loss:sum"], 12.0);
}

#[tokio::test]
async fn operations_without_a_sequence_number_run_on_arrival() {
    let server = test_server();
    let model = server.create_model().await;
    server.submit("optim_step", step(&model, 2)).await;
    let mut unnumbered = step(&model, 0);
    let first = server.submit("optim_step", unnumbered.clone()).await;
    unnumbered.as_object_mut().unwrap().remove("seq_id");
    let second = server.submit("optim_step", unnumbered).await;
    assert_ne!(first, second);
    assert!(server.result(&first).await["metrics"].is_object());
    assert!(server.result(&second).await["metrics"].is_object());
    assert_eq!(server.engine.counts().steps, 2);
}

#[tokio::test]
async fn failed_operation_does_not_block_the_next_operation() {
    let (server, held) = held_server();
    let session = server.create_session().await;
    let create = server.call("create_model", create_model(&session, 0)).await;
    let model = create["model_id"].as_str().unwrap().to_owned();
    held.run_next();
    let failing = server.submit("optim_step", step(&model, 1)).await;
    let next = server.submit("optim_step", step(&model, 2)).await;
    held.fail_next(EngineError::user("beta1 is odd"));
    assert_eq!(
        server.result(&failing).await,
        json!({ "error": "beta1 is odd", "category": "user" })
    );
    held.run_next();
    assert!(server.result(&next).await["metrics"].is_object());
}

#[tokio::test]
async fn failed_model_creation_fails_all_queued_requests() {
    let (server, held) = held_server();
    let session = server.create_session().await;
    let create = server.call("create_model", create_model(&session, 0)).await;
    let model = create["model_id"].as_str().unwrap().to_owned();
    let queued = server.submit("optim_step", step(&model, 1)).await;
    held.fail_next(EngineError::server("no memory left"));
    let result = server.result(create["request_id"].as_str().unwrap()).await;
    assert_eq!(
        result,
        json!({ "error": "no memory left", "category": "server" })
    );
    let error = server.result(&queued).await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        error.contains("could not be created: no memory left"),
        "{error}"
    );
    let refused = server.post("optim_step", step(&model, 2)).await;
    assert_eq!(refused.status, 410);
    assert!(held.held_jobs().is_empty());
}

#[tokio::test]
async fn request_duplicated_by_a_proxy_is_applied_once() {
    let server = test_server();
    let model = server.create_model().await;
    server
        .faults
        .add(Rule::on("/api/v1/optim_step"), Fault::duplicate());
    let id = server.submit("optim_step", step(&model, 1)).await;
    assert!(server.result(&id).await["metrics"].is_object());
    assert_eq!(server.engine.counts().steps, 1);
}

#[tokio::test]
async fn ten_thousand_queued_requests_do_not_overflow_the_stack() {
    let server = test_server();
    let model = server.create_model().await;
    for seq_id in (2..=10_000).rev() {
        server.submit("optim_step", step(&model, seq_id)).await;
    }
    server.submit("optim_step", step(&model, 1)).await;
    assert_eq!(server.engine.counts().steps, 10_000);
}

#[tokio::test]
async fn creation_requests_are_idempotent() {
    let server = test_server();
    let session = server.create_session().await;
    let first = server.call("create_model", create_model(&session, 0)).await;
    assert_eq!(
        server.call("create_model", create_model(&session, 0)).await,
        first
    );
    let mut other = create_model(&session, 0);
    other["lora_config"]["rank"] = 4.into();
    assert_eq!(server.post("create_model", other).await.status, 409);
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
    let first = server
        .call("create_sampling_session", sampler.clone())
        .await;
    assert_eq!(first["sampling_session_id"], format!("{session}:sample:0"));
    assert_eq!(server.call("create_sampling_session", sampler).await, first);
    let sampler = first["sampling_session_id"].as_str().unwrap();
    let sample = server.call("asample", support::sample(sampler, 7)).await;
    assert_eq!(
        server.call("asample", support::sample(sampler, 7)).await,
        sample
    );
    let mut other = support::sample(sampler, 7);
    other["num_samples"] = 3.into();
    assert_eq!(server.post("asample", other).await.status, 409);
    // Unnamed saves use the numbers of sampling sessions. A retry may have a different number.
    let model = format!("{session}:train:0");
    let save = |seq_id: u64, number: u64| json!({ "model_id": model, "seq_id": seq_id, "sampling_session_seq_id": number });
    assert_eq!(
        server
            .post("save_weights_for_sampler", save(1, 0))
            .await
            .status,
        409
    );
    let saved = server.call("save_weights_for_sampler", save(1, 1)).await;
    assert_eq!(
        server.call("save_weights_for_sampler", save(1, 2)).await,
        saved
    );
    let counts = server.engine.counts();
    assert_eq!(
        (counts.created, counts.samples, counts.snapshots),
        (1, 1, 1)
    );
}
