//! What may be left out of a request, and null for it.

mod support;

use serde_json::{Value, json};
use support::{BASE, create_model, datum, world};

/// `body` with null for each of `names`.
fn with_nulls(mut body: Value, names: &[&str]) -> Value {
    for name in names {
        body[*name] = Value::Null;
    }
    body
}

#[tokio::test]
async fn nulls_and_absent_fields_are_the_same() {
    let world = world();
    for body in [
        json!({}),
        with_nulls(
            json!({}),
            &[
                "tags",
                "user_metadata",
                "sdk_version",
                "project_id",
                "display_name",
            ],
        ),
    ] {
        world.post("create_session", body).await.ok();
    }
    for route in ["client/config", "client/dynamic_config"] {
        world.post(route, json!({})).await.ok();
        world.post(route, json!({ "sdk_version": null })).await.ok();
    }
    world
        .post(
            "telemetry",
            with_nulls(json!({}), &["events", "session_id"]),
        )
        .await
        .ok();
    let session = world.session().await;
    // Without a number each creation is another one.
    let model = json!({ "session_id": session, "base_model": BASE });
    let nulls = [
        "model_seq_id",
        "lora_config",
        "user_metadata",
        "optimizer_config",
    ];
    let mut models = Vec::new();
    for body in [
        model.clone(),
        with_nulls(model, &nulls),
        json!({ "session_id": session, "base_model": BASE, "lora_config": { "rank": null, "seed": null, "train_mlp": null } }),
    ] {
        let id = world.post("create_model", body).await.id();
        models.push(world.ended(&id).await["model_id"].clone());
    }
    let expected = [0, 1, 2].map(|number| json!(format!("{session}:train:{number}")));
    assert_eq!(models, expected);
    let model = models[0].as_str().expect("an id");
    assert_eq!(
        world
            .post("get_info", json!({ "model_id": model }))
            .await
            .ok()["lora_rank"],
        32
    );
    let adam = with_nulls(
        json!({ "learning_rate": 0.1 }),
        &["beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"],
    );
    let body = json!({ "model_id": model, "seq_id": null, "adam_params": adam });
    let id = world.post("optim_step", body).await.id();
    assert!(world.ended(&id).await["metrics"].is_object());
    let input = json!({ "data": [with_nulls(datum(), &["model_input_spans", "loss_fn_input_spans"])], "loss_fn": "cross_entropy", "loss_fn_config": null });
    for (route, field) in [
        ("forward", "forward_input"),
        ("forward_backward", "forward_backward_input"),
    ] {
        let body = json!({ "model_id": model, "seq_id": null, field: input });
        let id = world.post(route, body).await.id();
        assert!(world.ended(&id).await["metrics"].is_object());
    }
    let sampler = json!({ "session_id": session, "base_model": BASE });
    for number in 0..2 {
        let body = with_nulls(sampler.clone(), &["sampling_session_seq_id", "model_path"]);
        let made = world.post("create_sampling_session", body).await.ok();
        assert_eq!(
            made["sampling_session_id"],
            format!("{session}:sample:{number}")
        );
    }
    let nulls = [
        "num_samples",
        "sampling_params",
        "sampling_session_id",
        "seq_id",
        "model_path",
        "prompt_logprobs",
        "topk_prompt_logprobs",
        "topk_sample_logprobs",
        "target_prompt_logprobs",
        "prompt_alt_tokens_k",
        "prompt_logprobs_last_n",
        "record_stability_info",
    ];
    let prompt = json!({ "chunks": [{ "type": null, "tokens": [1] }] });
    let sample = with_nulls(json!({ "base_model": BASE, "prompt": prompt }), &nulls);
    let id = world.post("asample", sample).await.id();
    let poll = json!({ "request_id": id, "allow_metadata_only": null });
    assert!(world.post("retrieve_future", poll).await.ok()["sequences"].is_array());
    let target = json!({ "type": null, "sampling_session_id": format!("{session}:sample:0"), "cloned_sampler_id": null });
    let poll = json!({ "target": target, "prev_cursor": null, "timeout": 0, "retrieved_request_ids": null });
    world.post("retrieve_futures", poll).await.ok();
    let end = format!("sessions/{session}/finish");
    world
        .post(&end, json!({ "reason": null, "detail": null }))
        .await
        .ok();
    world.post(&end, json!({})).await.ok();
}

