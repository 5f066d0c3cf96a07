//! The dialect `hatchery`, with the requests of hatchery-client 0.2.0, and the routes that it and the dialect `twinkle` lack.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, LocalConfig, Route, Script};

use super::support::{BASE, TestServer, datum, run_until_idle, test_server_with};
use super::{dialect_server, error_body, status_and_body};

fn hatchery() -> TestServer {
    let mut config = LocalConfig::default();
    config.set_hatchery();
    // This client sends its key as a token.
    config.access = config.access.with_bearer_only();
    test_server_with(config, Script::default())
}

impl TestServer {
    async fn post_with_token(&self, route: &str, body: Value) -> Value {
        let path = format!("/api/v1/{route}");
        let token = [("authorization", "Bearer tml-any")];
        let response = self.send(Method::POST, &path, body.to_string(), &token);
        response.await.ok()
    }

    /// Submits a request, and returns the result of the operation.
    async fn run(&self, route: &str, body: Value) -> Value {
        let promise = self.post_with_token(route, body).await;
        run_until_idle().await;
        let poll = json!({ "request_id": promise["request_id"], "allow_metadata_only": true });
        self.post_with_token("retrieve_future", poll).await
    }
}

fn sample(named: &str, id: &str) -> Value {
    json!({
        named: id,
        "seq_id": 1,
        "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [1, 2] }] },
        "num_samples": 1,
        "sampling_params": {
            "max_tokens": 3, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": null, "stop": []
        },
        "prompt_logprobs": true,
    })
}

#[tokio::test]
async fn hatchery_requires_a_key_and_reports_failures_with_a_type() {
    let server = hatchery();
    let body = json!({ "tags": [], "user_metadata": {} });
    assert_eq!(
        server.post("create_session", body.clone()).await.status,
        401
    );
    let session = server.post_with_token("create_session", body).await;
    let model = json!({ "session_id": session["session_id"], "base_model": BASE });
    let model = server.run("create_model", model).await;
    let step = json!({ "model_id": model["model_id"], "seq_id": 1, "adam_params": { "learning_rate": 0.1 } });
    let failed = server.run("optim_step", step).await;
    let expected = json!({
        "type": "request_failed",
        "error": "optim_step called with no accumulated grads",
        "category": "user_error",
    });
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn requests_of_hatchery_client_are_accepted() {
    let server = hatchery();
    let session = json!({ "tags": [], "user_metadata": {} });
    let session = server.post_with_token("create_session", session).await;
    let lora = json!({ "rank": 8, "train_attn": true, "train_mlp": true, "train_unembed": false });
    let model =
        json!({ "session_id": session["session_id"], "base_model": BASE, "lora_config": lora });
    // This client takes the model id from the first response, and does not poll.
    let model = server.post_with_token("create_model", model).await;
    let model = model["model_id"].as_str().expect("a model id").to_owned();
    for (seq_id, route) in ["forward_backward", "forward_only", "forward"]
        .iter()
        .enumerate()
    {
        let input = json!({ "data": [datum()], "loss_fn": "cross_entropy" });
        let body =
            json!({ "model_id": model, "seq_id": seq_id + 1, format!("{route}_input"): input });
        let passed = server.run(route, body).await;
        assert!(
            passed["loss_fn_outputs"][0]["logprobs"].is_object(),
            "{route}: {passed}"
        );
    }
    let adam = json!({
        "learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0
    });
    let step = json!({ "model_id": model, "seq_id": 4, "adam_params": adam });
    assert!(server.run("optim_step", step).await["metrics"].is_object());
    for (seq_id, route) in [(5, "save_weights"), (6, "save_state")] {
        let save = json!({ "model_id": model, "path": route, "seq_id": seq_id });
        let saved = server.run(route, save).await;
        assert_eq!(
            saved["path"],
            format!("tinker://{model}/checkpoints/{route}")
        );
        let load = json!({ "model_id": model, "path": saved["path"], "optimizer": true, "seq_id": seq_id + 5 });
        let loaded = server.run("load_weights", load).await;
        assert_eq!(loaded.get("error"), None, "{loaded}");
    }
    let save = json!({ "model_id": model, "path": "sampler", "seq_id": 20 });
    let saved = server.run("save_weights_for_sampler", save).await;
    let path = saved["path"].as_str().expect("a path");
    // This client takes the first segment of the path for the id of a sampler.
    let segment = path.trim_start_matches("tinker://").split('/').next();
    assert_eq!(segment, Some(model.as_str()));
    for named in ["sampling_session_id", "model_id"] {
        let sampled = server.run("asample", sample(named, &model)).await;
        assert_eq!(
            sampled["sequences"][0]["tokens"].as_array().map(Vec::len),
            Some(3),
            "{sampled}"
        );
        assert_eq!(sampled["prompt_logprobs"].as_array().map(Vec::len), Some(2));
    }
    let sampler = server
        .run("create_sampling_session", json!({ "base_model": BASE }))
        .await;
    assert!(sampler["model_id"].is_string(), "{sampler}");
    let sampler = sampler["sampling_session_id"].as_str().expect("a sampler");
    let sampled = server
        .run("asample", sample("sampling_session_id", sampler))
        .await;
    assert!(sampled["sequences"][0]["tokens"].is_array(), "{sampled}");
}

#[tokio::test]
async fn small_servers_cannot_manage_checkpoints_and_sessions() {
    let absent = [
        Route::DeleteCheckpoint,
        Route::DeleteEscapedCheckpoint,
        Route::PublishCheckpoint,
        Route::CheckpointTtl,
        Route::CopyWeights,
        Route::SearchCheckpoints,
        Route::SearchSessions,
        Route::SessionProject,
    ];
    for dialect in [Dialect::hatchery(), Dialect::twinkle()] {
        let server = dialect_server(dialect);
        for route in absent {
            let method = Method::from_bytes(route.method().as_bytes()).expect("a method");
            let segments = route.path().split('/').map(|segment| match segment {
                "{kind}" => "weights",
                id if id.starts_with('{') => "a",
                other => other,
            });
            let path = segments.collect::<Vec<_>>().join("/");
            let key = [("x-api-key", "tml-any")];
            let response = server.send(method, &path, "{}", &key).await;
            let expected = error_body(404, "Not Found");
            assert_eq!(status_and_body(&response), expected, "{route:?}");
        }
    }
}
