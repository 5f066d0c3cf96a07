//! Each route at its best.

mod support;

use serde_json::json;
use support::{BASE, backward, sample, step, world};

#[tokio::test]
async fn a_model_is_trained_saved_and_sampled_from() {
    let world = world();
    let model = world.model().await;
    assert!(
        model.starts_with("session-") && model.ends_with(":train:0"),
        "{model}"
    );
    let info = world
        .post("get_info", json!({ "model_id": model }))
        .await
        .ok();
    assert_eq!(info["model_data"]["model_name"], BASE);
    assert_eq!(info["lora_rank"], 8);
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let step = world.post("optim_step", step(&model, 2)).await.id();
    let pass = world.result(&pass).await;
    assert_eq!(pass["metrics"]["loss:sum"], 12.0);
    assert_eq!(
        pass["loss_fn_outputs"][0]["logprobs"]["data"],
        json!([-4.0, -4.0, -4.0])
    );
    assert!(world.result(&step).await["metrics"].is_object());
    let mut forward = backward(&model, 3);
    forward["forward_input"] = forward["forward_backward_input"].take();
    let forward = world.post("forward", forward).await.id();
    assert_eq!(world.result(&forward).await["metrics"]["loss:sum"], 6.0);
    let save = world
        .post(
            "save_weights",
            json!({ "model_id": model, "seq_id": 4, "path": "step-1" }),
        )
        .await
        .id();
    let path = format!("tinker://{model}/weights/step-1");
    assert_eq!(world.result(&save).await["path"], path);
    let named = json!({ "model_id": model, "seq_id": 5, "path": "s", "kind": "snapshot" });
    let named = world.post("save_weights_for_sampler", named).await.id();
    let sampler_path = format!("tinker://{model}/sampler_weights/s");
    assert_eq!(world.result(&named).await["path"], sampler_path);
    let unnamed = json!({ "model_id": model, "seq_id": 6, "sampling_session_seq_id": 0 });
    let unnamed = world.post("save_weights_for_sampler", unnamed).await.id();
    let sampler = world.result(&unnamed).await["sampling_session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let promise = world.post("asample", sample(&sampler, 0)).await.ok();
    assert_eq!(promise["sample_sequence_ids"].as_array().unwrap().len(), 2);
    let sampled = world.result(promise["request_id"].as_str().unwrap()).await;
    assert_eq!(sampled["sequences"][1]["tokens"], json!([7, 8, 9, 10]));
    let counts = world.engine.counts();
    assert_eq!((counts.backwards, counts.forwards, counts.steps), (1, 1, 1));
    assert_eq!((counts.saves, counts.snapshots, counts.samples), (2, 1, 1));
}

#[tokio::test]
async fn capabilities_and_configuration_are_served() {
    let world = world();
    assert_eq!(world.get("healthz").await.ok(), json!({ "status": "ok" }));
    let models = world.get("get_server_capabilities").await.ok();
    assert_eq!(
        models["supported_models"],
        json!([{ "model_name": BASE, "max_context_length": 4096, "trainable": true, "sampleable": true }])
    );
    let version = json!({ "sdk_version": "0.38.0" });
    let config = world.post("client/config", version.clone()).await.ok();
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
    let dynamic = world.post("client/dynamic_config", version).await.ok();
    assert_eq!(dynamic["refresh_interval_sec"], 300);
    let telemetry =
        json!({ "events": [{ "event": "SESSION_START" }], "session_id": "s", "platform": "Linux" });
    assert_eq!(
        world.post("telemetry", telemetry).await.ok()["status"],
        "accepted"
    );
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_in_pages() {
    let world = world();
    let (first, second) = (world.session().await, world.session().await);
    assert_ne!(first, second);
    assert_eq!(
        world
            .get("sessions?limit=20&offset=0&access_scope=owned")
            .await
            .ok()["sessions"],
        json!([second, first])
    );
    assert_eq!(
        world.get("sessions?limit=1&offset=1").await.ok()["sessions"],
        json!([first])
    );
    assert_eq!(
        world.get("sessions?offset=7").await.ok()["sessions"],
        json!([])
    );
    let beat = world
        .post(
            "session_heartbeat",
            json!({ "session_id": first, "type": "session_heartbeat" }),
        )
        .await;
    assert_eq!(beat.ok()["type"], "session_heartbeat");
    let model = world.model_in(&first, 0).await;
    let info = world.get(&format!("sessions/{first}")).await.ok();
    assert_eq!(
        (&info["training_run_ids"], &info["sampler_ids"]),
        (&json!([model]), &json!([]))
    );
}

#[tokio::test]
async fn checkpoints_are_listed_described_loaded_and_deleted() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let notes = json!({ "k": "v" });
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a", "ttl_seconds": 3600, "user_metadata": notes });
    world.post("save_weights", save).await.id();
    world
        .post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 2, "path": "b" }),
        )
        .await
        .id();
    let path = format!("tinker://{model}/weights/a");
    let listed = world
        .get(&format!("training_runs/{model}/checkpoints"))
        .await
        .ok();
    assert_eq!(listed["checkpoints"].as_array().unwrap().len(), 2);
    // Ids may come escaped.
    let escaped = model.replace(':', "%3A");
    assert_eq!(
        world
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
    let page = world.get("checkpoints?limit=1").await.ok();
    assert_eq!(
        page["cursor"],
        json!({ "offset": 0, "limit": 1, "total_count": 2 })
    );
    let run = world
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
    let info = world
        .post("weights_info", json!({ "tinker_path": path }))
        .await
        .ok();
    assert_eq!(
        (&info["base_model"], &info["lora_rank"], &info["train_attn"]),
        (&json!(BASE), &json!(8), &json!(true))
    );
    // A new model from it, and it into a model.
    let load = json!({ "session_id": session, "model_seq_id": 1, "path": path, "optimizer": true });
    let first = world.post("load_weights", load.clone()).await.ok();
    assert_eq!(world.post("load_weights", load).await.ok(), first);
    let loaded = world.result(first["request_id"].as_str().unwrap()).await;
    assert_eq!(
        loaded,
        json!({ "path": path, "model_id": format!("{session}:train:1") })
    );
    let into = json!({ "model_id": model, "seq_id": 3, "path": path, "optimizer": false });
    let into = world.post("load_weights", into).await.id();
    assert_eq!(world.result(&into).await["model_id"], model);
    assert_eq!(world.engine.counts().loaded, 2);
    // Another shape cannot be loaded into.
    let mut small = support::create_model(&session, 2);
    small["lora_config"]["rank"] = 4.into();
    let small = world.post("create_model", small).await.ok()["model_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let refused = world
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
    let deleted = world.delete(&route).await;
    assert_eq!((deleted.status, deleted.raw.body.len()), (204, 0));
    assert_eq!(world.delete(&route).await.status, 404);
    assert_eq!(
        world
            .post("weights_info", json!({ "tinker_path": path }))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn samplers_of_every_kind_are_described_and_sampled_from() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let save = world
        .post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 1, "path": "s" }),
        )
        .await
        .id();
    let path = world.result(&save).await["path"]
        .as_str()
        .unwrap()
        .to_owned();
    for (number, field, value) in [(0, "base_model", BASE), (1, "model_path", path.as_str())] {
        let mut body = json!({ "session_id": session, "sampling_session_seq_id": number });
        body[field] = value.into();
        let id = world.post("create_sampling_session", body).await.ok();
        let id = id["sampling_session_id"].as_str().unwrap().to_owned();
        let info = world.get(&format!("samplers/{id}")).await.ok();
        assert_eq!(
            (&info["sampler_id"], &info["base_model"]),
            (&json!(id), &json!(BASE))
        );
        assert_eq!(
            info["model_path"].as_str(),
            (field == "model_path").then_some(value)
        );
        let promise = world.post("asample", sample(&id, 0)).await.id();
        assert!(world.result(&promise).await["sequences"].is_array());
        // Without a sampler, and so without a number: each is a request of its own.
        let mut loose = sample(&id, 0);
        loose.as_object_mut().unwrap().remove("sampling_session_id");
        loose[field] = value.into();
        let first = world.post("asample", loose.clone()).await.id();
        assert_ne!(world.post("asample", loose).await.id(), first);
    }
    assert_eq!(world.engine.counts().samples, 6);
    // A sampler of weights that were deleted says so.
    world
        .delete(&format!(
            "training_runs/{model}/checkpoints/sampler_weights/s"
        ))
        .await;
    let gone = world
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
async fn an_unloaded_model_runs_accepted_requests_and_refuses_others() {
    let world = world();
    let model = world.model().await;
    let early = world.post("optim_step", step(&model, 2)).await.id();
    let unload = world
        .post("unload_model", json!({ "model_id": model }))
        .await
        .id();
    assert_eq!(world.result(&unload).await["model_id"], model);
    let told = world.result(&early).await["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        told.contains("was unloaded; the request was not run"),
        "{told}"
    );
    let refused = world.post("optim_step", step(&model, 1)).await;
    assert_eq!(
        (refused.status, refused.reason().contains("was unloaded")),
        (410, true)
    );
    assert_eq!(world.engine.counts().unloaded, 1);
}