#[tokio::test]
async fn a_tensor_without_dtype_is_read_as_its_input_wants() {
    let world = world();
    let model = world.model().await;
    let mut datum = datum();
    datum["loss_fn_inputs"] = json!({
        "target_tokens": { "data": [2, 3, 4] },
        "weights": { "data": [1, 0, 1], "dtype": null, "shape": null },
    });
    let body = json!({ "model_id": model, "seq_id": 1, "forward_backward_input": { "data": [datum], "loss_fn": "cross_entropy" } });
    let id = world.post("forward_backward", body).await.id();
    assert!(world.ended(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn a_save_without_a_name_gets_one_that_is_free() {
    let world = world();
    let model = world.model().await;
    let save =
        |number: u64, path: Value| json!({ "model_id": model, "seq_id": number, "path": path });
    let mut paths = Vec::new();
    for (number, path) in [
        (1, Value::Null),
        (2, json!("checkpoint-000002")),
        (3, Value::Null),
    ] {
        let id = world.post("save_weights", save(number, path)).await.id();
        paths.push(world.ended(&id).await["path"].clone());
    }
    let path = |name: &str| json!(format!("tinker://{model}/weights/{name}"));
    let expected = [
        "checkpoint-000001",
        "checkpoint-000002",
        "checkpoint-000003",
    ]
    .map(path);
    assert_eq!(paths, expected);
    // The repeat of one is the same save.
    let again = world.post("save_weights", save(3, Value::Null)).await.id();
    assert_eq!(world.ended(&again).await["path"], expected[2]);
    // A sampler's weights without a name are kept in memory.
    let unnamed = json!({ "model_id": model, "seq_id": 4 });
    let id = world.post("save_weights_for_sampler", unnamed).await.id();
    assert!(world.ended(&id).await["sampling_session_id"].is_string());
    assert_eq!(world.engine.counts().saves, 3);
}

#[tokio::test]
async fn a_load_without_optimizer_restores_weights_alone() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a" });
    let id = world.post("save_weights", save).await.id();
    let path = world.ended(&id).await["path"].clone();
    for optimizer in [Value::Null, json!(false)] {
        let body = json!({ "session_id": session, "path": path, "optimizer": optimizer });
        let id = world.post("load_weights", body).await.id();
        assert!(world.ended(&id).await["model_id"].is_string());
    }
    let into = |more: Value| {
        let mut body = json!({ "model_id": model, "seq_id": 2, "path": path });
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("fields").clone());
        body
    };
    for (more, field) in [
        (json!({ "user_metadata": { "a": "b" } }), "user_metadata: "),
        (json!({ "base_model": "other" }), "no base_model"),
        (
            json!({ "optimizer_config": { "type": "dimuon" } }),
            "optimizer_config.type: ",
        ),
    ] {
        let refused = world.post("load_weights", into(more)).await;
        assert!([404, 422].contains(&refused.status));
        assert!(refused.reason().starts_with(field), "{}", refused.reason());
    }
    let harmless =
        json!({ "user_metadata": {}, "base_model": BASE, "optimizer_config": { "type": "adamw" } });
    let id = world.post("load_weights", into(harmless)).await.id();
    assert_eq!(world.ended(&id).await["model_id"], model);
}

#[tokio::test]
async fn runs_are_listed_by_project() {
    let world = world();
    let mut models = Vec::new();
    for project in [json!("a b"), Value::Null] {
        let body = json!({ "sdk_version": "0.38.0", "project_id": project });
        let made = world.post("create_session", body).await.ok();
        let session = made["session_id"].as_str().expect("an id").to_owned();
        let create = world
            .post("create_model", create_model(&session, 0))
            .await
            .id();
        models.push(world.ended(&create).await["model_id"].clone());
    }
    let listed = async |query: &str| {
        let all = world.get(&format!("training_runs?{query}")).await.ok();
        let runs = all["training_runs"].as_array().expect("a list").iter();
        let ids: Vec<Value> = runs.map(|run| run["training_run_id"].clone()).collect();
        assert_eq!(all["cursor"]["total_count"], ids.len());
        ids
    };
    assert_eq!(
        listed("limit=9&project_id=a%20b").await,
        [models[0].clone()]
    );
    assert!(
        listed("project_id=unknown&access_scope=owned")
            .await
            .is_empty()
    );
    assert_eq!(listed("project_id=").await.len(), 2);
}

#[tokio::test]
async fn a_prompt_may_fill_the_context_when_one_token_is_asked_for() {
    let world = world();
    let session = world.session().await;
    let sampler = json!({ "session_id": session, "base_model": BASE });
    let made = world.post("create_sampling_session", sampler).await.ok();
    let sampler = made["sampling_session_id"].as_str().expect("an id");
    let sample = |number: u64, len: usize, max_tokens: u32| {
        json!({
            "sampling_session_id": sampler, "seq_id": number, "prompt_logprobs": true,
            "prompt": { "chunks": [{ "type": "encoded_text", "tokens": vec![1; len] }] },
            "sampling_params": { "max_tokens": max_tokens },
        })
    };
    let id = world.post("asample", sample(1, 4096, 1)).await.id();
    let told = world.ended(&id).await;
    assert_eq!(told["prompt_logprobs"].as_array().map(Vec::len), Some(4096));
    for (len, max_tokens) in [(4096, 2), (4097, 1)] {
        assert_eq!(
            world
                .post("asample", sample(2, len, max_tokens))
                .await
                .status,
            422
        );
    }
}
