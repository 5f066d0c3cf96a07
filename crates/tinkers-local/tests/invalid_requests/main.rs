//! Invalid requests. Each is refused with a definite status and an error text that names the field.

mod case;
mod creations;
mod passes;
mod samples;
mod saves;
#[path = "../support/mod.rs"]
mod support;

use http::Method;
use serde_json::json;

use case::Case;
use creations::creations;
use passes::passes;
use samples::samples;
use saves::steps_and_saves;
use support::{TestServer, backward, test_server};

#[tokio::test]
async fn invalid_request_error_names_the_field_and_no_engine_job_runs() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
    let sampler = server.call("create_sampling_session", sampler).await;
    let sampler = sampler["sampling_session_id"].as_str().unwrap();
    let before = server.engine.counts();
    let cases = [
        passes(&model),
        steps_and_saves(&model),
        creations(&session),
        samples(sampler),
    ];
    for Case {
        route,
        body,
        status,
        expected,
    } in cases.into_iter().flatten()
    {
        let response = server.post(route, body.clone()).await;
        let short: String = body.to_string().chars().take(400).collect();
        assert_eq!(
            response.status, status,
            "{route} {short}: {}",
            response.body
        );
        let reason = response.reason();
        assert!(reason.contains(expected), "{route} {short}: {reason}");
    }
    assert_eq!(server.engine.counts(), before);
    // The first sequence number of the model is still unused.
    let id = server.submit("forward_backward", backward(&model, 1)).await;
    assert!(server.result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn invalid_json_is_400_and_unknown_routes_are_404_or_405() {
    let server = test_server();
    for body in ["", "{", "nonsense", "\u{0}"] {
        let response = server
            .send(Method::POST, "/api/v1/create_session", body, &[])
            .await;
        assert_eq!(response.status, 400, "{body}");
        response.assert_reason("not JSON");
    }
    let proto = [("content-type", "application/x-protobuf")];
    let response = server
        .send(
            Method::POST,
            "/api/v1/forward_backward",
            vec![0xff; 9],
            &proto,
        )
        .await;
    assert_eq!(
        (response.status, response.reason().contains("protobuf")),
        (400, true),
        "{}",
        response.reason()
    );
    let response = server
        .send(Method::POST, "/api/v1/forward", vec![0xff; 9], &proto)
        .await;
    assert_eq!(response.status, 415);
    let packed = [("content-encoding", "gzip")];
    assert_eq!(
        server
            .send(Method::POST, "/api/v1/telemetry", "x", &packed)
            .await
            .status,
        415
    );
    for path in [
        "/",
        "/api/v1/",
        "/api/v1/nope",
        "/api/v2/healthz",
        "/api/v1/sessions/a/b/c",
        "/api/v1/sessions/search/x",
        "/api/v1/billing",
        "/api/v1/training_runs/a/checkpoints/w/archive",
        "/api/v1/training_runs/a/checkpoints/weights%2Fw/ttl",
        "/api/v1/training_runs/a/checkpoints/weights/w/archive",
        "/api/v1/billing/usage",
        "/traces",
        "",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let response = server.send(method, path, "", &[]).await;
            assert_eq!(response.status, 404, "{path}");
            response.assert_reason("no route");
        }
    }
    for (method, path, allow) in [
        (Method::GET, "asample", "POST"),
        (Method::POST, "healthz", "GET"),
        (
            Method::PUT,
            "training_runs/a/checkpoints/weights/b",
            "DELETE",
        ),
        (Method::DELETE, "sessions/a", "GET"),
    ] {
        let response = server
            .send(method, &format!("/api/v1/{path}"), "", &[])
            .await;
        assert_eq!(response.status, 405, "{path}");
        assert_eq!(response.raw.header("allow"), Some(allow), "{path}");
    }
}

