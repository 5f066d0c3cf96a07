//! Gaps in the sequence numbers of a model: refused requests and requests that never arrive.

mod support;

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{
    TestServer, backward, is_pending, run_until_idle, step, test_server, test_server_with,
};
use tinkers_local::{Fault, LocalConfig, Rule, Script};

/// Returns requests with the sequence number `number` that the server refuses. Each consists of a route, a request body and the
/// expected status.
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

/// Asserts that an optimizer step with the sequence number `number` succeeds at once, without waiting for missing lower numbers.
async fn assert_step_runs(server: &TestServer, model: &str, number: u64) {
    let id = server.submit("optim_step", step(model, number)).await;
    let result = server.finished_result(&id).await;
    assert!(result["metrics"].is_object(), "seq_id {number}: {result}");
}

#[tokio::test]
async fn later_requests_do_not_wait_for_a_refused_sequence_number() {
    let server = test_server();
    let model = server.create_model().await;
    let mut number = 1;
    for (route, body, status) in refused_requests(&model, 0) {
        let mut body = body;
        body["seq_id"] = json!(number);
        let response = server.post(route, body.clone()).await;
        assert_eq!(response.status, status, "{route} {body}: {}", response.body);
        assert_step_runs(&server, &model, number + 1).await;
        // A later request was accepted, so the refused number cannot be used any more.
        let late = server.post("optim_step", step(&model, number)).await;
        assert_eq!(late.status, 409, "{route}");
        number += 2;
    }
}

#[tokio::test]
async fn refused_sequence_number_can_be_reused_at_once() {
    let server = test_server();
    let model = server.create_model().await;
    for (number, (route, body, _)) in (1..).zip(refused_requests(&model, 0)) {
        let mut body = body;
        body["seq_id"] = json!(number);
        assert!(server.post(route, body).await.status >= 400);
        assert_step_runs(&server, &model, number).await;
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_consecutive_refused_sequence_numbers() {
    let server = test_server();
    let model = server.create_model().await;
    let all = refused_requests(&model, 0);
    for (number, (route, body, _)) in (1..).zip(all.clone()) {
        let mut body = body;
        body["seq_id"] = json!(number);
        assert!(server.post(route, body).await.status >= 400);
    }
    assert_step_runs(&server, &model, all.len() as u64 + 1).await;
}

#[tokio::test]
async fn requests_fail_if_a_lower_sequence_number_is_refused_later() {
    let server = test_server();
    let model = server.create_model().await;
    let mut bad = backward(&model, 1);
    bad["forward_backward_input"]["loss_fn"] = json!("no_such_loss");
    // The chunks of a forward-backward pass arrive in reverse order.
    let second = server.submit("forward_backward", backward(&model, 2)).await;
    assert_eq!(server.post("forward_backward", bad).await.status, 422);
    assert_step_runs(&server, &model, 3).await;
    let result = server.finished_result(&second).await;
    let reason = result["error"].as_str().expect("an error");
    assert!(
        reason.contains("seq_id 1 of") && reason.contains("was refused"),
        "{result}"
    );
    let counts = server.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (0, 1));
}

#[tokio::test]
async fn requests_do_not_wait_for_the_number_of_an_undecodable_request() {
    let mut config = LocalConfig::default();
    config.max_body = 100_000;
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
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
    // Invalid JSON: a NaN literal and a truncated document.
    let literal = backward(&model, 1).to_string().replacen("1.0", "NaN", 1);
    let cut = format!("{{\"model_id\": {model:?}, \"seq_id\": 3, \"data\": [1,");
    // Truncated protobuf.
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
        let response = server
            .send(Method::POST, &path(route), body, &headers)
            .await;
        assert_eq!(response.status, status, "{number}: {}", response.body);
        assert_step_runs(&server, &model, number + 1).await;
    }
}

