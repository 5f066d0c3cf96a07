//! Refuses unknown options in JSON bodies by name, since ignoring them would silently change the computation.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Refusal, Route};
use crate::dialect::Shape;

/// Checks that the nested objects in a JSON request body contain only fields (options) that the server supports on `route`. A field
/// that is `null` counts as absent.
pub(super) fn check(route: Route, body: &[u8]) -> Result<(), Refusal> {
    let shape = Shape::supported(route);
    if matches!(shape, Shape::Any) {
        return Ok(());
    }
    let mut found = None;
    let walk = Walk {
        shape: &shape,
        path: &mut Vec::new(),
        found: &mut found,
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    // Malformed JSON is reported by the decoder of the body.
    if walk.deserialize(&mut reader).is_err() {
        return Ok(());
    }
    match found {
        None => Ok(()),
        Some(UnknownOption { path, known }) => {
            let reason = format!(
                "expected one of {}, got an option that is not read",
                known.join(", ")
            );
            Err(Refusal::field(&path, reason))
        }
    }
}

/// The path of the first field that the server does not support, and the names of the supported fields of the same object.
struct UnknownOption {
    path: String,
    known: Vec<&'static str>,
}

/// A traversal of a JSON value that records the first field that the server does not support.
struct Walk<'a> {
    shape: &'a Shape,
    path: &'a mut Vec<String>,
    found: &'a mut Option<UnknownOption>,
}

impl Walk<'_> {
    /// Returns a traversal, with the shape `shape`, of a value that is nested in the current value.
    fn nested<'b>(&'b mut self, shape: &'b Shape) -> Walk<'b> {
        Walk {
            shape,
            path: self.path,
            found: self.found,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.shape {
            Shape::Any => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let shape = self.shape;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let known = match shape {
                Shape::Fields(known) | Shape::Open(known) => {
                    let field = known.iter().find(|(field, _)| *field == name);
                    field.map(|(_, shape)| shape)
                }
                Shape::Values(shape) => Some(*shape),
                Shape::Any | Shape::Each(_) => Some(&Shape::Any),
            };
            match (known, shape) {
                (Some(known), _) => {
                    self.path.push(name.into_owned());
                    map.next_value_seed(self.nested(known))?;
                    self.path.pop();
                }
                (None, Shape::Fields(fields)) => {
                    let is_given = map.next_value::<Option<IgnoredAny>>()?.is_some();
                    if is_given && self.found.is_none() {
                        *self.found = Some(UnknownOption {
                            path: format!("{}.{name}", self.path.join(".")),
                            known: fields.iter().map(|(field, _)| *field).collect(),
                        });
                    }
                }
                (None, _) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let each = match self.shape {
            Shape::Each(shape) => shape,
            _ => &Shape::Any,
        };
        for index in 0usize.. {
            self.path.push(index.to_string());
            let next = list.next_element_seed(self.nested(each))?;
            self.path.pop();
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tinkers_wire::{AdamParams, Datum, LoraConfig, SamplingParams, error_text};

    use super::*;

    fn error_of(route: Route, body: &Value) -> Option<String> {
        let refusal = check(route, body.to_string().as_bytes()).err()?;
        let response = refusal.into_response().encode();
        assert_eq!(response.status, 422);
        error_text(&response.body)
    }

    #[test]
    fn error_names_the_unknown_option_and_the_known_options() {
        let datum = json!({ "model_input": { "chunks": [] }, "loss_fn_inputs": { "weights": { "data": [], "grad": true } } });
        for (route, body, expected) in [
            (
                Route::Sample,
                json!({ "sampling_params": { "min_p": 0.1 } }),
                "sampling_params.min_p: expected one of max_tokens, ",
            ),
            (
                Route::CreateModel,
                json!({ "lora_config": { "rank": 4, "alpha": 8 } }),
                "lora_config.alpha: expected one of rank, ",
            ),
            (
                Route::OptimStep,
                json!({ "adam_params": { "momentum": 0.9 } }),
                "adam_params.momentum: expected one of learning_rate, ",
            ),
            (
                Route::Forward,
                json!({ "forward_input": { "data": [datum] } }),
                "forward_input.data.0.loss_fn_inputs.weights.grad: expected one of data, ",
            ),
            (
                Route::ForwardBackward,
                json!({ "forward_backward_input": { "reduction": "mean" } }),
                "forward_backward_input.reduction: ",
            ),
        ] {
            let error = error_of(route, &body).unwrap_or_default();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn null_options_and_unknown_top_level_fields_are_accepted() {
        for (route, body) in [
            (
                Route::Sample,
                json!({ "of_tomorrow": { "a": 1 }, "sampling_params": { "min_p": null, "seed": 1 } }),
            ),
            (Route::Sample, json!({ "sampling_params": "none" })),
            (Route::OptimStep, json!([1, "a", null, 2.5, -1, true])),
            (Route::SaveWeights, json!({ "anything": { "a": 1 } })),
        ] {
            assert_eq!(error_of(route, &body), None, "{body}");
        }
        assert!(check(Route::Sample, b"{").is_ok());
    }

    #[test]
    fn no_field_that_the_client_sends_is_refused_as_unknown() {
        let lora = LoraConfig::rank(4)
            .seed(1)
            .train_unembed(true)
            .train_mlp(true)
            .train_attn(true);
        let adam = AdamParams::new(0.1)
            .betas(0.9, 0.9)
            .eps(1e-8)
            .weight_decay(0.1)
            .grad_clip_norm(1.0);
        let sampling = SamplingParams::new()
            .max_tokens(1)
            .seed(1)
            .stop("a")
            .temperature(1.0)
            .top_k(1)
            .top_p(1.0);
        let datum: Datum = serde_json::from_value(json!({
            "model_input": { "chunks": [{ "type": "encoded_text", "tokens": [1] }] },
            "loss_fn_inputs": { "weights": { "data": [1.0], "shape": [1, 1], "sparse_crow_indices": [0, 1], "sparse_col_indices": [0] } },
            "model_input_spans": [{ "kind": "prompt", "sequence_id": "a", "offset": 0, "length": 1 }],
            "loss_fn_input_spans": [{ "kind": "sampled", "sequence_id": "a", "offset": 0, "length": 1 }],
        })).unwrap();
        for (route, body) in [
            (Route::CreateModel, json!({ "lora_config": lora })),
            (Route::OptimStep, json!({ "adam_params": adam })),
            (
                Route::Sample,
                json!({ "sampling_params": sampling, "prompt": datum.model_input }),
            ),
            (
                Route::Forward,
                json!({ "forward_input": { "data": [datum], "loss_fn": "x", "loss_fn_config": { "a": 1 } } }),
            ),
        ] {
            assert_eq!(error_of(route, &body), None, "{body}");
        }
    }
}
