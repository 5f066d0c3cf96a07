//! The dialects `skyrl` and `skyrl-main`, compared with recorded responses.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, EngineError};
use tinkers_wire::{ForwardBackwardOutput, OperationResult, SampleResponse};

use super::support::{
    BASE, TestServer, backward, create_model, held_model, held_server_with, run_until_idle, sample,
    step,
};
use super::{
    ACCEPT_PROTOBUF, PROTOBUF, config, content_type, dialect_server, error_body, proto_pass,
    status_and_body,
};

fn both() -> [TestServer; 2] {
    [
        dialect_server(Dialect::skyrl()),
        dialect_server(Dialect::skyrl_main()),
    ]
}

#[tokio::test]
async fn skyrl_dialect_has_one_feature_flag_and_lacks_some_routes() {
    for server in both() {
        let version = json!({ "sdk_version": "0.38.0" });
        assert_eq!(
            server.call("client/config", version.clone()).await,
            json!({ "pjwt_auth_enabled": false })
        );
        for (method, path) in [
            (Method::POST, "client/dynamic_config"),
            (Method::POST, "retrieve_futures"),
            (Method::POST, "cancel_future"),
            (Method::POST, "sessions/s/finish"),
            (Method::GET, "sessions"),
            (Method::GET, "sessions/s"),
            (Method::GET, "checkpoints"),
        ] {
            let path = format!("/api/v1/{path}");
            let response = server.send(method, &path, version.to_string(), &[]).await;
            assert_eq!(
                status_and_body(&response),
                error_body(404, "Not Found"),
                "{path}"
            );
        }
        server.get("training_runs").await.ok();
    }
}

#[tokio::test]
async fn protobuf_pass_fails_on_skyrl_release_but_not_on_main() {
    let server = dialect_server(Dialect::skyrl());
    let model = server.create_model().await;
    let response = server.proto_pass(&model, 1).await;
    assert_eq!(
        (
            response.status,
            content_type(&response),
            &response.raw.body[..]
        ),
        (
            500,
            "text/plain; charset=utf-8",
            &b"Internal Server Error"[..]
        )
    );
    assert_eq!(server.engine.counts().backwards, 0);
    let server = dialect_server(Dialect::skyrl_main());
    let model = server.create_model().await;
    let pass = server.proto_pass(&model, 1).await.id();
    assert_eq!(server.engine.counts().backwards, 1);
    let response = server.poll_with(&pass, &[ACCEPT_PROTOBUF]).await;
    assert_eq!(content_type(&response), "application/x-protobuf");
    let read = ForwardBackwardOutput::from_protobuf(response.raw.body).unwrap();
    assert_eq!(
        (read.loss_fn_output_type.as_str(), read.metrics.len()),
        ("scalar", 0)
    );
}

#[tokio::test]
async fn skyrl_release_returns_results_only_as_json() {
    let server = dialect_server(Dialect::skyrl());
    let model = server.create_model().await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let response = server.poll_with(&pass, &[ACCEPT_PROTOBUF]).await;
    assert_eq!(content_type(&response), "application/json");
    assert_eq!(response.body["loss_fn_output_type"], "scalar");
    assert_eq!(response.body["metrics"], json!({}));
}