#[tokio::test]
async fn requests_wait_for_the_number_of_an_unauthenticated_request() {
    let config = LocalConfig::default().with_api_key("tml-right");
    let server = test_server_with(config, Script::default());
    let keyed = |key: &'static str, route: &str, body: Value| {
        let path = format!("/api/v1/{route}");
        let server = &server;
        async move {
            let headers = [("x-api-key", key)];
            let body = body.to_string();
            server.send(Method::POST, &path, body, &headers).await
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
async fn save_under_an_existing_name_uses_up_its_sequence_number() {
    let server = test_server();
    let model = server.create_model().await;
    for (route, first) in [("save_weights", 1), ("save_weights_for_sampler", 4)] {
        let save = |number: u64| json!({ "model_id": model, "seq_id": number, "path": "x" });
        let id = server.submit(route, save(first)).await;
        assert!(server.finished_result(&id).await["path"].is_string());
        let failed = server.submit(route, save(first + 1)).await;
        let result = server.finished_result(&failed).await;
        assert_eq!(result["category"], "user");
        assert!(
            result["error"]
                .as_str()
                .expect("words")
                .contains("/x exists"),
            "{result}"
        );
        // A repeat counts as the same request and has the same outcome.
        assert_eq!(server.submit(route, save(first + 1)).await, failed);
        assert_step_runs(&server, &model, first + 2).await;
    }
    assert_eq!(server.engine.counts().saves, 2);
}

/// Lets all other tasks of the runtime run, and then returns whether the future `poll` is still pending.
async fn is_still_pending<F: Future>(poll: &mut Pin<&mut F>) -> bool {
    tokio::select! {
        biased;
        _ = poll => false,
        () = run_until_idle() => true,
    }
}

#[tokio::test]
async fn requests_waiting_for_a_missing_sequence_number_time_out() {
    let server = test_server();
    let model = server.create_model().await;
    let bound = server.config().gap_timeout;
    let first = server.submit("forward_backward", backward(&model, 3)).await;
    server.clock.advance(bound / 4 * 3);
    let second = server.submit("optim_step", step(&model, 4)).await;
    let mut poll = pin!(server.poll(&second));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(bound / 4 - Duration::from_nanos(1));
    assert!(is_pending(&mut poll).await);
    server.clock.advance(Duration::from_nanos(1));
    let error_of = |result: Value| result["error"].as_str().expect("an error").to_owned();
    assert!(
        !is_still_pending(&mut poll).await,
        "the poll did not time out"
    );
    let result = error_of(server.finished_result(&second).await);
    assert!(
        result.contains("seq_id 1 of") && result.contains("seq_id 4, which"),
        "{result}"
    );
    assert!(result.contains("60s"), "{result}");
    let result = error_of(server.finished_result(&first).await);
    assert!(
        result.contains("seq_id 1 of") && result.contains("seq_id 3, which"),
        "{result}"
    );
    // The missing number is skipped, and later requests run.
    assert_eq!(server.post("optim_step", step(&model, 1)).await.status, 409);
    assert_step_runs(&server, &model, 5).await;
    let counts = server.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (0, 1));
}

#[tokio::test]
async fn missing_sequence_number_may_arrive_within_the_timeout() {
    let server = test_server();
    let model = server.create_model().await;
    let bound = server.config().gap_timeout;
    let almost = bound - Duration::from_nanos(1);
    let third = server.submit("optim_step", step(&model, 3)).await;
    server.clock.advance(almost);
    server.submit("optim_step", step(&model, 1)).await;
    // Now number 2 is missing, and the timeout starts again.
    server.clock.advance(almost);
    run_until_idle().await;
    server.submit("optim_step", step(&model, 2)).await;
    assert!(server.finished_result(&third).await["metrics"].is_object());
    server.clock.advance(bound * 2);
    run_until_idle().await;
    assert_step_runs(&server, &model, 4).await;
}

#[tokio::test]
async fn requests_wait_for_the_number_of_a_request_with_a_fault() {
    let server = test_server();
    let model = server.create_model().await;
    let bound = server.config().gap_timeout;
    let almost = bound - Duration::from_nanos(1);
    let later = server.submit("optim_step", step(&model, 2)).await;
    for status in [429, 503, 422] {
        server.clock.advance(almost);
        let fault = Fault::status(StatusCode::from_u16(status).expect("a status"), "not now");
        server
            .faults
            .add(Rule::on("/api/v1/optim_step").nth(1), fault);
        assert_eq!(
            server.post("optim_step", step(&model, 1)).await.status,
            status
        );
    }
    server.clock.advance(almost);
    run_until_idle().await;
    server.submit("optim_step", step(&model, 1)).await;
    assert!(server.finished_result(&later).await["metrics"].is_object());
    assert_eq!(server.engine.counts().steps, 2);
}
