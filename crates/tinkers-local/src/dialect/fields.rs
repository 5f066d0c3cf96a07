//! The known fields of request bodies: those of the official Python SDK 0.25, and the nested ones that this server supports.

use serde_json::{Value, json};

use crate::read::Route;

/// The fields that are allowed in a JSON value, including those of nested values, as a tree.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A value of any kind. Its fields are not checked.
    Any,
    /// An object with these fields and no others.
    Fields(&'static [(&'static str, Self)]),
    /// An object with these fields. Other fields are allowed and not checked.
    Open(&'static [(&'static str, Self)]),
    /// A list of items of this shape.
    Each(&'static Self),
    /// An object with arbitrary keys. All values have this shape.
    Values(&'static Self),
}

use Shape::{Any, Each, Fields, Open, Values};

const INPUT: Shape = Fields(&[("chunks", Each(&CHUNK))]);
/// The known fields of a chunk of a model input, such as a text or an image. One list covers all kinds of chunks.
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
    /// Returns the fields that this server supports in the request body of `route`. At the top level, unknown fields are allowed,
    /// since newer clients may send some. In nested objects, they are refused: such fields are options, and ignoring an option
    /// would silently change the computation.
    pub(crate) fn supported(route: Route) -> Self {
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

    /// Returns the fields of the request body of `route` in version 0.25 of the official SDK.
    pub(crate) fn of_sdk_025(route: Route) -> Self {
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
            // Routes that were added after version 0.25, and routes without a body.
            _ => Any,
        }
    }
}

/// Returns one error for each unknown field of the request body `body`, in the format of the FastAPI framework.
pub(super) fn unknown_fields(route: Route, body: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut path = vec![Value::from("body")];
    walk(&Shape::of_sdk_025(route), body, &mut path, &mut found);
    found
}

/// The maximum number of unknown fields that one response lists. It keeps the response to a large invalid request body small.
const MAX_REPORTED: usize = 100;

fn walk(shape: &Shape, value: &Value, path: &mut Vec<Value>, found: &mut Vec<Value>) {
    let mut nested = |step: Value, shape: &Shape, value: &Value| {
        if found.len() < MAX_REPORTED {
            path.push(step);
            walk(shape, value, path, found);
            path.pop();
        }
    };
    match (shape, value) {
        (Fields(known), Value::Object(fields)) => {
            let mut extra = Vec::new();
            for (name, value) in fields {
                match known.iter().find(|(field, _)| field == name) {
                    Some((_, shape)) => nested(name.as_str().into(), shape, value),
                    None => extra.push(name.as_str()),
                }
            }
            for name in extra {
                let loc: Vec<Value> = path.iter().cloned().chain([name.into()]).collect();
                let msg = "Extra inputs are not permitted";
                found.push(json!({ "type": "extra_forbidden", "loc": loc, "msg": msg }));
            }
        }
        (Each(shape), Value::Array(values)) => {
            for (i, value) in values.iter().enumerate() {
                nested(i.into(), shape, value);
            }
        }
        (Values(shape), Value::Object(values)) => {
            for (name, value) in values {
                nested(name.as_str().into(), shape, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(route: Route, body: &Value) -> Vec<String> {
        let found = unknown_fields(route, body);
        found.iter().map(|one| one["loc"].to_string()).collect()
    }

    #[test]
    fn unknown_fields_are_found_at_every_depth() {
        let datum = json!({
            "model_input": { "chunks": [{ "type": "encoded_text", "tokens": [1], "a": 1 }], "spans": 1 },
            "loss_fn_inputs": { "weights": { "data": [1.0], "b": 1 } },
            "note": 1,
        });
        let body = json!({ "forward_input": { "data": [datum], "loss_fn": "x", "loss_fn_config": { "free": 1 } } });
        assert_eq!(
            paths(Route::Forward, &body),
            [
                r#"["body","forward_input","data",0,"loss_fn_inputs","weights","b"]"#,
                r#"["body","forward_input","data",0,"model_input","chunks",0,"a"]"#,
                r#"["body","forward_input","data",0,"model_input","spans"]"#,
                r#"["body","forward_input","data",0,"note"]"#,
            ]
        );
        // A value of a wrong type is no unknown field; the decoder of the body reports it.
        assert!(paths(Route::Forward, &json!({ "forward_input": [] })).is_empty());
        assert!(paths(Route::Forward, &json!(7)).is_empty());
        let many = json!({ "forward_input": { "data": vec![json!({ "x": 1 }); 500] } });
        assert_eq!(paths(Route::Forward, &many).len(), MAX_REPORTED);
    }
}
