//! The requests that training calls are made of, each able to make its body for a sequence number.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header};
use tinkers_core::{
    BodyFormat, Call, Cost, Error, ErrorKind, Result, RouteClass, Sent, ServerProfile,
};
use tinkers_wire::{
    AdamParams, Datum, LoadWeights, Loss, OptimStep, PassMode, PassRequest, TinkerPath, routes,
    to_json,
};

/// One request of a training call. The same number and profile always give the same bytes, so every retry is the same.
pub(crate) trait Part: Send + Sync + fmt::Debug {
    /// The call under this number.
    fn call(&self, seq_id: u64, profile: &ServerProfile) -> Result<Call>;

    /// The name under which this part's effect can be found on the server, when it can: a save.
    fn effect(&self) -> Option<Effect> {
        None
    }

    /// Whether the server's body format decides the body.
    fn has_formats(&self) -> bool {
        false
    }
}

/// Something that a request leaves on the server for everyone to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effect {
    /// `<kind>/<name>` in the model's list of checkpoints.
    pub(crate) checkpoint_id: String,
}

/// A pass over some data.
#[derive(Debug)]
pub(crate) struct PassPart {
    pub(crate) model_id: Arc<str>,
    pub(crate) mode: PassMode,
    pub(crate) data: Vec<Datum>,
    pub(crate) loss: Loss,
}

impl Part for PassPart {
    fn call(&self, seq_id: u64, profile: &ServerProfile) -> Result<Call> {
        let request = PassRequest {
            model_id: self.model_id.to_string(),
            seq_id,
            mode: self.mode,
            data: self.data.clone(),
            loss: self.loss.clone(),
        };
        let mut call = match profile.bodies {
            BodyFormat::Json => json_pass(&request),
            _ => protobuf_pass(&request, profile)?,
        };
        call.cost = Cost {
            bytes: self.data.iter().map(Datum::estimated_bytes).sum(),
        };
        Ok(call)
    }

    fn has_formats(&self) -> bool {
        true
    }
}

fn json_pass(request: &PassRequest) -> Call {
    // The JSON form of /forward_backward always adds gradients, so a forward pass must not go there.
    let route = match request.mode {
        PassMode::Forward => routes::FORWARD,
        PassMode::ForwardBackward => routes::FORWARD_BACKWARD,
    };
    Call::post(route, request.to_json(), RouteClass::Train)
}

fn protobuf_pass(request: &PassRequest, profile: &ServerProfile) -> Result<Call> {
    let body = request.to_protobuf()?;
    let (body, zstd) = if profile.zstd_bodies {
        (compress(&body)?, true)
    } else {
        (body, false)
    };
    let mut call = Call::post(routes::FORWARD_BACKWARD, body, RouteClass::Train);
    call.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-protobuf"),
    );
    if zstd {
        call.headers
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(call)
}

/// One frame of the default level, with the size of the content in its header.
fn compress(body: &Bytes) -> Result<Bytes> {
    let failed = |error: std::io::Error| {
        Error::new(
            ErrorKind::Io,
            Sent::NotSent,
            "a body could not be compressed",
        )
        .with_source(error)
    };
    Ok(Bytes::from(zstd::bulk::compress(body, 3).map_err(failed)?))
}

/// An optimizer step.
#[derive(Debug)]
pub(crate) struct StepPart {
    pub(crate) model_id: Arc<str>,
    pub(crate) params: AdamParams,
}

impl Part for StepPart {
    fn call(&self, seq_id: u64, _: &ServerProfile) -> Result<Call> {
        let body = OptimStep {
            model_id: self.model_id.to_string(),
            seq_id,
            adam_params: self.params,
        };
        Ok(Call::post(
            routes::OPTIM_STEP,
            to_json(&body),
            RouteClass::Train,
        ))
    }
}

/// A checkpoint into this model.
#[derive(Debug)]
pub(crate) struct LoadPart {
    pub(crate) model_id: Arc<str>,
    pub(crate) path: TinkerPath,
    pub(crate) optimizer: bool,
}

impl Part for LoadPart {
    fn call(&self, seq_id: u64, _: &ServerProfile) -> Result<Call> {
        let body = LoadWeights {
            path: self.path.clone(),
            optimizer: self.optimizer,
            session_id: None,
            model_seq_id: None,
            model_id: Some(self.model_id.to_string()),
            seq_id: Some(seq_id),
            base_model: None,
            user_metadata: None,
            optimizer_config: None,
            weights_access_token: None,
        };
        Ok(Call::post(
            routes::LOAD_WEIGHTS,
            to_json(&body),
            RouteClass::Train,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::Fact;
    use tinkers_wire::LossFn;

    fn pass(mode: PassMode) -> PassPart {
        let data = vec![Datum::next_token(&[1, 2, 3], vec![1.0; 2]).unwrap()];
        PassPart {
            model_id: Arc::from("m"),
            mode,
            data,
            loss: LossFn::CrossEntropy.into(),
        }
    }

    #[test]
    fn a_forward_pass_never_goes_to_the_json_route_that_adds_gradients() {
        let json = ServerProfile::default().learn(Fact::Bodies(BodyFormat::Json));
        assert_eq!(
            pass(PassMode::Forward).call(1, &json).unwrap().path,
            routes::FORWARD
        );
        assert_eq!(
            pass(PassMode::ForwardBackward).call(1, &json).unwrap().path,
            routes::FORWARD_BACKWARD
        );
        let call = pass(PassMode::Forward)
            .call(1, &ServerProfile::default())
            .unwrap();
        let sent = PassRequest::from_protobuf(call.body).unwrap();
        assert_eq!(
            (call.path.as_str(), sent.mode),
            (routes::FORWARD_BACKWARD, PassMode::Forward)
        );
    }

    #[test]
    fn a_compressed_body_is_the_same_body() {
        let zstd = ServerProfile::default().learn(Fact::ZstdBodies);
        let call = pass(PassMode::ForwardBackward).call(3, &zstd).unwrap();
        assert_eq!(call.headers[header::CONTENT_ENCODING], "zstd");
        let body = zstd::bulk::decompress(&call.body, 1 << 20).unwrap();
        assert_eq!(PassRequest::from_protobuf(body.into()).unwrap().seq_id, 3);
    }

    #[test]
    fn every_retry_has_the_same_bytes() {
        let profile = ServerProfile::default();
        let part = pass(PassMode::ForwardBackward);
        assert_eq!(
            part.call(1, &profile).unwrap().body,
            part.call(1, &profile).unwrap().body
        );
    }
}
