//! Results of forward passes, forward-backward passes and optimizer steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::nulls::null_is_default;
use crate::numbers::{Float64, number};
use crate::poll::read_known;
use crate::response::read_json;
use crate::tensor::TensorJson;
use crate::{DecodeError, OperationResult, TensorData, lenient_tensor, proto};

/// The outputs of the loss function for one datum, by name. Usually the only output is `logprobs`, the log-probability of each target
/// token.
pub type LossFnOutput = BTreeMap<String, TensorData>;

/// The result of a forward or forward-backward pass.
///
/// The serde traits encode NaN and the infinities as the strings `"NaN"`, `"Infinity"` and `"-Infinity"` in JSON, and also decode the JSON
/// of servers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ForwardBackwardOutput {
    /// The name that the server gives to the type of the outputs, such as `ArrayRecord`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub loss_fn_output_type: String,
    /// The outputs of the loss function, one map per datum, in the order of the data.
    #[serde(deserialize_with = "lenient_tensor::outputs")]
    pub loss_fn_outputs: Vec<LossFnOutput>,
    /// The metrics of the pass by `name:reduction`, such as `loss:sum`. Some servers send none.
    ///
    /// The embedded server sends `loss:sum` and `weights:sum` (the sum of the weights, so that their quotient is the mean loss per token). For
    /// policy losses, `weights:sum` is the number of target tokens, including those at prompt positions, and `ratio:mean`, `ratio:max`,
    /// `kl_sampler_learner:mean` and, with a clipped ratio, `clip_fraction:mean` are sent too. At prompt positions the log-probability of
    /// the sampler counts as 0, so that these positions contribute to the mean of `kl_sampler_learner`.
    #[serde(
        default,
        deserialize_with = "metrics",
        serialize_with = "lossless_metrics"
    )]
    pub metrics: BTreeMap<String, f64>,
}

impl ForwardBackwardOutput {
    /// Creates a result without metrics.
    pub fn new(loss_fn_output_type: impl Into<String>, loss_fn_outputs: Vec<LossFnOutput>) -> Self {
        Self {
            loss_fn_output_type: loss_fn_output_type.into(),
            loss_fn_outputs,
            metrics: BTreeMap::new(),
        }
    }

    /// Replaces the metrics of the result.
    #[must_use]
    pub fn with_metrics(mut self, metrics: BTreeMap<String, f64>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Returns the sum of the loss over all positions of all data (the metric `loss:sum`), if the server sends it.
    pub fn loss_sum(&self) -> Option<f64> {
        self.metrics.get("loss:sum").copied()
    }

    /// Encodes the result as the JSON that a server sends, with null for NaN and the infinities.
    pub fn to_json(&self) -> Bytes {
        #[derive(Serialize)]
        struct Json<'a> {
            loss_fn_output_type: &'a str,
            loss_fn_outputs: Vec<BTreeMap<&'a str, TensorJson<'a, false>>>,
            metrics: &'a BTreeMap<String, f64>,
        }

        fn fields(output: &LossFnOutput) -> BTreeMap<&str, TensorJson<'_, false>> {
            let fields = output.iter();
            fields
                .map(|(name, tensor)| (name.as_str(), TensorJson(tensor)))
                .collect()
        }

        crate::to_json(&Json {
            loss_fn_output_type: &self.loss_fn_output_type,
            loss_fn_outputs: self.loss_fn_outputs.iter().map(fields).collect(),
            metrics: &self.metrics,
        })
    }

    /// Encodes the result as the protobuf message that a server sends.
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

/// The result of an optimizer step. The serde traits encode numbers in the same form as for [`ForwardBackwardOutput`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OptimStepResult {
    /// The metrics of the step by `name:reduction`, such as `grad_norm:mean`. Some servers send none. The embedded server also sends
    /// `param_norm:mean`, `update_norm:mean`, `optimizer_steps:max` and `learning_rate:mean`.
    #[serde(
        default,
        deserialize_with = "metrics",
        serialize_with = "lossless_metrics"
    )]
    pub metrics: BTreeMap<String, f64>,
}

impl OptimStepResult {
    /// Creates a result with metrics.
    pub fn new(metrics: BTreeMap<String, f64>) -> Self {
        Self { metrics }
    }

    /// Encodes the result as the JSON that a server sends, with null for NaN and the infinities.
    pub fn to_json(&self) -> Bytes {
        crate::to_json(&BTreeMap::from([("metrics", &self.metrics)]))
    }
}

impl OperationResult for OptimStepResult {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_known(body, "optim_step", &["metrics"])
    }
}

/// Deserialises metrics. Values that are not numbers are skipped and logged, since the server has applied the operation, and an invalid
/// metric is no reason to report a failure.
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

/// Serialises metrics without loss: NaN and the infinities become strings in JSON.
fn lossless_metrics<S: Serializer>(
    metrics: &BTreeMap<String, f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let metrics = metrics.iter();
    serializer.collect_map(metrics.map(|(name, &number)| (name, Float64::<true>(number))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_results_with_null_or_missing_values_are_decoded() {
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
    fn training_metrics_that_are_not_numbers_are_skipped() {
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
    fn training_result_without_required_fields_is_rejected() {
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
    fn tensors_in_results_are_decoded_from_all_json_forms_in_use() {
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

    #[test]
    fn server_json_of_results_has_null_for_nan_and_infinity() {
        let output = LossFnOutput::from([("logprobs".to_owned(), TensorData::f32([f32::NAN]))]);
        let metrics = BTreeMap::from([("loss:sum".to_owned(), f64::INFINITY)]);
        let pass = ForwardBackwardOutput::new("x", vec![output]).with_metrics(metrics.clone());
        let json = concat!(
            r#"{"loss_fn_output_type":"x","loss_fn_outputs":[{"logprobs":"#,
            r#"{"data":[null],"dtype":"float32","shape":[1]}}],"metrics":{"loss:sum":null}}"#
        );
        assert_eq!(pass.to_json(), json);
        let step = OptimStepResult::new(metrics);
        assert_eq!(step.to_json(), r#"{"metrics":{"loss:sum":null}}"#);
    }
}
