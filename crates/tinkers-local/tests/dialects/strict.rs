//! The dialect `json-strict`, which refuses unknown fields and serves no OpenAPI document.

use serde_json::{Value, json};
use tinkers_local::Dialect;

use super::support::{TestServer, backward, create_model, sample, step};
use super::{ACCEPT_PROTOBUF, content_type, dialect_server, error_body, extra, status_and_body};

fn strict() -> TestServer {
    dialect_server(Dialect::json_strict())
}

#[tokio::test]
async fn strict_dialect_rejects_protobuf_forward_backward_body() {
    let server = strict();
    let model = server.create_model().await;
    assert_eq!(
        status_and_body(&server.proto_pass(&model, 1).await),
        error_body(415, "forward_backward takes application/json")
    );
    // The refused pass did not use up its sequence number.
    server.submit("forward_backward", backward(&model, 1)).await;
    assert_eq!(server.engine.counts().backwards, 1);
}

#[tokio::test]
async fn strict_dialect_sends_protobuf_for_any_accept_header() {
    let server = strict();
    let model = server.create_model().await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let step = server.submit("optim_step", step(&model, 2)).await;
    let save = json!({ "model_id": model, "seq_id": 3, "sampling_session_seq_id": 0, "type": "save_weights_for_sampler" });
    let save = server.submit("save_weights_for_sampler", save).await;
    let sampler = server.result(&save).await["sampling_session_id"].clone();
    let sampled = sample(sampler.as_str().unwrap(), 0);
    let sampled = server.submit("asample", sampled).await;
    for (id, expected) in [
        (pass, "application/x-protobuf"),
        (sampled, "application/x-protobuf"),
        (step, "application/json"),
    ] {
        let json = [("accept", "application/json")];
        for headers in [&json[..], &[ACCEPT_PROTOBUF], &[]] {
            assert_eq!(
                content_type(&server.poll_with(&id, headers).await),
                expected,
                "{headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn strict_dialect_refuses_fields_newer_than_sdk_0_25() {
    let server = strict();
    let session = server.create_session().await;
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    let create = create_model(&session, 0);
    let body = || sample("unknown:sample:0", 0);
    let mut clipped = step("m", 1);
    clipped["adam_params"]["grad_clip_value"] = 1.into();
    let mut deep = backward("m", 1);
    deep["forward_backward_input"]["data"][0]["spans"] = json!([]);
    for (route, body, loc) in [
        (
            "create_model",
            with(
                create.clone(),
                "optimizer_config",
                json!({ "type": "adamw" }),
            ),
            json!(["body", "optimizer_config"]),
        ),
        (
            "asample",
            with(body(), "topk_sample_logprobs", 0.into()),
            json!(["body", "topk_sample_logprobs"]),
        ),
        (
            "asample",
            with(body(), "record_stability_info", false.into()),
            json!(["body", "record_stability_info"]),
        ),
        (
            "asample",
            with(body(), "prompt_alt_tokens_k", 0.into()),
            json!(["body", "prompt_alt_tokens_k"]),
        ),
        (
            "asample",
            with(body(), "prompt_logprobs_last_n", 1.into()),
            json!(["body", "prompt_logprobs_last_n"]),
        ),
        (
            "save_weights_for_sampler",
            json!({ "model_id": "m", "path": "s", "kind": "snapshot" }),
            json!(["body", "kind"]),
        ),
        (
            "save_weights",
            json!({ "model_id": "m", "path": "s", "user_metadata": {} }),
            json!(["body", "user_metadata"]),
        ),
        (
            "optim_step",
            clipped,
            json!(["body", "adam_params", "grad_clip_value"]),
        ),
        (
            "forward_backward",
            deep,
            json!(["body", "forward_backward_input", "data", 0, "spans"]),
        ),
        (
            "create_session",
            json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0", "display_name": "d" }),
            json!(["body", "display_name"]),
        ),
        (
            "retrieve_future",
            json!({ "request_id": "1", "later": 1 }),
            json!(["body", "later"]),
        ),
        (
            "client/config",
            json!({ "sdk_version": "0.38.0", "x": 1 }),
            json!(["body", "x"]),
        ),
    ] {
        let response = server.post(route, body).await;
        assert_eq!(
            status_and_body(&response),
            error_body(422, json!([extra(loc)])),
            "{route}"
        );
    }
    let two = with(with(body(), "a", 1.into()), "b", 2.into());
    assert_eq!(
        status_and_body(&server.post("asample", two).await),
        error_body(
            422,
            json!([extra(json!(["body", "a"])), extra(json!(["body", "b"]))])
        )
    );
    // A body with the fields of SDK 0.25 is accepted.
    server
        .submit("create_model", with(create, "type", "create_model".into()))
        .await;
    let malformed = server
        .send(http::Method::POST, "/api/v1/create_model", "{", &[])
        .await;
    assert_eq!(malformed.status, 400);
}

#[tokio::test]
async fn official_dialect_accepts_fields_newer_than_sdk_0_25() {
    let server = dialect_server(Dialect::tinker());
    let mut create = create_model(&server.create_session().await, 0);
    create["optimizer_config"] = json!({ "type": "adamw" });
    create["tomorrow"] = 1.into();
    server.submit("create_model", create).await;
}
