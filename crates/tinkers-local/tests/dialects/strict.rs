//! `json-strict`: what it does not know is refused, and no document says so.

use serde_json::{Value, json};
use tinkers_local::Dialect;

use super::support::{World, backward, create_model, sample, step};
use super::{ASK_PROTOBUF, extra, kind, refused, said, speaks};

fn strict() -> World {
    speaks(Dialect::json_strict())
}

#[tokio::test]
async fn a_pass_in_protobuf_is_not_read() {
    let world = strict();
    let model = world.model().await;
    assert_eq!(
        said(&world.proto_pass(&model, 1).await),
        refused(415, "forward_backward takes application/json")
    );
    // Nothing was applied: the number is free.
    world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert_eq!(world.engine.counts().backwards, 1);
}

#[tokio::test]
async fn passes_and_samples_come_in_protobuf_whatever_is_asked_for() {
    let world = strict();
    let model = world.model().await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let step = world.post("optim_step", step(&model, 2)).await.id();
    let save = json!({ "model_id": model, "seq_id": 3, "sampling_session_seq_id": 0, "type": "save_weights_for_sampler" });
    let save = world.post("save_weights_for_sampler", save).await.id();
    let sampler = world.result(&save).await["sampling_session_id"].clone();
    let sampled = sample(sampler.as_str().unwrap(), 0);
    let sampled = world.post("asample", sampled).await.id();
    for (id, expected) in [
        (pass, "application/x-protobuf"),
        (sampled, "application/x-protobuf"),
        (step, "application/json"),
    ] {
        let json = [("accept", "application/json")];
        for headers in [&json[..], &[ASK_PROTOBUF], &[]] {
            assert_eq!(
                kind(&world.ask(&id, headers).await),
                expected,
                "{headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn each_field_that_came_after_0_25_is_refused_by_name() {
    let world = strict();
    let session = world.session().await;
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    let create = create_model(&session, 0);
    let ask = || sample("nobody:sample:0", 0);
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
            with(ask(), "topk_sample_logprobs", 0.into()),
            json!(["body", "topk_sample_logprobs"]),
        ),
        (
            "asample",
            with(ask(), "record_stability_info", false.into()),
            json!(["body", "record_stability_info"]),
        ),
        (
            "asample",
            with(ask(), "prompt_alt_tokens_k", 0.into()),
            json!(["body", "prompt_alt_tokens_k"]),
        ),
        (
            "asample",
            with(ask(), "prompt_logprobs_last_n", 1.into()),
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
        let got = world.post(route, body).await;
        assert_eq!(said(&got), refused(422, json!([extra(loc)])), "{route}");
    }
    let two = with(with(ask(), "a", 1.into()), "b", 2.into());
    assert_eq!(
        said(&world.post("asample", two).await),
        refused(
            422,
            json!([extra(json!(["body", "a"])), extra(json!(["body", "b"]))])
        )
    );
    // What SDK 0.25 sends is taken.
    world
        .post("create_model", with(create, "type", "create_model".into()))
        .await
        .id();
    let malformed = world
        .send(http::Method::POST, "/api/v1/create_model", "{", &[])
        .await;
    assert_eq!(malformed.status, 400);
}

#[tokio::test]
async fn the_official_dialect_takes_the_same_fields() {
    let world = speaks(Dialect::tinker());
    let mut create = create_model(&world.session().await, 0);
    create["optimizer_config"] = json!({ "type": "adamw" });
    create["tomorrow"] = 1.into();
    world.post("create_model", create).await.id();
}
