//! Optional fields of requests: absent or null.

mod support;

use serde_json::{Value, json};
use support::{BASE, create_model, datum, test_server};

/// Returns `body` with each field of `names` set to null.
fn with_nulls(mut body: Value, names: &[&str]) -> Value {
    for name in names {
        body[*name] = Value::Null;
    }
    body
}

#[tokio::test]
async fn null_request_fields_are_treated_as_absent() {
    let server = test_server();
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
        server.call("create_session", body).await;
    }
    for route in ["client/config", "client/dynamic_config"] {
        server.call(route, json!({})).await;
        server.call(route, json!({ "sdk_version": null })).await;
    }
    server
        .call(
            "telemetry",
            with_nulls(json!({}), &["events", "session_id"]),
        )
        .await;
    let session = server.create_session().await;
    // Without `model_seq_id` each creation is a new model.
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
        let id = server.submit("create_model", body).await;
        models.push(server.finished_result(&id).await["model_id"].clone());
    }
    let expected = [0, 1, 2].map(|number| json!(format!("{session}:train:{number}")));
    assert_eq!(models, expected);
    let model = models[0].as_str().expect("an id");
    assert_eq!(
        server.call("get_info", json!({ "model_id": model })).await["lora_rank"],
        32
    );
    let adam = with_nulls(
        json!({ "learning_rate": 0.1 }),
        &["beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"],
    );
    let body = json!({ "model_id": model, "seq_id": null, "adam_params": adam });
    let id = server.submit("optim_step", body).await;
    assert!(server.finished_result(&id).await["metrics"].is_object());
    let input = json!({ "data": [with_nulls(datum(), &["model_input_spans", "loss_fn_input_spans"])], "loss_fn": "cross_entropy", "loss_fn_config": null });
    for (route, field) in [
        ("forward", "forward_input"),
        ("forward_backward", "forward_backward_input"),
    ] {
        let body = json!({ "model_id": model, "seq_id": null, field: input });
        let id = server.submit(route, body).await;
        assert!(server.finished_result(&id).await["metrics"].is_object());
    }
    let sampler = json!({ "session_id": session, "base_model": BASE });
    for number in 0..2 {
        let body = with_nulls(sampler.clone(), &["sampling_session_seq_id", "model_path"]);
        let created = server.call("create_sampling_session", body).await;
        assert_eq!(
            created["sampling_session_id"],
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
    let id = server.submit("asample", sample).await;
    let poll = json!({ "request_id": id, "allow_metadata_only": null });
    assert!(server.call("retrieve_future", poll).await["sequences"].is_array());
    let target = json!({ "type": null, "sampling_session_id": format!("{session}:sample:0"), "cloned_sampler_id": null });
    let poll = json!({ "target": target, "prev_cursor": null, "timeout": 0, "retrieved_request_ids": null });
    server.call("retrieve_futures", poll).await;
    let end = format!("sessions/{session}/finish");
    server
        .call(&end, json!({ "reason": null, "detail": null }))
        .await;
    server.call(&end, json!({})).await;
}

#[tokio::test]
async fn tensor_without_dtype_gets_the_dtype_of_its_loss_input() {
    let server = test_server();
    let model = server.create_model().await;
    let mut datum = datum();
    datum["loss_fn_inputs"] = json!({
        "target_tokens": { "data": [2, 3, 4] },
        "weights": { "data": [1, 0, 1], "dtype": null, "shape": null },
    });
    let body = json!({ "model_id": model, "seq_id": 1, "forward_backward_input": { "data": [datum], "loss_fn": "cross_entropy" } });
    let id = server.submit("forward_backward", body).await;
    assert!(server.finished_result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn unnamed_save_gets_an_unused_name() {
    let server = test_server();
    let model = server.create_model().await;
    let save =
        |number: u64, path: Value| json!({ "model_id": model, "seq_id": number, "path": path });
    let mut paths = Vec::new();
    for (number, path) in [
        (1, Value::Null),
        (2, json!("checkpoint-000002")),
        (3, Value::Null),
    ] {
        let id = server.submit("save_weights", save(number, path)).await;
        paths.push(server.finished_result(&id).await["path"].clone());
    }
    let path = |name: &str| json!(format!("tinker://{model}/weights/{name}"));
    let expected = [
        "checkpoint-000001",
        "checkpoint-000002",
        "checkpoint-000003",
    ]
    .map(path);
    assert_eq!(paths, expected);
    // A repeated save without a name keeps the name that the first one got.
    let again = server.submit("save_weights", save(3, Value::Null)).await;
    assert_eq!(server.finished_result(&again).await["path"], expected[2]);
    // Sampler weights without a name are a copy in memory, not a checkpoint.
    let unnamed = json!({ "model_id": model, "seq_id": 4 });
    let id = server.submit("save_weights_for_sampler", unnamed).await;
    assert!(server.finished_result(&id).await["sampling_session_id"].is_string());
    assert_eq!(server.engine.counts().saves, 3);
}

#[tokio::test]
async fn loading_without_optimizer_state_restores_only_weights() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a" });
    let id = server.submit("save_weights", save).await;
    let path = server.finished_result(&id).await["path"].clone();
    for optimizer in [Value::Null, json!(false)] {
        let body = json!({ "session_id": session, "path": path, "optimizer": optimizer });
        let id = server.submit("load_weights", body).await;
        assert!(server.finished_result(&id).await["model_id"].is_string());
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
        (
            json!({ "optimizer_config": { "type": "dimuon" } }),
            "optimizer_config.type: ",
        ),
    ] {
        let refused = server.post("load_weights", into(more)).await;
        assert_eq!(refused.status, 422);
        assert!(refused.reason().starts_with(field), "{}", refused.reason());
    }
    let other = json!({ "base_model": "other" });
    assert_eq!(server.post("load_weights", into(other)).await.status, 404);
    let harmless =
        json!({ "user_metadata": {}, "base_model": BASE, "optimizer_config": { "type": "adamw" } });
    let id = server.submit("load_weights", into(harmless)).await;
    assert_eq!(server.finished_result(&id).await["model_id"], model);
}

#[tokio::test]
async fn training_runs_are_listed_by_project() {
    let server = test_server();
    let mut models = Vec::new();
    for project in [json!("a b"), Value::Null] {
        let body = json!({ "sdk_version": "0.38.0", "project_id": project });
        let created = server.call("create_session", body).await;
        let session = created["session_id"].as_str().expect("an id").to_owned();
        let create = server
            .submit("create_model", create_model(&session, 0))
            .await;
        models.push(server.finished_result(&create).await["model_id"].clone());
    }
    let listed = async |query: &str| {
        let all = server.get(&format!("training_runs?{query}")).await.ok();
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
async fn prompt_may_fill_the_context_if_only_one_token_is_sampled() {
    let server = test_server();
    let session = server.create_session().await;
    let sampler = json!({ "session_id": session, "base_model": BASE });
    let created = server.call("create_sampling_session", sampler).await;
    let sampler = created["sampling_session_id"].as_str().expect("an id");
    let sample = |number: u64, len: usize, max_tokens: u32| {
        json!({
            "sampling_session_id": sampler, "seq_id": number, "prompt_logprobs": true,
            "prompt": { "chunks": [{ "type": "encoded_text", "tokens": vec![1; len] }] },
            "sampling_params": { "max_tokens": max_tokens },
        })
    };
    let id = server.submit("asample", sample(1, 4096, 1)).await;
    let result = server.finished_result(&id).await;
    assert_eq!(
        result["prompt_logprobs"].as_array().map(Vec::len),
        Some(4096)
    );
    for (len, max_tokens) in [(4096, 2), (4097, 1)] {
        assert_eq!(
            server
                .post("asample", sample(2, len, max_tokens))
                .await
                .status,
            422
        );
    }
}
