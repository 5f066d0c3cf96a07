//! Results of passes and optimizer steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::nulls::null_is_default;
use crate::numbers::number;
use crate::poll::read_known;
use crate::response::read_json;
use crate::{DecodeError, OperationResult, TensorData, lenient_tensor, proto};

/// The outputs of the loss function for one datum, by name; usually `logprobs`.
pub type LossFnOutput = BTreeMap<String, TensorData>;

/// The result of a forward or forward-backward pass.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForwardBackwardOutput {
    /// The type name of the outputs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub loss_fn_output_type: String,
    /// The outputs of the loss function, one per datum, in order.
    #[serde(deserialize_with = "lenient_tensor::outputs")]
    pub loss_fn_outputs: Vec<LossFnOutput>,
    /// The metrics by `name:reduction`, such as `loss:sum`; empty on some servers.
    #[serde(default, deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
}

impl ForwardBackwardOutput {
    /// Returns the sum of the loss over all positions, if the server sends it.
    pub fn loss_sum(&self) -> Option<f64> {
        self.metrics.get("loss:sum").copied()
    }

    /// Encodes the result as JSON, for servers.
    pub fn to_json(&self) -> Bytes {
        crate::to_json(self)
    }

    /// Encodes the result as protobuf, for servers.
    pub fn to_protobuf(&self) -> Bytes {
        proto::training::encode_output(self)
    }
}

impl OperationResult for ForwardBackwardOutput {
    const PROTOBUF: bool = true;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }

    fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::training::decode_output(body)
    }
}

/// The result of an optimizer step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OptimStepResult {
    /// The metrics of the step; empty on some servers.
    #[serde(default, deserialize_with = "metrics")]
    pub metrics: BTreeMap<String, f64>,
}

impl OperationResult for OptimStepResult {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_known(body, "optim_step", &["metrics"])
    }
}