#[tokio::test]
async fn requests_for_unknown_ids_in_listings_return_404() {
    let server = test_server();
    let model = server.create_model().await;
    for (path, status, expected) in [
        ("training_runs?limit=x", 422, "limit: "),
        ("checkpoints?offset=-1", 422, "offset: "),
        ("training_runs/nope", 404, "no training run \"nope\""),
        (
            "training_runs/nope/checkpoints",
            404,
            "no training run \"nope\"",
        ),
        ("sessions/nope", 404, "no session \"nope\""),
        ("samplers/nope", 404, "no sampling session \"nope\""),
    ] {
        let response = server.get(path).await;
        assert_eq!(response.status, status, "{path}");
        assert!(
            response.reason().contains(expected),
            "{path}: {}",
            response.reason()
        );
    }
    let missing = server
        .delete(&format!("training_runs/{model}/checkpoints/weights/x"))
        .await;
    assert_eq!(missing.status, 404);
    for (bad, status) in [("other/x", 404), ("weights", 400)] {
        let path = format!("training_runs/{model}/checkpoints/{bad}");
        assert_eq!(server.delete(&path).await.status, status, "{bad}");
    }
}

#[tokio::test]
async fn decompressed_body_size_is_limited() {
    let mut config = tinkers_local::LocalConfig::default();
    config.max_body = 10_000;
    let server: TestServer = support::test_server_with(config, tinkers_local::Script::default());
    let long = format!("{{\"events\": [{:?}]}}", "x".repeat(20_000));
    let packed = zstd::encode_all(long.as_bytes(), 3).unwrap();
    assert!(packed.len() < 1000);
    let response = server
        .send(
            Method::POST,
            "/api/v1/telemetry",
            packed,
            &[("content-encoding", "zstd")],
        )
        .await;
    assert_eq!(
        (response.status, response.reason().contains("10000 bytes")),
        (413, true),
        "{}",
        response.reason()
    );
    assert_eq!(
        server
            .send(Method::POST, "/api/v1/telemetry", long, &[])
            .await
            .status,
        413
    );
}

#[tokio::test]
async fn saving_over_an_existing_checkpoint_requires_overwrite() {
    let server = test_server();
    let model = server.create_model().await;
    let save = |seq_id: u64, overwrite: bool| json!({ "model_id": model, "seq_id": seq_id, "path": "x", "overwrite": overwrite });
    server.submit("save_weights", save(1, false)).await;
    let taken = server.submit("save_weights", save(2, false)).await;
    let result = server.result(&taken).await;
    let reason = result["error"].as_str().unwrap();
    assert!(reason.contains("weights/x exists"), "{result}");
    // A retry of the first save counts as the same save.
    assert_eq!(
        server.post("save_weights", save(1, false)).await.status,
        200
    );
    let id = server.submit("save_weights", save(3, true)).await;
    assert!(server.result(&id).await["path"].is_string());
    assert_eq!(server.engine.counts().saves, 2);
    // Names of sampler weights and of training checkpoints do not conflict.
    let id = server
        .submit(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 4, "path": "x" }),
        )
        .await;
    assert!(server.result(&id).await["path"].is_string());
}

#[tokio::test]
async fn oversized_sparse_tensors_are_refused() {
    let server = test_server();
    let model = server.create_model().await;
    // Each tensor has a million cells, but its encoding has only a few thousand numbers.
    let datum = json!({
        "model_input": { "chunks": [{ "type": "encoded_text", "tokens": vec![1; 4096] }] },
        "loss_fn_inputs": {
            "target_tokens": {
                "data": [], "dtype": "int64", "shape": [4096, 256],
                "sparse_crow_indices": vec![0; 4097], "sparse_col_indices": [],
            },
        },
    });
    let pass = |seq_id: u64, data: usize| {
        let mut body = backward(&model, seq_id);
        body["forward_backward_input"]["data"] = json!(vec![datum.clone(); data]);
        body
    };
    server.submit("forward_backward", pass(1, 32)).await;
    let refused = server.post("forward_backward", pass(2, 33)).await;
    assert_eq!(refused.status, 422);
    let reason = refused.reason();
    assert!(
        reason.contains("data.32.loss_fn_inputs.target_tokens: expected sparse tensors of at most"),
        "{reason}"
    );
}