#[tokio::test]
async fn skyrl_responses_and_results_have_the_fields_of_skyrl() {
    for (is_main, server) in [false, true].into_iter().zip(both()) {
        let session = server.create_session().await;
        let accepted = server.call("create_model", create_model(&session, 0)).await;
        let id = accepted["request_id"].as_str().unwrap();
        let model = format!("{session}:train:0");
        assert_eq!(
            accepted,
            json!({ "model_id": model, "base_model": BASE, "lora_config": { "rank": 8, "seed": null }, "status": "created", "request_id": id })
        );
        let lora = json!({ "rank": 8, "alpha": 32.0, "seed": 0, "train_attn": true, "train_mlp": true, "train_unembed": false });
        assert_eq!(
            server.result(id).await,
            json!({ "model_id": model, "base_model": BASE, "lora_config": lora })
        );
        let mut loaded = json!({ "path": "", "optimizer": false });
        for (route, body, result) in [
            (
                "optim_step",
                step(&model, 1),
                json!({ "metrics": { "skyrl.ai/grad_norm": 1.0 } }),
            ),
            (
                "save_weights",
                json!({ "model_id": model, "path": "w" }),
                json!({ "path": format!("tinker://{model}/weights/w"), "type": "save_weights" }),
            ),
            (
                "save_weights_for_sampler",
                json!({ "model_id": model, "path": "s" }),
                json!({ "path": format!("tinker://{model}/s"), "type": "save_weights_for_sampler", "sampling_session_id": null }),
            ),
            (
                "save_weights_for_sampler",
                json!({ "model_id": model, "sampling_session_seq_id": 4 }),
                json!({ "path": null, "type": "save_weights_for_sampler", "sampling_session_id": format!("{session}:sample:4") }),
            ),
        ] {
            let accepted = server.call(route, body).await;
            let id = accepted["request_id"].as_str().unwrap();
            assert_eq!(
                accepted,
                json!({ "future_id": id, "status": "pending", "request_id": id })
            );
            assert_eq!(server.result(id).await, result, "{route}");
        }
        loaded["path"] = format!("tinker://{model}/weights/w").into();
        loaded["model_id"] = server.create_model_in(&session, 1).await.into();
        let load = server.submit("load_weights", loaded.clone()).await;
        assert_eq!(
            server.result(&load).await,
            json!({ "type": "load_weights" })
        );
        loaded["seq_id"] = 3.into();
        let late = server.post("load_weights", loaded).await;
        if is_main {
            assert_eq!(
                status_and_body(&late),
                error_body(400, "LoadWeights is not permitted with seq_id 3")
            );
        } else {
            late.ok();
        }
        let from_state = json!({ "session_id": session, "model_seq_id": 5, "path": format!("tinker://{model}/weights/w"), "optimizer": false });
        let missing = json!([{ "type": "missing", "loc": ["body", "model_id"], "msg": "Field required", "input": from_state }]);
        assert_eq!(
            status_and_body(&server.post("load_weights", from_state).await),
            error_body(422, missing)
        );
    }
}

#[tokio::test]
async fn skyrl_samples_require_max_tokens_and_a_list_of_stops() {
    for server in both() {
        let sampler = server.create_sampler().await;
        let mut body = sample(&sampler, 0);
        let string = json!([{ "type": "list_type", "loc": ["body", "sampling_params", "stop"], "msg": "Input should be a valid list", "input": "x" }]);
        assert_eq!(
            status_and_body(&server.post("asample", body.clone()).await),
            error_body(422, string)
        );
        body["sampling_params"] = json!({ "stop": ["x"] });
        assert_eq!(
            status_and_body(&server.post("asample", body.clone()).await),
            error_body(400, "max_tokens is currently required")
        );
        body["sampling_params"] = json!({ "stop": ["x"], "max_tokens": 2 });
        (body["prompt_logprobs"], body["num_samples"]) = (true.into(), 1.into());
        let accepted = server.call("asample", body.clone()).await;
        let id = accepted["request_id"].as_str().unwrap();
        assert_eq!(
            accepted,
            json!({ "future_id": id, "status": "pending", "request_id": id })
        );
        let result = server.result(id).await;
        // The first of the two prompt tokens has no log-probability and is left out.
        assert_eq!(result["prompt_logprobs"], json!([-1.0]));
        // A repeated sample is a new request.
        assert_ne!(server.submit("asample", body).await, id);
    }
    let server = dialect_server(Dialect::skyrl_main());
    let mut body = sample(&server.create_sampler().await, 0);
    (body["prompt_logprobs"], body["sampling_params"]) = (true.into(), json!({ "max_tokens": 2 }));
    let id = server.submit("asample", body).await;
    let response = server.poll_with(&id, &[ACCEPT_PROTOBUF]).await;
    let read = SampleResponse::from_protobuf(response.raw.body).unwrap();
    assert_eq!(read.prompt_logprobs, Some(vec![Some(-1.0)]));
}

