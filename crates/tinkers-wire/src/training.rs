//! Requests of forward and forward-backward passes and optimizer steps.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

use crate::nulls::null_is_default;
use crate::{Datum, DecodeError, InvalidInput, Loss, LossConfigValue, LossFn, input, proto};

/// Whether a pass computes gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PassMode {
    /// Computes losses only.
    Forward,
    /// Computes losses, and adds gradients to those that the model has accumulated.
    ForwardBackward,
}

/// A pass over a batch: the body of `POST /forward_backward`, or of `POST /forward` (JSON only).
#[derive(Debug, Clone, PartialEq)]
pub struct PassRequest {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model, from 1; the same on every retry.
    pub seq_id: u64,
    /// Whether gradients are computed.
    pub mode: PassMode,
    /// The batch.
    pub data: Vec<Datum>,
    /// The loss function.
    pub loss: Loss,
}

impl PassRequest {
    /// Encodes the protobuf body. Tensors are copied once, into the body.
    ///
    /// # Errors
    /// If a chunk kind has no protobuf form, or `seq_id` exceeds `i32::MAX`.
    pub fn to_protobuf(&self) -> Result<Bytes, InvalidInput> {
        proto::training::encode_request(self)
    }

    /// Decodes a protobuf body.
    ///
    /// # Errors
    /// If the body cannot be decoded.
    pub fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::training::decode_request(body)
    }

    /// Encodes the JSON body, for `/forward_backward` or, with [`PassMode::Forward`], for `/forward`. A forward pass must not be sent to
    /// `/forward_backward` as JSON, since that always adds gradients.
    pub fn to_json(&self) -> Bytes {
        #[derive(Serialize)]
        struct Input<'a> {
            data: &'a [Datum],
            loss_fn: &'a str,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            loss_fn_config: &'a BTreeMap<String, LossConfigValue>,
        }
        struct Body<'a>(&'a PassRequest);
        impl Serialize for Body<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let request = self.0;
                let input = Input {
                    data: &request.data,
                    loss_fn: request.loss.name.name(),
                    loss_fn_config: &request.loss.config,
                };
                let mut out = serializer.serialize_struct("PassRequest", 3)?;
                match request.mode {
                    PassMode::Forward => out.serialize_field("forward_input", &input)?,
                    PassMode::ForwardBackward => {
                        out.serialize_field("forward_backward_input", &input)?
                    }
                }
                out.serialize_field("model_id", &request.model_id)?;
                out.serialize_field("seq_id", &request.seq_id)?;
                out.end()
            }
        }
        crate::to_json(&Body(self))
    }

    /// Decodes a JSON body of either route.
    ///
    /// # Errors
    /// If the body cannot be decoded.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Input {
            data: Vec<Datum>,
            loss_fn: String,
            #[serde(default)]
            loss_fn_config: Option<BTreeMap<String, LossConfigValue>>,
        }
        #[derive(Deserialize)]
        struct Raw {
            forward_input: Option<Input>,
            forward_backward_input: Option<Input>,
            model_id: String,
            #[serde(default)]
            seq_id: Option<u64>,
        }
        let raw: Raw = serde_json::from_slice(body)?;
        let (mode, input) = match (raw.forward_input, raw.forward_backward_input) {
            (Some(input), None) => (PassMode::Forward, input),
            (None, Some(input)) => (PassMode::ForwardBackward, input),
            _ => {
                return Err(DecodeError::new(
                    "cannot decode the pass: expected exactly one of forward_input and forward_backward_input",
                ));
            }
        };
        let name = input
            .loss_fn
            .parse()
            .unwrap_or(LossFn::Other(input.loss_fn));
        let loss = Loss {
            name,
            config: input.loss_fn_config.unwrap_or_default(),
        };
        Ok(Self {
            model_id: raw.model_id,
            seq_id: raw.seq_id.unwrap_or(0),
            mode,
            data: input.data,
            loss,
        })
    }
}

/// The parameters of an AdamW step. Fields that are `None` are not sent; the server's defaults are beta1 0.9, beta2 0.95, eps 1e-12, no
/// weight decay and no clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AdamParams {
    /// The learning rate.
    pub learning_rate: f64,
    /// The decay rate of the first moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// The decay rate of the second moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// The term added to the square root of the second moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// The decoupled weight decay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// The maximum norm of the gradients over all parameters; 0 disables clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_clip_norm: Option<f64>,
}

