//! Invalid requests for sessions, models, samplers and polls.

use serde_json::{Value, json};

use crate::case::{Case, case, with, without};
use crate::support::create_model;

pub(crate) fn creations(session: &str) -> Vec<Case> {
    let model = || create_model(session, 9);
    let none =
        json!({ "rank": 4, "train_attn": false, "train_mlp": false, "train_unembed": false });
    let sampler = |fields: Value| {
        let mut body = json!({ "session_id": session, "sampling_session_seq_id": 9 });
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        body
    };
    vec![
        case(
            "create_model",
            with(model(), "/base_model", json!("gpt")),
            404,
            "no base_model \"gpt\" on this server; it has tinkers/scripted",
        ),
        case(
            "create_model",
            with(model(), "/lora_config/rank", json!(0)),
            422,
            "lora_config.rank: expected at least 1",
        ),
        case(
            "create_model",
            with(model(), "/lora_config/rank", json!(129)),
            422,
            "lora_config.rank: expected at most 128",
        ),
        case(
            "create_model",
            with(model(), "/lora_config", none),
            422,
            "lora_config.train_attn: ",
        ),
        case(
            "create_model",
            with(model(), "/lora_config/alpha", json!(16)),
            422,
            "lora_config.alpha: expected one of rank, seed, ",
        ),
        case(
            "create_model",
            with(
                model(),
                "/optimizer_config",
                json!({ "type": "adamw", "beta3": 0.9 }),
            ),
            422,
            "optimizer_config.beta3: expected nothing",
        ),
        case(
            "create_model",
            without(model(), "base_model"),
            422,
            "base_model: missing",
        ),
        case(
            "create_model",
            with(model(), "/optimizer_config", json!({ "type": "dimuon" })),
            422,
            "optimizer_config.type: expected adamw",
        ),
        case(
            "create_model",
            with(model(), "/session_id", json!("nope")),
            404,
            "no session \"nope\"",
        ),
        case(
            "create_session",
            json!({ "tags": 1, "sdk_version": "0" }),
            422,
            "tags: ",
        ),
        case(
            "create_session",
            json!({ "sdk_version": 1 }),
            422,
            "sdk_version: ",
        ),
        case(
            "client/dynamic_config",
            json!({ "sdk_version": 1 }),
            422,
            "sdk_version: ",
        ),
        case("session_heartbeat", json!({}), 422, "session_id: missing"),
        case("telemetry", json!({ "events": 1 }), 422, "events: "),
        case(
            "create_sampling_session",
            sampler(json!({})),
            422,
            "base_model: ",
        ),
        case(
            "create_sampling_session",
            sampler(json!({ "base_model": "gpt" })),
            404,
            "no base_model \"gpt\"",
        ),
        case(
            "create_sampling_session",
            sampler(json!({ "model_path": "x" })),
            422,
            "model_path: ",
        ),
        case(
            "create_sampling_session",
            sampler(json!({ "model_path": "tinker://m/weights/x" })),
            404,
            "no checkpoint",
        ),
        case(
            "retrieve_future",
            json!({ "request_id": 7 }),
            422,
            "request_id: ",
        ),
        case("retrieve_future", json!({}), 422, "request_id: missing"),
        case(
            "retrieve_future",
            json!({ "request_id": "7" }),
            404,
            "no request 7",
        ),
        case("retrieve_future", json!([]), 422, ""),
    ]
}
