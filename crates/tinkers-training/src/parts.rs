//! The requests that training calls are made of, each able to make its body for a sequence number.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header};
use tinkers_core::{
    BodyFormat, Call, Cost, Deduplication, Error, ErrorKind, Result, RouteClass, Sent,
    ServerProfile, SessionContext,
};
use tinkers_wire::{
    AdamParams, Checkpoint, CheckpointKind, Datum, LoadWeights, Loss, OptimStep, PassMode,
    PassRequest, TinkerPath, routes, to_json,
};

/// One request of a training call. The same number and profile always give the same bytes, so every retry is the same.
pub(crate) trait Part: Send + Sync + fmt::Debug {
    /// The call under this number.
    fn call(&self, seq_id: u64, profile: &ServerProfile) -> Result<Call>;

    /// What is done when it may have been applied and the server is not known to apply a repeated number once.
    fn when_lost(&self) -> WhenLost;

    /// The checkpoint that it leaves under a name of the caller's: a save.
    fn saved_name(&self) -> Option<SavedName> {
        None
    }

    /// The same under another of the session's numbers, for a server that takes the first one as used up.
    fn renewed(&self, session: &dyn SessionContext) -> Option<Box<dyn Part>> {
        let _ = session;
        None
    }

    /// Whether the server's body format decides the body.
    fn has_formats(&self) -> bool {
        false
    }

    /// Whether its JSON form says all that its protobuf form says, to every server.
    fn is_the_same_in_json(&self) -> bool {
        true
    }

    /// Whether gradients are added.
    fn adds_gradients(&self) -> bool {
        false
    }

    /// Whether it changes what later requests of the model build on: its weights, its optimizer or the gradients held.
    fn changes_model(&self) -> bool {
        true
    }

    /// What a server must be known to de-duplicate for a repeat to be applied once.
    fn deduplicated_with(&self) -> Deduplication {
        Deduplication::Everything
    }
}

/// What is done about a request that may have been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenLost {
    /// It is sent again: nothing was sent since, so that twice is the same as once.
    Repeat,
    /// It is looked for, and sent again when it is not there.
    Look,
    /// Nobody can tell, and twice is not the same as once.
    GiveUp,
}

/// The name of a checkpoint in its run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SavedName {
    pub(crate) kind: CheckpointKind,
    pub(crate) name: String,
}

impl SavedName {
    /// Whether this is the checkpoint of a run's list. Some servers list `<kind>/<name>`, others the name alone: then its path
    /// has the kind.
    pub(crate) fn is_that_of(&self, listed: &Checkpoint) -> bool {
        let path = listed.tinker_path.parse::<TinkerPath>();
        listed.checkpoint_id == format!("{}/{}", self.kind.segment(), self.name)
            || path.is_ok_and(|path| path.kind() == self.kind && path.name() == self.name)
    }
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
            BodyFormat::Json => {
                self.check_json()?;
                json_pass(&request)
            }
            _ => protobuf_pass(&request, profile)?,
        };
        call.cost = Cost {
            bytes: self.data.iter().map(Datum::estimated_bytes).sum(),
        };
        Ok(call)
    }

    fn when_lost(&self) -> WhenLost {
        match self.mode {
            PassMode::Forward => WhenLost::Repeat,
            PassMode::ForwardBackward => WhenLost::GiveUp,
        }
    }

    fn has_formats(&self) -> bool {
        true
    }

    fn is_the_same_in_json(&self) -> bool {
        self.sparse_input().is_none()
    }

    fn adds_gradients(&self) -> bool {
        self.mode == PassMode::ForwardBackward
    }

    fn changes_model(&self) -> bool {
        self.adds_gradients()
    }

    fn deduplicated_with(&self) -> Deduplication {
        Deduplication::PassesAndSteps
    }
}

impl PassPart {
    /// The name of an input that is a sparse tensor, if one is.
    fn sparse_input(&self) -> Option<&str> {
        let inputs = self.data.iter().flat_map(|datum| &datum.loss_fn_inputs);
        let mut sparse = inputs.filter(|(_, tensor)| tensor.csr_indices().is_some());
        sparse.next().map(|(name, _)| name.as_str())
    }

    /// Some servers read the stored values of a sparse tensor in JSON and nothing of their places, and do not say so.
    fn check_json(&self) -> Result<()> {
        let Some(name) = self.sparse_input() else {
            return Ok(());
        };
        let message = format!(
            "{name} is sparse, and this server takes passes in JSON, where servers drop the places of the values; send it dense"
        );
        let refused = Error::new(ErrorKind::Unsupported, Sent::NotSent, message);
        Err(refused.with_field(format!("loss_fn_inputs.{name}")))
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

    fn when_lost(&self) -> WhenLost {
        WhenLost::GiveUp
    }

    fn deduplicated_with(&self) -> Deduplication {
        Deduplication::PassesAndSteps
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

    fn when_lost(&self) -> WhenLost {
        WhenLost::Repeat
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
        let json = ServerProfile::default().with_bodies(BodyFormat::Json);
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
    fn a_checkpoint_is_known_by_either_form_of_its_id_and_by_its_kind() {
        let name = SavedName {
            kind: CheckpointKind::Training,
            name: "x".to_owned(),
        };
        for (id, kind, path, is) in [
            ("weights/x", "training", "tinker://m/weights/x", true),
            ("weights/x", "training", "odd", true),
            ("x", "training", "tinker://m/weights/x", true),
            ("x", "sampler", "tinker://m/sampler_weights/x", false),
            ("x", "sampler", "tinker://m/x", false),
            ("sampler_weights/x", "sampler", "tinker://m/x", false),
            ("weights/xx", "training", "tinker://m/weights/xx", false),
        ] {
            let list = format!(
                r#"{{"checkpoints":[{{"checkpoint_id":"{id}","checkpoint_type":"{kind}","time":"","tinker_path":"{path}"}}]}}"#
            );
            let list = tinkers_wire::CheckpointList::read(list.as_bytes()).unwrap();
            assert_eq!(name.is_that_of(&list.checkpoints[0]), is, "{id} {path}");
        }
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
