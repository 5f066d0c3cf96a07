//! The fields of requests: those that the official Python SDK 0.25 has, those below the top level that this server reads, and
//! what of a body is not among them.

use serde_json::{Value, json};

use crate::read::Route;

/// What is known of a value.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Nothing: it may be anything.
    Any,
    /// If it is an object, it has no other fields.
    Fields(&'static [(&'static str, Self)]),
    /// If it is an object, it may have others.
    Open(&'static [(&'static str, Self)]),
    /// If it is a list, its entries are.
    Each(&'static Self),
    /// If it is an object, its values are.
    Values(&'static Self),
}

use Shape::{Any, Each, Fields, Open, Values};

const INPUT: Shape = Fields(&[("chunks", Each(&CHUNK))]);
/// Of every kind of chunk: which belong together is not looked at.
const CHUNK: Shape = Fields(&[
    ("type", Any),
    ("tokens", Any),
    ("data", Any),
    ("format", Any),
    ("location", Any),
    ("expected_tokens", Any),
    ("dmel", Any),
]);
const TENSOR: Shape = Fields(&[
    ("data", Any),
    ("dtype", Any),
    ("shape", Any),
    ("sparse_crow_indices", Any),
    ("sparse_col_indices", Any),
]);
const DATUM: Shape = Fields(&[("model_input", INPUT), ("loss_fn_inputs", Values(&TENSOR))]);
const PASS: Shape = Fields(&[
    ("data", Each(&DATUM)),
    ("loss_fn", Any),
    ("loss_fn_config", Any),
]);
const DATUM_NOW: Shape = Fields(&[
    ("model_input", INPUT),
    ("loss_fn_inputs", Values(&TENSOR)),
    ("model_input_spans", Any),
    ("loss_fn_input_spans", Any),
]);
const PASS_NOW: Shape = Fields(&[
    ("data", Each(&DATUM_NOW)),
    ("loss_fn", Any),
    ("loss_fn_config", Any),
]);
const LORA: Shape = Fields(&[
    ("rank", Any),
    ("seed", Any),
    ("train_unembed", Any),
    ("train_mlp", Any),
    ("train_attn", Any),
]);
const ADAM: Shape = Fields(&[
    ("learning_rate", Any),
    ("beta1", Any),
    ("beta2", Any),
    ("eps", Any),
    ("weight_decay", Any),
    ("grad_clip_norm", Any),
]);
const SAMPLING: Shape = Fields(&[
    ("max_tokens", Any),
    ("seed", Any),
    ("stop", Any),
    ("temperature", Any),
    ("top_k", Any),
    ("top_p", Any),
]);
const CONFIG: Shape = Fields(&[("sdk_version", Any)]);
const MODEL: Shape = Fields(&[("model_id", Any), ("type", Any)]);

impl Shape {
    /// What this server reads of a route's body. At the top level there may be more, which a newer client sends; below it there
    /// are options, and one that is not read would change what is computed without a word.
    pub(crate) fn read_of(route: Route) -> Self {
        match route {
            Route::CreateModel => Open(&[("lora_config", LORA)]),
            Route::Forward => Open(&[("forward_input", PASS_NOW)]),
            Route::ForwardBackward => Open(&[("forward_backward_input", PASS_NOW)]),
            Route::OptimStep => Open(&[("adam_params", ADAM)]),
            Route::Sample => Open(&[
                ("prompt", INPUT),
                ("sampling_params", SAMPLING),
                ("target_prompt_logprobs", TENSOR),
            ]),
            _ => Any,
        }
    }

    /// Of a route's body as the SDK 0.25 has it.
    pub(crate) fn of(route: Route) -> Self {
        match route {
            Route::ClientConfig | Route::DynamicConfig => CONFIG,
            Route::Telemetry => Fields(&[
                ("events", Any),
                ("platform", Any),
                ("sdk_version", Any),
                ("session_id", Any),
                ("process_uuid", Any),
            ]),
            Route::CreateSession => Fields(&[
                ("tags", Any),
                ("user_metadata", Any),
                ("sdk_version", Any),
                ("project_id", Any),
                ("type", Any),
            ]),
            Route::Heartbeat => Fields(&[("session_id", Any), ("type", Any)]),
            Route::CreateModel => Fields(&[
                ("session_id", Any),
                ("model_seq_id", Any),
                ("base_model", Any),
                ("user_metadata", Any),
                ("lora_config", LORA),
                ("type", Any),
            ]),
            Route::ModelInfo | Route::UnloadModel => MODEL,
            Route::Forward => {
                Fields(&[("forward_input", PASS), ("model_id", Any), ("seq_id", Any)])
            }
            Route::ForwardBackward => Fields(&[
                ("forward_backward_input", PASS),
                ("model_id", Any),
                ("seq_id", Any),
            ]),
            Route::OptimStep => Fields(&[
                ("adam_params", ADAM),
                ("model_id", Any),
                ("seq_id", Any),
                ("type", Any),
            ]),
            Route::SaveWeights => Fields(&[
                ("model_id", Any),
                ("path", Any),
                ("seq_id", Any),
                ("ttl_seconds", Any),
                ("overwrite", Any),
                ("type", Any),
            ]),
            Route::SaveWeightsForSampler => Fields(&[
                ("model_id", Any),
                ("path", Any),
                ("sampling_session_seq_id", Any),
                ("seq_id", Any),
                ("ttl_seconds", Any),
                ("type", Any),
            ]),
            Route::LoadWeights => Fields(&[
                ("model_id", Any),
                ("seq_id", Any),
                ("session_id", Any),
                ("model_seq_id", Any),
                ("base_model", Any),
                ("user_metadata", Any),
                ("path", Any),
                ("optimizer", Any),
                ("weights_access_token", Any),
                ("type", Any),
            ]),
            Route::CreateSamplingSession => Fields(&[
                ("session_id", Any),
                ("sampling_session_seq_id", Any),
                ("base_model", Any),
                ("model_path", Any),
                ("type", Any),
            ]),
            Route::Sample => Fields(&[
                ("num_samples", Any),
                ("prompt", INPUT),
                ("sampling_params", SAMPLING),
                ("base_model", Any),
                ("model_path", Any),
                ("sampling_session_id", Any),
                ("seq_id", Any),
                ("prompt_logprobs", Any),
                ("topk_prompt_logprobs", Any),
                ("type", Any),
            ]),
            Route::WeightsInfo => Fields(&[("tinker_path", Any)]),
            Route::RetrieveFuture => Fields(&[("request_id", Any), ("allow_metadata_only", Any)]),
            // Of later versions, or without a body.
            _ => Any,
        }
    }
}

/// What FastAPI says of the fields of `body` that are not known, in their order.
pub(super) fn unknown(route: Route, body: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut way = vec![Value::from("body")];
    walk(&Shape::of(route), body, &mut way, &mut found);
    found
}

/// A list of data that are all wrong would be told of at a length of many times its own.
const MOST: usize = 100;

fn walk(shape: &Shape, value: &Value, way: &mut Vec<Value>, found: &mut Vec<Value>) {
    let mut below = |step: Value, shape: &Shape, value: &Value| {
        if found.len() < MOST {
            way.push(step);
            walk(shape, value, way, found);
            way.pop();
        }
    };
    match (shape, value) {
        (Fields(known), Value::Object(fields)) => {
            let mut extra = Vec::new();
            for (name, value) in fields {
                match known.iter().find(|(field, _)| field == name) {
                    Some((_, shape)) => below(name.as_str().into(), shape, value),
                    None => extra.push(name.as_str()),
                }
            }
            for name in extra {
                let loc: Vec<Value> = way.iter().cloned().chain([name.into()]).collect();
                let msg = "Extra inputs are not permitted";
                found.push(json!({ "type": "extra_forbidden", "loc": loc, "msg": msg }));
            }
        }
        (Each(shape), Value::Array(values)) => {
            for (i, value) in values.iter().enumerate() {
                below(i.into(), shape, value);
            }
        }
        (Values(shape), Value::Object(values)) => {
            for (name, value) in values {
                below(name.as_str().into(), shape, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(route: Route, body: &Value) -> Vec<String> {
        let found = unknown(route, body);
        found.iter().map(|one| one["loc"].to_string()).collect()
    }

    #[test]
    fn fields_are_looked_for_at_every_depth() {
        let datum = json!({
            "model_input": { "chunks": [{ "type": "encoded_text", "tokens": [1], "a": 1 }], "spans": 1 },
            "loss_fn_inputs": { "weights": { "data": [1.0], "b": 1 } },
            "note": 1,
        });
        let body = json!({ "forward_input": { "data": [datum], "loss_fn": "x", "loss_fn_config": { "free": 1 } } });
        assert_eq!(
            ways(Route::Forward, &body),
            [
                r#"["body","forward_input","data",0,"loss_fn_inputs","weights","b"]"#,
                r#"["body","forward_input","data",0,"model_input","chunks",0,"a"]"#,
                r#"["body","forward_input","data",0,"model_input","spans"]"#,
                r#"["body","forward_input","data",0,"note"]"#,
            ]
        );
        // Of a value of another kind, the reader of the body says what is wrong.
        assert!(ways(Route::Forward, &json!({ "forward_input": [] })).is_empty());
        assert!(ways(Route::Forward, &json!(7)).is_empty());
        let many = json!({ "forward_input": { "data": vec![json!({ "x": 1 }); 500] } });
        assert_eq!(ways(Route::Forward, &many).len(), MOST);
    }
}
