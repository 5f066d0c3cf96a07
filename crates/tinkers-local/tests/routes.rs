//! Valid requests to every route.

mod support;

use serde_json::json;
use support::{BASE, backward, sample, step, test_server};

#[tokio::test]
async fn model_can_be_trained_saved_and_sampled() {
    let server = test_server();
    let model = server.create_model().await;
    assert!(
        model.starts_with("session-") && model.ends_with(":train:0"),
        "{model}"
    );
    let info = server.call("get_info", json!({ "model_id": model })).await;
    assert_eq!(info["model_data"]["model_name"], BASE);
    assert_eq!(info["lora_rank"], 8);
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let step = server.submit("optim_step", step(&model, 2)).await;
    let pass = server.result(&pass).await;
    assert_eq!(pass["metrics"]["loss:sum"], 12.0);
    assert_eq!(
        pass["loss_fn_outputs"][0]["logprobs"]["data"],
        json!([-4.0, -4.0, -4.0])
    );
    assert!(server.result(&step).await["metrics"].is_object());
    let mut forward = backward(&model, 3);
    forward["forward_input"] = forward["forward_backward_input"].take();
    let forward = server.submit("forward", forward).await;
    assert_eq!(server.result(&forward).await["metrics"]["loss:sum"], 6.0);
    let save = server
        .submit(
            "save_weights",
            json!({ "model_id": model, "seq_id": 4, "path": "step-1" }),
        )
        .await;
    let path = format!("tinker://{model}/weights/step-1");
    assert_eq!(server.result(&save).await["path"], path);
    let named = json!({ "model_id": model, "seq_id": 5, "path": "s", "kind": "snapshot" });
    let named = server.submit("save_weights_for_sampler", named).await;
    let sampler_path = format!("tinker://{model}/sampler_weights/s");
    assert_eq!(server.result(&named).await["path"], sampler_path);
    let unnamed = json!({ "model_id": model, "seq_id": 6, "sampling_session_seq_id": 0 });
    let unnamed = server.submit("save_weights_for_sampler", unnamed).await;
    let sampler = server.result(&unnamed).await["sampling_session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let accepted = server.call("asample", sample(&sampler, 0)).await;
    assert_eq!(accepted["sample_sequence_ids"].as_array().unwrap().len(), 2);
    let sampled = server
        .result(accepted["request_id"].as_str().unwrap())
        .await;
    assert_eq!(sampled["sequences"][1]["tokens"], json!([7, 8, 9, 10]));
    let counts = server.engine.counts();
    assert_eq!((counts.backwards, counts.forwards, counts.steps), (1, 1, 1));
    assert_eq!((counts.saves, counts.snapshots, counts.samples), (2, 1, 1));
}

#[tokio::test]
async fn capabilities_and_configuration_are_served() {
    let server = test_server();
    assert_eq!(server.get("healthz").await.ok(), json!({ "status": "ok" }));
    let models = server.get("get_server_capabilities").await.ok();
    assert_eq!(
        models["supported_models"],
        json!([{ "model_name": BASE, "max_context_length": 4096, "trainable": true, "sampleable": true }])
    );
    let version = json!({ "sdk_version": "0.38.0" });
    let config = server.call("client/config", version.clone()).await;
    for (flag, value) in [
        ("pjwt_auth_enabled", json!(false)),
        ("parallel_fwdbwd_chunks", json!(true)),
        ("proto_compress_fwdbwd", json!(true)),
        ("deduplicates_seq_ids", json!(true)),
        ("session_expiry_sec", json!(300)),
        ("fwdbwd_max_chunk_len", json!(1024)),
    ] {
        assert_eq!(config[flag], value, "{flag}");
    }
    assert!(
        config["server"]
            .as_str()
            .unwrap()
            .starts_with("tinkers-local/")
    );
    let dynamic = server.call("client/dynamic_config", version).await;
    assert_eq!(dynamic["refresh_interval_sec"], 300);
    let telemetry =
        json!({ "events": [{ "event": "SESSION_START" }], "session_id": "s", "platform": "Linux" });
    assert_eq!(
        server.call("telemetry", telemetry).await["status"],
        "accepted"
    );
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_in_pages() {
    let server = test_server();
    let (first, second) = (server.create_session().await, server.create_session().await);
    assert_ne!(first, second);
    assert_eq!(
        server
            .get("sessions?limit=20&offset=0&access_scope=owned")
            .await
            .ok()["sessions"],
        json!([second, first])
    );
    assert_eq!(
        server.get("sessions?limit=1&offset=1").await.ok()["sessions"],
        json!([first])
    );
    assert_eq!(
        server.get("sessions?offset=7").await.ok()["sessions"],
        json!([])
    );
    let heartbeat = server
        .post(
            "session_heartbeat",
            json!({ "session_id": first, "type": "session_heartbeat" }),
        )
        .await;
    assert_eq!(heartbeat.ok()["type"], "session_heartbeat");
    let model = server.create_model_in(&first, 0).await;
    let info = server.get(&format!("sessions/{first}")).await.ok();
    assert_eq!(
        (&info["training_run_ids"], &info["sampler_ids"]),
        (&json!([model]), &json!([]))
    );
}

#[tokio::test]
async fn checkpoints_are_listed_described_loaded_and_deleted() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let notes = json!({ "k": "v" });
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a", "ttl_seconds": 3600, "user_metadata": notes });
    server.submit("save_weights", save).await;
    server
        .submit(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 2, "path": "b" }),
        )
        .await;
    let path = format!("tinker://{model}/weights/a");
    let listed = server
        .get(&format!("training_runs/{model}/checkpoints"))
        .await
        .ok();
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 2);
    // Ids may be percent-encoded.
    let escaped = model.replace(':', "%3A");
    assert_eq!(
        server
            .get(&format!("training_runs/{escaped}/checkpoints"))
            .await
            .ok(),
        listed
    );
    let one = listed["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["checkpoint_type"] == "training")
        .unwrap();
    assert_eq!(one["checkpoint_id"], "weights/a");
    assert_eq!(
        (
            &one["tinker_path"],
            &one["user_metadata"],
            &one["size_bytes"]
        ),
        (&json!(path), &notes, &json!(1024))
    );
    assert_eq!(one["expires_at"], "1970-01-01T01:00:00.000000Z");
    let page = server.get("checkpoints?limit=1").await.ok();
    assert_eq!(
        page["cursor"],
        json!({ "offset": 0, "limit": 1, "total_count": 2 })
    );
    let run = server
        .get(&format!("training_runs/{model}?access_scope=owned"))
        .await
        .ok();
    assert_eq!(
        (&run["is_lora"], &run["last_checkpoint"]["tinker_path"]),
        (&json!(true), &json!(path))
    );
    assert_eq!(
        run["last_sampler_checkpoint"]["checkpoint_id"],
        "sampler_weights/b"
    );
    let info = server
        .call("weights_info", json!({ "tinker_path": path }))
        .await;
    assert_eq!(
        (&info["base_model"], &info["lora_rank"], &info["train_attn"]),
        (&json!(BASE), &json!(8), &json!(true))
    );
    // The checkpoint is loaded into a new model and into an existing one.
    let load = json!({ "session_id": session, "model_seq_id": 1, "path": path, "optimizer": true });
    let first = server.call("load_weights", load.clone()).await;
    assert_eq!(server.call("load_weights", load).await, first);
    let loaded = server.result(first["request_id"].as_str().unwrap()).await;
    assert_eq!(
        loaded,
        json!({ "path": path, "model_id": format!("{session}:train:1") })
    );
    let into = json!({ "model_id": model, "seq_id": 3, "path": path, "optimizer": false });
    let into = server.submit("load_weights", into).await;
    assert_eq!(server.result(&into).await["model_id"], model);
    assert_eq!(server.engine.counts().loaded, 2);
    // A model of another rank cannot load the checkpoint.
    let mut small = support::create_model(&session, 2);
    small["lora_config"]["rank"] = 4.into();
    let small = server.call("create_model", small).await["model_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let refused = server
        .post(
            "load_weights",
            json!({ "model_id": small, "seq_id": 1, "path": path, "optimizer": false }),
        )
        .await;
    assert_eq!(
        (
            refused.status,
            refused.reason().contains("path: expected a checkpoint of")
        ),
        (422, true),
        "{}",
        refused.reason()
    );
    let route = format!("training_runs/{model}/checkpoints/weights/a");
    let deleted = server.delete(&route).await;
    assert_eq!((deleted.status, deleted.raw.body.len()), (204, 0));
    assert_eq!(server.delete(&route).await.status, 404);
    assert_eq!(
        server
            .post("weights_info", json!({ "tinker_path": path }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn samples_can_be_drawn_from_every_kind_of_sampler() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let save = server
        .submit(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 1, "path": "s" }),
        )
        .await;
    let path = server.result(&save).await["path"]
        .as_str()
        .unwrap()
        .to_owned();
    for (number, field, value) in [(0, "base_model", BASE), (1, "model_path", path.as_str())] {
        let mut body = json!({ "session_id": session, "sampling_session_seq_id": number });
        body[field] = value.into();
        let id = server.call("create_sampling_session", body).await;
        let id = id["sampling_session_id"].as_str().unwrap().to_owned();
        let info = server.get(&format!("samplers/{id}")).await.ok();
        assert_eq!(
            (&info["sampler_id"], &info["base_model"]),
            (&json!(id), &json!(BASE))
        );
        assert_eq!(
            info["model_path"].as_str(),
            (field == "model_path").then_some(value)
        );
        let accepted = server.submit("asample", sample(&id, 0)).await;
        assert!(server.result(&accepted).await["sequences"].is_array());
        // Samples without a sampling session have no sequence number, so repeats are not detected.
        let mut sessionless = sample(&id, 0);
        sessionless
            .as_object_mut()
            .unwrap()
            .remove("sampling_session_id");
        sessionless[field] = value.into();
        let first = server.submit("asample", sessionless.clone()).await;
        assert_ne!(server.submit("asample", sessionless).await, first);
    }
    assert_eq!(server.engine.counts().samples, 6);
    // Samples of a sampling session fail after its checkpoint is deleted.
    server
        .delete(&format!(
            "training_runs/{model}/checkpoints/sampler_weights/s"
        ))
        .await;
    let gone = server
        .post("asample", sample(&format!("{session}:sample:1"), 1))
        .await;
    assert_eq!(
        (gone.status, gone.reason().contains("no checkpoint")),
        (404, true),
        "{}",
        gone.reason()
    );
}

#[tokio::test]
async fn unload_fails_requests_that_wait_for_a_missing_sequence_number() {
    let server = test_server();
    let model = server.create_model().await;
    let early = server.submit("optim_step", step(&model, 2)).await;
    let unload = server
        .submit("unload_model", json!({ "model_id": model }))
        .await;
    assert_eq!(server.result(&unload).await["model_id"], model);
    let error = server.result(&early).await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        error.contains("was unloaded; the request was not run"),
        "{error}"
    );
    let refused = server.post("optim_step", step(&model, 1)).await;
    assert_eq!(
        (refused.status, refused.reason().contains("was unloaded")),
        (410, true)
    );
    assert_eq!(server.engine.counts().unloaded, 1);
}
