//! The dialect `tuft`: protobuf passes, 201 for creations, 422 for failed operations, a mandatory API key.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, EngineError, LocalConfig, Script};

use super::support::{
    BASE, Response, TestServer, backward, create_model, held_server_with, run_until_idle,
    test_server_with,
};
use super::{
    ACCEPT_PROTOBUF, PROTOBUF, config, content_type, dialect_server, error_body, extra, proto_pass,
    status_and_body,
};

const KEY: (&str, &str) = ("x-api-key", "tml-any");

async fn post(server: &TestServer, route: &str, body: Value) -> Response {
    let path = format!("/api/v1/{route}");
    server
        .send(Method::POST, &path, body.to_string(), &[KEY])
        .await
}

async fn create_session(server: &TestServer) -> String {
    let body = json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.25.0", "type": "create_session" });
    let response = post(server, "create_session", body).await;
    assert_eq!(response.status, 201);
    response.body["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tuft_accepts_any_api_key_unless_an_api_key_is_configured() {
    let server = dialect_server(Dialect::tuft());
    let none = server.get("training_runs").await;
    assert_eq!(
        status_and_body(&none),
        error_body(401, "no API key; send it in the header X-API-Key")
    );
    server.get("healthz").await.ok();
    create_session(&server).await;
    let config: LocalConfig = config(Dialect::tuft()).with_api_key("tml-own");
    let server = test_server_with(config, Script::default());
    let response = server
        .send(Method::GET, "/api/v1/training_runs", "", &[KEY])
        .await;
    assert_eq!(
        status_and_body(&response),
        error_body(401, "this API key is not the server's")
    );
}

#[tokio::test]
async fn tuft_client_config_has_no_extension_fields() {
    let server = dialect_server(Dialect::tuft());
    let flags = post(&server, "client/config", json!({ "sdk_version": "0.25.0" })).await;
    let flags = flags.ok();
    assert_eq!(flags["parallel_fwdbwd_chunks"], false);
    for extension in ["server", "deduplicates_seq_ids", "session_expiry_sec"] {
        assert_eq!(flags.get(extension), None, "{extension}");
    }
}

#[tokio::test]
async fn tuft_load_weights_without_a_model_id_is_rejected() {
    let server = dialect_server(Dialect::tuft());
    let body = json!({ "session_id": create_session(&server).await, "model_seq_id": 0, "path": "tinker://m/weights/w", "optimizer": false });
    let response = post(&server, "load_weights", body).await;
    assert_eq!(response.status, 422);
    assert_eq!(
        response.body["detail"][0]["loc"],
        json!(["body", "model_id"])
    );
}

#[tokio::test]
async fn tuft_creations_return_201_and_passes_must_be_protobuf() {
    let server = dialect_server(Dialect::tuft());
    let session = create_session(&server).await;
    let body = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
    let response = post(&server, "create_sampling_session", body.clone()).await;
    let result = json!({ "sampling_session_id": format!("{session}:sample:0") });
    assert_eq!(status_and_body(&response), (201, result.clone()));
    assert_eq!(
        status_and_body(&post(&server, "create_sampling_session", body).await),
        (201, result)
    );
    let created = post(&server, "create_model", create_model(&session, 0)).await;
    let model = created.ok()["model_id"].as_str().unwrap().to_owned();
    let response = post(&server, "forward_backward", backward(&model, 1)).await;
    assert_eq!(
        status_and_body(&response),
        error_body(415, "forward_backward takes application/x-protobuf")
    );
    for (number, content_type_header) in
        [(1, PROTOBUF), (2, ("content-type", "application/protobuf"))]
    {
        let path = "/api/v1/forward_backward";
        let body = proto_pass(&model, number);
        let id = server
            .send(Method::POST, path, body, &[KEY, content_type_header])
            .await
            .id();
        let response = server.poll_with(&id, &[KEY, ACCEPT_PROTOBUF]).await;
        assert_eq!(content_type(&response), "application/x-protobuf");
    }
    let mut create = create_model(&session, 1);
    create["optimizer_config"] = json!({ "type": "adamw" });
    let response = post(&server, "create_model", create).await;
    assert_eq!(
        status_and_body(&response),
        error_body(422, json!([extra(json!(["body", "optimizer_config"]))]))
    );
}

#[tokio::test]
async fn tuft_poll_timeout_returns_try_again_and_failure_returns_422() {
    let (server, held) = held_server_with(config(Dialect::tuft()));
    let session = create_session(&server).await;
    let create = post(&server, "create_model", create_model(&session, 0))
        .await
        .id();
    let clock = server.clock.clone();
    let (response, ()) = tokio::join!(server.poll_with(&create, &[KEY]), async {
        run_until_idle().await;
        clock.advance(std::time::Duration::from_secs(30));
    });
    assert_eq!(
        status_and_body(&response),
        (
            200,
            json!({ "type": "try_again", "request_id": create, "queue_state": "active" })
        )
    );
    held.fail_next(EngineError::server("out of memory"));
    let response = server.poll_with(&create, &[KEY]).await;
    assert_eq!(status_and_body(&response), error_body(422, "out of memory"));
}