#[tokio::test]
async fn skyrl_poll_times_out_after_300_seconds() {
    let mut config = config(Dialect::skyrl());
    // The session must not expire while the poll is held.
    config.session_expiry = Duration::from_secs(3600);
    let (server, held) = held_server_with(config);
    let (_, model) = held_model(&server, &held).await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let clock = server.clock.clone();
    let (response, ()) = tokio::join!(server.long_poll(&pass), async {
        run_until_idle().await;
        clock.advance(Duration::from_secs(299));
        run_until_idle().await;
        assert_eq!(held.held_jobs(), ["pass 1"]);
        clock.advance(Duration::from_secs(1));
    });
    assert_eq!(
        status_and_body(&response),
        error_body(408, "Timeout waiting for result")
    );
    held.fail_next(EngineError::user("the data are wrong"));
    assert_eq!(
        status_and_body(&server.poll(&pass).await),
        error_body(400, "the data are wrong")
    );
    assert_eq!(
        status_and_body(&server.poll("7").await),
        error_body(404, "Future not found")
    );
}

#[tokio::test]
async fn skyrl_main_runs_requests_on_arrival_and_applies_repeats_once() {
    let (server, held) = held_server_with(config(Dialect::skyrl_main()));
    let (_, model) = held_model(&server, &held).await;
    let late = server.submit("optim_step", step(&model, 7)).await;
    assert_eq!(held.run_next(), "step 0.1");
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    assert_eq!(held.run_next(), "pass 1");
    // A request with the same number and body counts as a repeat, even after other requests.
    assert_eq!(server.submit("optim_step", step(&model, 7)).await, late);
    assert_eq!(server.proto_pass(&model, 1).await.id(), pass);
    assert!(held.held_jobs().is_empty());
    assert_eq!(
        status_and_body(&server.post("forward_backward", backward(&model, 7)).await),
        error_body(409, "Training request sequence number was reused")
    );
    // A repeated save conflicts with the first one, even with `overwrite`.
    let save = json!({ "model_id": model, "path": "dup", "seq_id": 9, "overwrite": true });
    server.submit("save_weights", save.clone()).await;
    assert_eq!(held.run_next(), "save dup");
    let conflict = format!("Checkpoint 'dup' already exists for model '{model}'");
    assert_eq!(
        status_and_body(&server.post("save_weights", save).await),
        error_body(409, conflict)
    );
}

#[tokio::test]
async fn skyrl_release_ignores_sequence_numbers() {
    let (server, held) = held_server_with(config(Dialect::skyrl()));
    let (_, model) = held_model(&server, &held).await;
    let first = server.submit("optim_step", step(&model, 7)).await;
    assert_eq!(held.run_next(), "step 0.1");
    let again = server.submit("optim_step", step(&model, 7)).await;
    assert_eq!(held.run_next(), "step 0.1");
    assert_ne!(first, again);
    let bodies = [
        backward(&model, 1),
        backward(&model, 1),
        backward(&model, 7),
    ];
    for body in bodies {
        server.submit("forward_backward", body).await;
        assert_eq!(held.run_next(), "pass 1");
    }
    for (dialect, has) in [(Dialect::skyrl(), false), (Dialect::skyrl_main(), true)] {
        let document = tinkers_local::open_api(&config(dialect)).unwrap();
        let read = tinkers_wire::ApiDocument::read(document.to_string().as_bytes()).unwrap();
        assert_eq!(
            (&*read.title, read.optim_step_has_seq_id),
            ("Tinker API Mock", has)
        );
        assert_eq!(read.pass_bodies.is_empty(), has);
    }
}

#[tokio::test]
async fn skyrl_parses_a_protobuf_body_as_json_on_routes_without_protobuf() {
    let server = dialect_server(Dialect::skyrl());
    let body = proto_pass("m", 1);
    let response = server
        .send(Method::POST, "/api/v1/optim_step", body, &[PROTOBUF])
        .await;
    assert_eq!(
        (response.status, response.body["detail"].is_string()),
        (400, true)
    );
    let none: Value = server.get("training_runs").await.ok();
    assert_eq!(none["training_runs"], json!([]));
}
