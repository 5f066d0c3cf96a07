//! Requests of forward and forward-backward passes and optimizer steps.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::{Datum, DecodeError, InvalidInput, Loss, input, proto};

/// Whether a request computes only losses, or also gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a boolean in the protocol")]
pub enum PassMode {
    /// Computes losses only.
    Forward,
    /// Computes losses and gradients. The gradients are added to the gradients that the model has accumulated since its last optimizer
    /// step.
    ForwardBackward,
}

impl PassMode {
    /// Returns the name of the operation in the official SDK, `forward` or `forward_backward`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::ForwardBackward => "forward_backward",
        }
    }
}

display_name!(PassMode);

/// The body of `POST /forward_backward`, and in JSON also of `POST /forward`: computes the losses of a batch, and also the gradients if
/// `mode` says so.
#[derive(Debug, Clone, PartialEq)]
pub struct PassRequest {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model, from 1; the same on every retry.
    pub seq_id: u64,
    /// Whether the request computes only losses, or also gradients.
    pub mode: PassMode,
    /// The data of the batch.
    pub data: Vec<Datum>,
    /// The loss function with its options.
    pub loss: Loss,
}

impl PassRequest {
    /// Encodes the request body as protobuf. Tensors are copied once, into the body.
    ///
    /// # Errors
    /// The error names the field `type` of a chunk of a kind that has no protobuf form, or `seq_id` if the sequence number exceeds
    /// `i32::MAX`.
    pub fn to_protobuf(&self) -> Result<Bytes, InvalidInput> {
        proto::training::encode_request(self)
    }

    /// Decodes a request body in protobuf.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::training::decode_request(body)
    }

    /// Encodes the request as the JSON body of `/forward` for [`PassMode::Forward`], and of `/forward_backward` otherwise. A forward pass must
    /// not be sent to `/forward_backward` as JSON, since servers would compute gradients.
    pub fn to_json(&self) -> Bytes {
        #[derive(Serialize)]
        struct Input<'a> {
            data: &'a [Datum],
            #[serde(flatten)]
            loss: &'a Loss,
        }
        struct Body<'a>(&'a PassRequest);
        impl Serialize for Body<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                let request = self.0;
                let input = Input {
                    data: &request.data,
                    loss: &request.loss,
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

    /// Decodes a JSON body of `/forward` or `/forward_backward`.
    ///
    /// # Errors
    /// Fails if the body cannot be decoded.
    pub fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Input {
            data: Vec<Datum>,
            #[serde(flatten)]
            loss: Loss,
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
        Ok(Self {
            model_id: raw.model_id,
            seq_id: raw.seq_id.unwrap_or(0),
            mode,
            data: input.data,
            loss: input.loss,
        })
    }
}

/// The parameters of an AdamW step.
///
/// Fields that are `None` are not sent. The server then uses the defaults of the official Python SDK (0.38.0, type `AdamParams`): `beta1`
/// 0.9, `beta2` 0.95, `eps` 1e-12, no weight decay and no gradient clipping. [`AdamParams::default`] has the learning rate 1e-4, the
/// default of that Python type.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::AdamParams;
///
/// let params = AdamParams::new(4e-5).betas(0.9, 0.999).eps(1e-8).grad_clip_norm(1.0);
/// params.validate()?;
/// assert_eq!(AdamParams::default().learning_rate, 1e-4);
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AdamParams {
    /// The learning rate.
    pub learning_rate: f64,
    /// The decay rate of the first moment, the running mean of the gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// The decay rate of the second moment, the running mean of the squared gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// The number added to the square root of the second moment, so that the update is not divided by 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// The decoupled weight decay. Each step subtracts from each weight the product of the weight, the learning rate and this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// The maximum norm of the gradients over all parameters. Gradients with a larger norm are scaled down. 0 disables clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_clip_norm: Option<f64>,
}

impl AdamParams {
    /// Creates parameters with a learning rate. The server uses its defaults for all other parameters.
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

    /// Sets the decay rates of the running means of the gradients (`beta1`) and of the squared gradients (`beta2`).
    #[must_use]
    pub const fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        self.beta1 = Some(beta1);
        self.beta2 = Some(beta2);
        self
    }

    /// Sets the number added to the square root of the second moment, so that the update is not divided by 0.
    #[must_use]
    pub const fn eps(mut self, eps: f64) -> Self {
        self.eps = Some(eps);
        self
    }

    /// Sets the decoupled weight decay. Each step subtracts from each weight the product of the weight, the learning rate and this value.
    #[must_use]
    pub const fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Sets the maximum norm of the gradients over all parameters; 0 disables clipping.
    #[must_use]
    pub const fn grad_clip_norm(mut self, norm: f64) -> Self {
        self.grad_clip_norm = Some(norm);
        self
    }

    /// Checks that every parameter of the optimizer step is finite and in its valid range.
    ///
    /// # Errors
    /// The error names the invalid parameter.
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

impl Default for AdamParams {
    /// Returns the parameters of the official Python SDK: learning rate 1e-4, and the server's defaults for all other parameters.
    fn default() -> Self {
        Self::new(1e-4)
    }
}

/// `POST /optim_step`: updates the weights of a model with its accumulated gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OptimStep {
    /// The id of the model.
    pub model_id: String,
    /// The sequence number of this request within the model; the same on every retry.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub seq_id: u64,
    /// The AdamW parameters of the step.
    pub adam_params: AdamParams,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LossFn;

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
    fn forward_and_forward_backward_json_matches_older_sdks() {
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
    fn json_request_with_forward_and_backward_inputs_is_rejected() {
        let json = br#"{"forward_input": {"data": [], "loss_fn": "ppo"}, "forward_backward_input": {"data": [], "loss_fn": "ppo"}, "model_id": "m"}"#;
        assert!(PassRequest::from_json(json).is_err());
    }

    #[test]
    fn optim_step_request_omits_unset_and_rejects_invalid_fields() {
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
        let params = AdamParams::new(1e-3).eps(0.0);
        assert_eq!(params.validate().unwrap_err().field(), "eps");
        assert!(AdamParams::new(0.0).validate().is_ok());
    }
}
