//! Invalid `forward` and `forward_backward` requests.

use serde_json::{Value, json};

use crate::case::{Case, case, with, without};
use crate::support::backward;

const DATA: &str = "/forward_backward_input/data";
const FIRST: &str = "/forward_backward_input/data/0";

pub(crate) fn passes(model: &str) -> Vec<Case> {
    let pass = || backward(model, 1);
    let at = |tail: &str, value: Value| with(pass(), &format!("{FIRST}{tail}"), value);
    let route = "forward_backward";
    let inputs = "/loss_fn_inputs";
    let tensor = |data: Value, dtype: &str| json!({ "data": data, "dtype": dtype });
    let image =
        json!({ "type": "image", "data": "iVBORw==", "format": "png", "expected_tokens": 3 });
    let text = json!({ "type": "encoded_text", "tokens": [1, 2, 256] });
    let sparse = json!({ "data": [], "dtype": "float32", "shape": [3, 1_000_000_000], "sparse_crow_indices": [0, 0, 0, 0], "sparse_col_indices": [] });
    let unread = |name: &str| {
        at(
            &format!("{inputs}/{name}"),
            tensor(json!([0.0, 0.0, 0.0]), "float32"),
        )
    };
    let policy = |loss: &str| {
        let mut body = unread("logprobs");
        body["forward_backward_input"]["data"][0]["loss_fn_inputs"]["advantages"] =
            tensor(json!([1.0, 1.0, 1.0]), "float32");
        body["forward_backward_input"]["loss_fn"] = json!(loss);
        body
    };
    let policies = ["importance_sampling", "ppo", "cispo", "dro"].map(|loss| {
        case(
            route,
            policy(loss),
            422,
            "data.0.loss_fn_inputs.weights: expected an input of ",
        )
    });
    let crossed = ["mask", "weight", "logprobs", "clip_low_threshold"].map(|name| {
        case(
            route,
            unread(name),
            422,
            "expected an input of cross_entropy: target_tokens, weights",
        )
    });
    vec![
        case(
            route,
            at("/note", json!(1)),
            422,
            "forward_backward_input.data.0.note: expected one of model_input, ",
        ),
        case(
            route,
            at(&format!("{inputs}/weights/scale"), json!(2)),
            422,
            "data.0.loss_fn_inputs.weights.scale: expected one of data, dtype, ",
        ),
        case(
            route,
            with(
                pass(),
                "/forward_backward_input/loss_fn_config",
                json!({ "beta": 0.1 }),
            ),
            422,
            "loss_fn_config.beta: expected nothing, cross_entropy has no options",
        ),
        case(
            route,
            with(pass(), DATA, json!([])),
            422,
            "forward_backward_input.data: ",
        ),
        case(
            route,
            with(pass(), DATA, Value::Null),
            422,
            "forward_backward_input.data: ",
        ),
        case(
            route,
            with(
                pass(),
                "/forward_backward_input/loss_fn",
                json!("cross_entrpy"),
            ),
            422,
            "loss_fn: expected one of cross_entropy, ",
        ),
        case(
            route,
            with(pass(), "/forward_backward_input/loss_fn", json!("ppo")),
            422,
            "data.0.loss_fn_inputs.logprobs: ",
        ),
        case(
            route,
            with(
                pass(),
                "/forward_backward_input/loss_fn_config",
                json!({ "a": null }),
            ),
            422,
            "loss_fn_config.a: ",
        ),
        case(
            route,
            at(inputs, json!({})),
            422,
            "data.0.loss_fn_inputs.target_tokens: ",
        ),
        case(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2, 3]), "int64"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected 3 rows",
        ),
        case(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2, 3, 256]), "int64"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected token ids below 256",
        ),
        case(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2.0, 3.0, 4.0]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected int64",
        ),
        case(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2.5, 3, 4]), "int64"),
            ),
            422,
            "loss_fn_inputs.target_tokens",
        ),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                tensor(json!([1, 2]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected 3 rows",
        ),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                tensor(json!([1, null, 2]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.weights.data: expected finite",
        ),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                json!({ "data": [1, 2, 3], "dtype": "float32", "shape": [2] }),
            ),
            422,
            "data.0.loss_fn_inputs.weights.shape: ",
        ),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                json!({ "data": [1, 2, 3], "dtype": "float32", "shape": [3, 1, 1] }),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected one or two",
        ),
        case(
            route,
            at(&format!("{inputs}/weights"), sparse),
            422,
            "data.0.loss_fn_inputs.weights: expected one or two",
        ),
        case(
            route,
            at(&format!("{inputs}/weights"), tensor(json!([1]), "float16")),
            422,
            "loss_fn_inputs.weights",
        ),
        case(
            route,
            at("/model_input/chunks", json!([])),
            422,
            "data.0.model_input.chunks: ",
        ),
        case(
            route,
            at("/model_input/chunks/0", image),
            422,
            "data.0.model_input.chunks.0.type: expected encoded_text",
        ),
        case(
            route,
            at("/model_input/chunks/0", json!({ "type": "smell" })),
            422,
            "data.0.model_input.chunks.0.type: ",
        ),
        case(
            route,
            at("/model_input/chunks/0", text),
            422,
            "data.0.model_input.chunks.0.tokens: expected token ids below 256",
        ),
        case(
            route,
            at("/model_input/chunks/0/tokens", json!([-1])),
            422,
            "data.0.model_input.chunks.0",
        ),
        case(
            route,
            at("/model_input/chunks/0/tokens", json!(vec![1; 4097])),
            422,
            "data.0.model_input",
        ),
        case(route, with(pass(), "/seq_id", json!(-1)), 422, "seq_id: "),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                tensor(json!([1, 2, 3]), "int64"),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected float32 data, got int64",
        ),
        case(
            route,
            at(
                &format!("{inputs}/weights"),
                json!({ "data": [1, 1, 1, 1, 1, 1], "dtype": "float32", "shape": [3, 2] }),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected the shape of target_tokens, [3], got [3, 2]",
        ),
        case(
            route,
            with(pass(), "/model_id", json!("nope")),
            404,
            "no model \"nope\"",
        ),
        case(route, without(pass(), "model_id"), 422, "model_id: missing"),
        case(
            route,
            without(pass(), "forward_backward_input"),
            422,
            "forward_backward_input: missing",
        ),
        case("forward", pass(), 422, "forward_input: missing"),
    ]
    .into_iter()
    .chain(losses(model))
    .chain(policies)
    .chain(crossed)
    .collect()
}

