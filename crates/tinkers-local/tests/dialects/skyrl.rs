//! `skyrl` and `skyrl-main`: the recorded forms of their answers.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, EngineError};
use tinkers_wire::{ForwardBackwardOutput, OperationResult, SampleResponse};

use super::support::{
    BASE, World, backward, create_model, held_model, held_world_with, sample, settle, step,
};
use super::{ASK_PROTOBUF, PROTOBUF, config, kind, proto_pass, refused, said, speaks};

fn both() -> [World; 2] {
    [speaks(Dialect::skyrl()), speaks(Dialect::skyrl_main())]
}

/// A sampler of a base model.
async fn sampler(world: &World) -> String {
    let session = world.session().await;
    let body = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
    let made = world.post("create_sampling_session", body).await.ok();
    made["sampling_session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn it_tells_little_of_itself_and_has_fewer_routes() {
    for world in both() {
        let version = json!({ "sdk_version": "0.38.0" });
        assert_eq!(
            world.post("client/config", version.clone()).await.ok(),
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
            let got = world.send(method, &path, version.to_string(), &[]).await;
            assert_eq!(said(&got), refused(404, "Not Found"), "{path}");
        }
        world.get("training_runs").await.ok();
    }
}

#[tokio::test]
async fn a_protobuf_pass_crashes_the_release_and_is_read_on_main() {
    let world = speaks(Dialect::skyrl());
    let model = world.model().await;
    let got = world.proto_pass(&model, 1).await;
    assert_eq!(
        (got.status, kind(&got), &got.raw.body[..]),
        (
            500,
            "text/plain; charset=utf-8",
            &b"Internal Server Error"[..]
        )
    );
    assert_eq!(world.engine.counts().backwards, 0);
    let world = speaks(Dialect::skyrl_main());
    let model = world.model().await;
    let pass = world.proto_pass(&model, 1).await.id();
    assert_eq!(world.engine.counts().backwards, 1);
    let got = world.ask(&pass, &[ASK_PROTOBUF]).await;
    assert_eq!(kind(&got), "application/x-protobuf");
    let read = ForwardBackwardOutput::from_protobuf(got.raw.body).unwrap();
    assert_eq!(
        (read.loss_fn_output_type.as_str(), read.metrics.len()),
        ("scalar", 0)
    );
}

#[tokio::test]
async fn results_of_the_release_are_json_alone() {
    let world = speaks(Dialect::skyrl());
    let model = world.model().await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let got = world.ask(&pass, &[ASK_PROTOBUF]).await;
    assert_eq!(kind(&got), "application/json");
    assert_eq!(got.body["loss_fn_output_type"], "scalar");
    assert_eq!(got.body["metrics"], json!({}));
}

#[tokio::test]
async fn promises_and_results_have_its_fields() {
    for (is_main, world) in [false, true].into_iter().zip(both()) {
        let session = world.session().await;
        let promise = world
            .post("create_model", create_model(&session, 0))
            .await
            .ok();
        let id = promise["request_id"].as_str().unwrap();
        let model = format!("{session}:train:0");
        assert_eq!(
            promise,
            json!({ "model_id": model, "base_model": BASE, "lora_config": { "rank": 8, "seed": null }, "status": "created", "request_id": id })
        );
        let lora = json!({ "rank": 8, "alpha": 32.0, "seed": 0, "train_attn": true, "train_mlp": true, "train_unembed": false });
        assert_eq!(
            world.result(id).await,
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
            let promise = world.post(route, body).await.ok();
            let id = promise["request_id"].as_str().unwrap();
            assert_eq!(
                promise,
                json!({ "future_id": id, "status": "pending", "request_id": id })
            );
            assert_eq!(world.result(id).await, result, "{route}");
        }
        loaded["path"] = format!("tinker://{model}/weights/w").into();
        loaded["model_id"] = world.model_in(&session, 1).await.into();
        let load = world.post("load_weights", loaded.clone()).await.id();
        assert_eq!(world.result(&load).await, json!({ "type": "load_weights" }));
        loaded["seq_id"] = 3.into();
        let late = world.post("load_weights", loaded).await;
        if is_main {
            assert_eq!(
                said(&late),
                refused(400, "LoadWeights is not permitted with seq_id 3")
            );
        } else {
            late.ok();
        }
        let from_state = json!({ "session_id": session, "model_seq_id": 5, "path": format!("tinker://{model}/weights/w"), "optimizer": false });
        let missing = json!([{ "type": "missing", "loc": ["body", "model_id"], "msg": "Field required", "input": from_state }]);
        assert_eq!(
            said(&world.post("load_weights", from_state).await),
            refused(422, missing)
        );
    }
}

#[tokio::test]
async fn samples_need_max_tokens_and_a_list_of_stops() {
    for world in both() {
        let sampler = sampler(&world).await;
        let mut body = sample(&sampler, 0);
        let string = json!([{ "type": "list_type", "loc": ["body", "sampling_params", "stop"], "msg": "Input should be a valid list", "input": "x" }]);
        assert_eq!(
            said(&world.post("asample", body.clone()).await),
            refused(422, string)
        );
        body["sampling_params"] = json!({ "stop": ["x"] });
        assert_eq!(
            said(&world.post("asample", body.clone()).await),
            refused(400, "max_tokens is currently required")
        );
        body["sampling_params"] = json!({ "stop": ["x"], "max_tokens": 2 });
        (body["prompt_logprobs"], body["num_samples"]) = (true.into(), 1.into());
        let promise = world.post("asample", body.clone()).await.ok();
        let id = promise["request_id"].as_str().unwrap();
        assert_eq!(
            promise,
            json!({ "future_id": id, "status": "pending", "request_id": id })
        );
        let result = world.result(id).await;
        // The prompt has two tokens; the first has no log-probability and no entry.
        assert_eq!(result["prompt_logprobs"], json!([-1.0]));
        // A sample that comes again is drawn again.
        assert_ne!(world.post("asample", body).await.id(), id);
    }
    let world = speaks(Dialect::skyrl_main());
    let mut body = sample(&sampler(&world).await, 0);
    (body["prompt_logprobs"], body["sampling_params"]) = (true.into(), json!({ "max_tokens": 2 }));
    let id = world.post("asample", body).await.id();
    let got = world.ask(&id, &[ASK_PROTOBUF]).await;
    let read = SampleResponse::from_protobuf(got.raw.body).unwrap();
    assert_eq!(read.prompt_logprobs, Some(vec![Some(-1.0)]));
}

#[tokio::test]
async fn a_poll_is_held_for_long_and_then_times_out() {
    let mut config = config(Dialect::skyrl());
    // The model would otherwise go with its session while the poll is held.
    config.session_expiry = Duration::from_secs(3600);
    let (world, held) = held_world_with(config);
    let (_, model) = held_model(&world, &held).await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let clock = world.clock.clone();
    let (got, ()) = tokio::join!(world.ask_for_long(&pass), async {
        settle().await;
        clock.advance(Duration::from_secs(299));
        settle().await;
        assert_eq!(held.held(), ["pass 1"]);
        clock.advance(Duration::from_secs(1));
    });
    assert_eq!(said(&got), refused(408, "Timeout waiting for result"));
    held.fail(EngineError::user("the data are wrong"));
    assert_eq!(
        said(&world.poll(&pass).await),
        refused(400, "the data are wrong")
    );
    assert_eq!(
        said(&world.poll("7").await),
        refused(404, "Future not found")
    );
}

#[tokio::test]
async fn requests_run_on_arrival_and_computations_once() {
    let (world, held) = held_world_with(config(Dialect::skyrl_main()));
    let (_, model) = held_model(&world, &held).await;
    let late = world.post("optim_step", step(&model, 7)).await.id();
    assert_eq!(held.go(), "step 0.1");
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert_eq!(held.go(), "pass 1");
    // The same number and body is the same request, whatever came between.
    assert_eq!(world.post("optim_step", step(&model, 7)).await.id(), late);
    assert_eq!(world.proto_pass(&model, 1).await.id(), pass);
    assert!(held.held().is_empty());
    assert_eq!(
        said(&world.post("forward_backward", backward(&model, 7)).await),
        refused(409, "Training request sequence number was reused")
    );
    // A save that comes again finds its own name taken, whatever it says of that.
    let save = json!({ "model_id": model, "path": "dup", "seq_id": 9, "overwrite": true });
    world.post("save_weights", save.clone()).await.id();
    assert_eq!(held.go(), "save dup");
    let taken = format!("Checkpoint 'dup' already exists for model '{model}'");
    assert_eq!(
        said(&world.post("save_weights", save).await),
        refused(409, taken)
    );
}

#[tokio::test]
async fn the_release_reads_no_numbers_and_says_so() {
    let (world, held) = held_world_with(config(Dialect::skyrl()));
    let (_, model) = held_model(&world, &held).await;
    let first = world.post("optim_step", step(&model, 7)).await.id();
    assert_eq!(held.go(), "step 0.1");
    let again = world.post("optim_step", step(&model, 7)).await.id();
    assert_eq!(held.go(), "step 0.1");
    assert_ne!(first, again);
    let bodies = [
        backward(&model, 1),
        backward(&model, 1),
        backward(&model, 7),
    ];
    for body in bodies {
        world.post("forward_backward", body).await.id();
        assert_eq!(held.go(), "pass 1");
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
async fn other_content_types_reach_the_reader() {
    let world = speaks(Dialect::skyrl());
    let body = proto_pass("m", 1);
    let got = world
        .send(Method::POST, "/api/v1/optim_step", body, &[PROTOBUF])
        .await;
    assert_eq!((got.status, got.body["detail"].is_string()), (400, true));
    let none: Value = world.get("training_runs").await.ok();
    assert_eq!(none["training_runs"], json!([]));
}
