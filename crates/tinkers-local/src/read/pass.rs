//! The bodies of forward and backward passes: JSON on both routes, protobuf on `forward_backward` only.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use tinkers_wire::{Datum, Loss, LossConfigValue, LossFn, PassMode, PassRequest};

use super::body::is_protobuf;
use super::json::json;
use super::{Command, Digest, Refusal};

/// The data and the loss function of a forward or backward pass.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PassInput")]
struct Input {
    data: Vec<Datum>,
    loss_fn: String,
    #[serde(default)]
    loss_fn_config: Option<BTreeMap<String, LossConfigValue>>,
}

/// The JSON body of a forward pass.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ForwardRequest")]
pub(crate) struct ForwardBody {
    forward_input: Input,
    model_id: String,
    #[serde(default)]
    seq_id: Option<u64>,
}

/// The JSON body of a forward-backward pass. Unlike the protobuf body, it cannot ask for a forward pass only.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ForwardBackwardRequest")]
pub(crate) struct BackwardBody {
    forward_backward_input: Input,
    model_id: String,
    #[serde(default)]
    seq_id: Option<u64>,
}

/// Parses the request body of `POST /forward`. It must be JSON.
pub(super) fn forward(content_type: Option<&str>, body: &Bytes) -> Result<Command, Refusal> {
    if is_protobuf(content_type) {
        let reason = "this route takes JSON; send protobuf to forward_backward with forward_only";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let raw: ForwardBody = json(body)?;
    let pass = raw
        .forward_input
        .into_pass(raw.model_id, raw.seq_id, PassMode::Forward);
    Ok(command(pass, "forward_input."))
}

/// Parses the request body of `POST /forward_backward`. It is JSON or protobuf. A protobuf body may ask for only a forward pass.
pub(super) fn forward_backward(
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<Command, Refusal> {
    if is_protobuf(content_type) {
        let pass = PassRequest::from_protobuf(body.clone())
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        return Ok(command(pass, ""));
    }
    let raw: BackwardBody = json(body)?;
    let input = raw.forward_backward_input;
    let pass = input.into_pass(raw.model_id, raw.seq_id, PassMode::ForwardBackward);
    Ok(command(pass, "forward_backward_input."))
}

impl Input {
    fn into_pass(self, model_id: String, seq_id: Option<u64>, mode: PassMode) -> PassRequest {
        let name = self.loss_fn.parse();
        let mut loss = Loss::new(name.unwrap_or(LossFn::Other(self.loss_fn)));
        loss.config = self.loss_fn_config.unwrap_or_default();
        PassRequest {
            model_id,
            seq_id: seq_id.unwrap_or(0),
            mode,
            data: self.data,
            loss,
        }
    }
}

fn command(pass: PassRequest, prefix: &'static str) -> Command {
    // The digest is computed from the protobuf form, which is shorter, or from JSON if protobuf cannot express the request.
    let canonical = pass.to_protobuf().unwrap_or_else(|_| pass.to_json());
    let digest = Digest::of("pass", &canonical);
    Command::Pass(Box::new(pass), prefix, digest)
}
