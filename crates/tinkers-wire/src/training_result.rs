//! What passes and optimizer steps give.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, OperationResult, TensorData, proto};

/// The outputs of the loss function for one datum, by name; usually `logprobs`.
pub type LossFnOutput = BTreeMap<String, TensorData>;

/// The result of a pass.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForwardBackwardOutput {
    /// What kind of record the outputs are.
    #[serde(default)]
    pub loss_fn_output_type: String,
    /// One for each datum, in order.
    #[serde(default)]
    pub loss_fn_outputs: Vec<LossFnOutput>,
    /// Metrics by `name:reduction`, such as `loss:sum`; some servers send none.
    #[serde(default, deserialize_with = "finite_metrics")]
    pub metrics: BTreeMap<String, f64>,
}

impl ForwardBackwardOutput {
    /// The sum of the loss over all positions, where the server tells it.
    pub fn loss_sum(&self) -> Option<f64> {
        self.metrics.get("loss:sum").copied()
    }

    /// The JSON form, for servers.
    pub fn to_json(&self) -> Bytes {
        crate::to_json(self)
    }

    /// The protobuf form, for servers.
    pub fn to_protobuf(&self) -> Bytes {
        proto::training::encode_output(self)
    }
}

impl OperationResult for ForwardBackwardOutput {
    const PROTOBUF: bool = true;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(serde_json::from_slice(body)?)
    }

    fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::training::decode_output(body)
    }
}

/// The result of an optimizer step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OptimStepResult {
    /// Metrics of the step, where the server sends any.
    #[serde(default, deserialize_with = "finite_metrics")]
    pub metrics: BTreeMap<String, f64>,
}

impl OperationResult for OptimStepResult {
    const PROTOBUF: bool = false;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(serde_json::from_slice(body)?)
    }
}

/// Metrics may be absent or null, and so may one that is not a number.
fn finite_metrics<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, f64>, D::Error> {
    let raw: Option<BTreeMap<String, Option<f64>>> = Option::deserialize(deserializer)?;
    Ok(raw
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_open_servers_is_read() {
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
}