impl AdamParams {
    /// Creates parameters with a learning rate and the server's defaults otherwise.
    pub const fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: None,
            beta2: None,
            eps: None,
            weight_decay: None,
            grad_clip_norm: None,
        }
    }

    /// Sets the decay rates of both moments.
    #[must_use]
    pub const fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        self.beta1 = Some(beta1);
        self.beta2 = Some(beta2);
        self
    }

    /// Sets the decoupled weight decay.
    #[must_use]
    pub const fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Sets the maximum norm of the gradients.
    #[must_use]
    pub const fn grad_clip_norm(mut self, norm: f64) -> Self {
        self.grad_clip_norm = Some(norm);
        self
    }

    /// Checks that every parameter is finite and in range.
    ///
    /// # Errors
    /// Names the invalid parameter.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        input::check_range(
            "learning_rate",
            self.learning_rate,
            self.learning_rate >= 0.0,
            "0 or more",
        )?;
        for (field, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if let Some(beta) = beta {
                input::check_range(
                    field,
                    beta,
                    (0.0..1.0).contains(&beta),
                    "at least 0 and less than 1",
                )?;
            }
        }
        if let Some(eps) = self.eps {
            // A weight that never had a gradient is divided by `eps` alone.
            input::check_range("eps", eps, eps > 0.0, "more than 0")?;
        }
        for (field, value) in [
            ("weight_decay", self.weight_decay),
            ("grad_clip_norm", self.grad_clip_norm),
        ] {
            if let Some(value) = value {
                input::check_range(field, value, value >= 0.0, "0 or more")?;
            }
        }
        Ok(())
    }
}

/// `POST /optim_step`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OptimStep {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// The AdamW parameters of the step.
    pub adam_params: AdamParams,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mode: PassMode) -> PassRequest {
        let data = vec![Datum::next_token(&[1, 2, 3], vec![0.5, 1.0]).unwrap()];
        PassRequest {
            model_id: "m".into(),
            seq_id: 4,
            mode,
            data,
            loss: LossFn::Ppo.with("clip_low_threshold", 0.8),
        }
    }

    #[test]
    fn json_of_each_route_matches_older_sdks() {
        let json = request(PassMode::ForwardBackward).to_json();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            concat!(
                r#"{"forward_backward_input":{"data":[{"model_input":{"chunks":[{"type":"encoded_text","tokens":[1,2]}]},"#,
                r#""loss_fn_inputs":{"target_tokens":{"data":[2,3],"dtype":"int64","shape":[2]},"#,
                r#""weights":{"data":[0.5,1.0],"dtype":"float32","shape":[2]}}}],"loss_fn":"ppo","#,
                r#""loss_fn_config":{"clip_low_threshold":0.8}},"model_id":"m","seq_id":4}"#
            )
        );
        for mode in [PassMode::Forward, PassMode::ForwardBackward] {
            assert_eq!(
                PassRequest::from_json(&request(mode).to_json()).unwrap(),
                request(mode)
            );
        }
    }

    #[test]
    fn body_with_both_inputs_is_rejected() {
        let json = br#"{"forward_input": {"data": [], "loss_fn": "ppo"}, "forward_backward_input": {"data": [], "loss_fn": "ppo"}, "model_id": "m"}"#;
        assert!(PassRequest::from_json(json).is_err());
    }

    #[test]
    fn step_omits_unset_fields_and_rejects_invalid_ones() {
        let step = OptimStep {
            model_id: "m".into(),
            seq_id: 2,
            adam_params: AdamParams::new(1e-4).grad_clip_norm(1.0),
        };
        let json = serde_json::to_string(&step).unwrap();
        assert_eq!(
            json,
            r#"{"model_id":"m","seq_id":2,"adam_params":{"learning_rate":0.0001,"grad_clip_norm":1.0}}"#
        );
        assert_eq!(
            AdamParams::new(f64::NAN).validate().unwrap_err().field(),
            "learning_rate"
        );
        assert_eq!(
            AdamParams::new(-1.0).validate().unwrap_err().field(),
            "learning_rate"
        );
        assert_eq!(
            AdamParams::new(1.0)
                .betas(0.9, 1.0)
                .validate()
                .unwrap_err()
                .field(),
            "beta2"
        );
        let mut params = AdamParams::new(1e-3);
        params.eps = Some(0.0);
        assert_eq!(params.validate().unwrap_err().field(), "eps");
        assert!(AdamParams::new(0.0).validate().is_ok());
    }
}