/// Returns forward-backward requests with unknown loss functions, or with unknown or invalid options of known loss functions.
fn losses(model: &str) -> Vec<Case> {
    let pass = |loss: &str, config: Value| {
        let mut body = backward(model, 1);
        for name in ["logprobs", "advantages"] {
            body["forward_backward_input"]["data"][0]["loss_fn_inputs"][name] =
                json!({ "data": [-1.0, -1.0, -1.0], "dtype": "float32" });
        }
        body["forward_backward_input"]["loss_fn"] = loss.into();
        body["forward_backward_input"]["loss_fn_config"] = config;
        body
    };
    let route = "forward_backward";
    vec![
        case(
            route,
            pass("gspo", json!({})),
            422,
            "loss_fn: expected one of cross_entropy, ",
        ),
        case(
            route,
            pass("custom", json!({ "loss_id": "x" })),
            422,
            "loss_fn: expected one of ",
        ),
        case(
            route,
            pass("cross_entropy", json!({ "beta": 1 })),
            422,
            "loss_fn_config.beta: expected nothing, cross_entropy has no options",
        ),
        case(
            route,
            pass("ppo", json!({ "clip_hi_threshold": 1 })),
            422,
            "loss_fn_config.clip_hi_threshold: expected an option of ppo: clip_low_threshold, ",
        ),
        case(
            route,
            pass("ppo", json!({ "clip_low_threshold": 1.3 })),
            422,
            "loss_fn_config.clip_low_threshold: expected at most clip_high_threshold, 1.2, got 1.3",
        ),
        case(
            route,
            pass("dro", json!({ "beta": "much" })),
            422,
            "loss_fn_config.beta: expected a number, got the text \"much\"",
        ),
        case(
            route,
            pass("dro", json!({ "beta": 1e300 })),
            422,
            "loss_fn_config.beta: expected a number that fits 32 bits",
        ),
    ]
}
