//! Invalid `optim_step`, save, load and model requests.

use serde_json::{Value, json};

use crate::case::{Case, case, with};
use crate::support::step;

pub(crate) fn steps_and_saves(model: &str) -> Vec<Case> {
    let step =
        |field: &str, value: Value| with(step(model, 1), &format!("/adam_params/{field}"), value);
    let save = |name: Value| json!({ "model_id": model, "seq_id": 1, "path": name });
    let both = json!({ "model_id": model, "path": "x", "sampling_session_seq_id": 1 });
    let load =
        |path: &str| json!({ "model_id": model, "seq_id": 1, "path": path, "optimizer": false });
    vec![
        case(
            "optim_step",
            step("learning_rate", json!(-1)),
            422,
            "adam_params.learning_rate: ",
        ),
        case(
            "optim_step",
            step("learning_rate", Value::Null),
            422,
            "adam_params.learning_rate: ",
        ),
        case(
            "optim_step",
            step("learning_rate", json!("fast")),
            422,
            "adam_params.learning_rate: ",
        ),
        case(
            "optim_step",
            step("beta1", json!(1)),
            422,
            "adam_params.beta1: ",
        ),
        case(
            "optim_step",
            step("beta2", json!(-0.1)),
            422,
            "adam_params.beta2: ",
        ),
        case(
            "optim_step",
            step("eps", json!(-1)),
            422,
            "adam_params.eps: ",
        ),
        case(
            "optim_step",
            step("eps", json!(0)),
            422,
            "adam_params.eps: expected more than 0",
        ),
        case(
            "optim_step",
            step("learning_rate", json!(1e300)),
            422,
            "adam_params.learning_rate: expected a number that fits 32 bits",
        ),
        case(
            "optim_step",
            step("grad_clip_norm", json!(-1)),
            422,
            "adam_params.grad_clip_norm: ",
        ),
        case(
            "optim_step",
            json!({ "model_id": model, "seq_id": 1, "optimizer_params": { "type": "dimuon" } }),
            422,
            "adam_params: missing",
        ),
        case("save_weights", save(json!("a/b")), 422, "path: "),
        case("save_weights", save(json!("")), 422, "path: "),
        case(
            "save_weights",
            save(json!("../../etc/passwd")),
            422,
            "path: ",
        ),
        case(
            "save_weights",
            with(save(json!("x")), "/ttl_seconds", json!(10)),
            422,
            "ttl_seconds: ",
        ),
        case(
            "save_weights",
            with(save(json!("x")), "/user_metadata", json!({ "a": 1 })),
            422,
            "user_metadata.a: ",
        ),
        case(
            "optim_step",
            step("momentum", json!(0.9)),
            422,
            "adam_params.momentum: expected one of learning_rate, beta1, ",
        ),
        case(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 1, "sampling_session_seq_id": 1, "ttl_seconds": 3600 }),
            422,
            "ttl_seconds: expected nothing without a path",
        ),
        case(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 1, "user_metadata": { "a": "b" } }),
            422,
            "user_metadata: expected nothing without a path",
        ),
        case(
            "save_weights_for_sampler",
            both,
            422,
            "path: expected either",
        ),
        case(
            "save_weights_for_sampler",
            json!({ "model_id": model, "sampling_session_seq_id": 1, "kind": "inflight" }),
            422,
            "kind: ",
        ),
        case(
            "save_weights_for_sampler",
            json!({ "model_id": model, "sampling_session_seq_id": 1, "kind": "other" }),
            422,
            "kind: ",
        ),
        case("load_weights", load("weights/x"), 422, "path: "),
        case(
            "load_weights",
            load("tinker://m/sampler_weights/x"),
            422,
            "path: expected training weights",
        ),
        case(
            "load_weights",
            load("tinker://m/weights/x"),
            404,
            "no checkpoint tinker://m/weights/x",
        ),
        case(
            "load_weights",
            json!({ "path": "tinker://m/weights/x", "optimizer": false }),
            422,
            "model_id: expected session_id",
        ),
        case(
            "weights_info",
            json!({ "tinker_path": "m/weights/x" }),
            422,
            "tinker_path: ",
        ),
        case(
            "weights_info",
            json!({ "tinker_path": "tinker://m/weights/x" }),
            404,
            "no checkpoint",
        ),
        case(
            "get_info",
            json!({ "model_id": "nope" }),
            404,
            "no model \"nope\"",
        ),
        case(
            "unload_model",
            json!({ "model_id": "nope" }),
            404,
            "no model \"nope\"",
        ),
    ]
}