/// Deserialises metrics leniently. Metrics that are not numbers are skipped and logged: the operation has been applied, so it must not fail
/// because of them.
fn metrics<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    static HAS_WARNED: AtomicBool = AtomicBool::new(false);

    let raw = match Value::deserialize(deserializer)? {
        Value::Object(raw) => raw,
        Value::Null => return Ok(BTreeMap::new()),
        other => Map::from_iter([("metrics".to_owned(), other)]),
    };
    let mut metrics = BTreeMap::new();
    let mut skipped = Vec::new();
    for (name, value) in raw {
        match number(&value) {
            Some(number) => {
                metrics.insert(name, number);
            }
            None => skipped.push(name),
        }
    }
    if !skipped.is_empty() {
        const MESSAGE: &str = "skipped metrics that are not numbers";
        if HAS_WARNED.swap(true, Ordering::Relaxed) {
            tracing::debug!(?skipped, "{MESSAGE}");
        } else {
            tracing::warn!(
                ?skipped,
                "{MESSAGE}; further ones are logged at debug level"
            );
        }
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_other_servers_are_decoded() {
        let output = ForwardBackwardOutput::from_json(
            br#"{"loss_fn_output_type": "scalar", "loss_fn_outputs": [{"logprobs": {"data": [-0.5, null], "dtype": "float32", "shape": [2]}}], "metrics": {}}"#,
        )
        .unwrap();
        assert_eq!(
            output.loss_fn_outputs[0]["logprobs"].as_f32().unwrap()[0],
            -0.5
        );
        assert_eq!(output.loss_sum(), None);
        assert_eq!(
            OptimStepResult::from_json(b"{}").unwrap(),
            OptimStepResult::default()
        );
        assert_eq!(
            OptimStepResult::from_json(br#"{"metrics": null}"#).unwrap(),
            OptimStepResult::default()
        );
        let step = OptimStepResult::from_json(br#"{"metrics": {"grad_norm": null}}"#).unwrap();
        assert!(step.metrics["grad_norm"].is_nan());
    }

    #[test]
    fn invalid_metrics_are_skipped() {
        let body = br#"{"metrics": {"loss": 3.0, "n": 5, "lr": "0.1", "ok": true, "bad": NaN, "down": -Infinity,
            "name": "x", "nested": {"a": 1}, "list": [1]}}"#;
        let metrics = OptimStepResult::from_json(body).unwrap().metrics;
        let numbers = ["loss", "n", "lr", "ok", "down"].map(|name| metrics[name]);
        assert_eq!(numbers, [3.0, 5.0, 0.1, 1.0, f64::NEG_INFINITY]);
        assert!(metrics["bad"].is_nan());
        assert_eq!(metrics.len(), 6);
        for odd in [r#"{"metrics": []}"#, r#"{"metrics": "none"}"#] {
            let step = OptimStepResult::from_json(odd.as_bytes());
            assert_eq!(step, Ok(OptimStepResult::default()), "{odd}");
        }
    }

    #[test]
    fn result_without_its_fields_is_an_error() {
        for known in [
            "{}",
            r#"{"type": "optim_step"}"#,
            r#"{"status": "ok"}"#,
            r#"{"metrics": null, "error": null}"#,
        ] {
            assert!(
                OptimStepResult::from_json(known.as_bytes()).is_ok(),
                "{known}"
            );
        }
        for unknown in [
            r#"{"detail": "CUDA out of memory"}"#,
            r#"{"message": "hello"}"#,
            r#"{"type": "save_weights"}"#,
            "[]",
            "null",
        ] {
            let step = OptimStepResult::from_json(unknown.as_bytes());
            let error = step.expect_err(unknown).to_string();
            assert!(
                error.ends_with(&format!("the server sent: {unknown}")),
                "{error}"
            );
            let pass = ForwardBackwardOutput::from_json(unknown.as_bytes());
            assert!(pass.is_err(), "{unknown}");
        }
        for pass in ["{}", r#"{"metrics": {}}"#, r#"{"loss_fn_outputs": null}"#] {
            let pass = ForwardBackwardOutput::from_json(pass.as_bytes());
            assert!(pass.is_err(), "{pass:?}");
        }
        assert!(ForwardBackwardOutput::from_protobuf(Bytes::new()).is_err());
    }

    #[test]
    fn result_tensors_are_decoded_in_every_form() {
        let output = |tensor: &str| {
            let body = format!(r#"{{"loss_fn_outputs": [{{"logprobs": {tensor}}}]}}"#);
            let read = ForwardBackwardOutput::from_json(body.as_bytes()).unwrap();
            read.loss_fn_outputs[0].get("logprobs").cloned()
        };
        let floats = |tensor: &str| output(tensor).unwrap().as_f32().unwrap().to_vec();
        for two in [
            r#"{"data": [0.5, 2], "dtype": "float64", "shape": [2]}"#,
            r#"{"data": ["0.5", 2], "dtype": "bfloat16", "shape": null}"#,
            r#"{"shape": ["2"], "dtype": "torch.float32", "data": [0.5, 2.0], "device": "cpu"}"#,
            r#"{"data": [0.5, 2]}"#,
            r#"{"data": [0.5, 2], "dtype": "int64"}"#,
            "[0.5, 2]",
        ] {
            assert_eq!(floats(two), [0.5, 2.0], "{two}");
            assert_eq!(output(two).unwrap().shape(), [2], "{two}");
        }
        assert_eq!(floats("0.5"), [0.5]);
        let infinite = floats(r#"{"data": [NaN, -Infinity, null], "dtype": "float32"}"#);
        assert!(infinite[0].is_nan() && infinite[2].is_nan());
        assert_eq!(infinite[1], f32::NEG_INFINITY);
        for whole in [
            r#"{"data": [1, 2], "dtype": "int32"}"#,
            r#"{"data": [1, 2]}"#,
        ] {
            assert_eq!(
                output(whole).unwrap().as_i64(),
                Some(&[1, 2][..]),
                "{whole}"
            );
        }
        // Values that are not tensors are skipped.
        for none in [r#""high""#, "null", r#"{"data": "x"}"#, "{}", "[[1]]"] {
            assert_eq!(output(none), None, "{none}");
        }
    }
}
