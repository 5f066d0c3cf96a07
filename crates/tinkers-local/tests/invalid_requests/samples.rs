//! Invalid `asample` requests.

use serde_json::{Value, json};

use crate::case::{Case, case, with, without};
use crate::support::{self, sample};

pub(crate) fn samples(sampler: &str) -> Vec<Case> {
    let at = |pointer: &str, value: Value| {
        case("asample", with(sample(sampler, 1), pointer, value), 422, "")
    };
    let param = |name: &'static str, value: Value, expected: &'static str| Case {
        expected,
        ..at(&format!("/sampling_params/{name}"), value)
    };
    let field = |name: &'static str, value: Value, expected: &'static str| Case {
        expected,
        ..at(&format!("/{name}"), value)
    };
    let targets =
        |data: Value, shape: Value| json!({ "data": data, "dtype": "int64", "shape": shape });
    vec![
        param("max_tokens", json!(0), "sampling_params.max_tokens: "),
        param("max_tokens", json!(-1), "sampling_params.max_tokens: "),
        param(
            "max_tokens",
            json!(4095),
            "sampling_params.max_tokens: expected prompt and max_tokens to fit",
        ),
        param("temperature", json!(-1), "sampling_params.temperature: "),
        param("temperature", json!("hot"), "sampling_params.temperature: "),
        param("top_p", json!(0), "sampling_params.top_p: "),
        param("top_p", json!(1.5), "sampling_params.top_p: "),
        param("top_k", json!(0), "sampling_params.top_k: "),
        param("stop", json!(""), "sampling_params.stop: "),
        param("stop", json!([256]), "sampling_params.stop: "),
        param("stop", json!({}), "sampling_params.stop: "),
        param("seed", json!(-1), "sampling_params.seed: "),
        param(
            "min_p",
            json!(0.1),
            "sampling_params.min_p: expected one of max_tokens, seed, ",
        ),
        field(
            "record_stability_info",
            json!(true),
            "record_stability_info: ",
        ),
        field("num_samples", json!(0), "num_samples: "),
        field(
            "num_samples",
            json!(1025),
            "num_samples: expected at most 1024",
        ),
        field("num_samples", json!(4_294_967_296u64), "num_samples: "),
        field("prompt", json!({ "chunks": [] }), "prompt.chunks: "),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "encoded_text", "tokens": [] }] }),
            "prompt.chunks: ",
        ),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "encoded_text", "tokens": [256] }] }),
            "prompt.chunks.0.tokens: ",
        ),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "dmel", "dmel": "AA==" }] }),
            "prompt.chunks.0.type: ",
        ),
        field("prompt", json!([1, 2]), "prompt"),
        field("topk_prompt_logprobs", json!(257), "topk_prompt_logprobs: "),
        field("topk_sample_logprobs", json!(257), "topk_sample_logprobs: "),
        field("prompt_alt_tokens_k", json!(257), "prompt_alt_tokens_k: "),
        field(
            "prompt_logprobs_last_n",
            json!(1),
            "prompt_logprobs_last_n: ",
        ),
        field(
            "target_prompt_logprobs",
            targets(json!([1, 2]), json!([2, 1])),
            "target_prompt_logprobs: ",
        ),
        field(
            "target_prompt_logprobs",
            targets(json!([256]), json!([1, 1])),
            "target_prompt_logprobs: ",
        ),
        field(
            "base_model",
            json!(support::BASE),
            "sampling_session_id: expected exactly one",
        ),
        case(
            "asample",
            without(sample(sampler, 1), "sampling_session_id"),
            422,
            "sampling_session_id: expected exactly one",
        ),
        case(
            "asample",
            sample("nope", 1),
            404,
            "no sampling session \"nope\"",
        ),
        case(
            "asample",
            with(
                without(sample(sampler, 1), "sampling_session_id"),
                "/base_model",
                json!("gpt"),
            ),
            404,
            "no base_model",
        ),
        case(
            "asample",
            with(
                without(sample(sampler, 1), "sampling_session_id"),
                "/model_path",
                json!("tinker://m/weights/x"),
            ),
            404,
            "no checkpoint",
        ),
        case(
            "asample",
            json!({ "sampling_session_id": sampler }),
            422,
            "prompt: missing",
        ),
    ]
}
