//! The requests of training calls. Each request builds its HTTP call for a given sequence number.

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

/// A request of a training call, such as an optimizer step. With the same sequence number and the same `ServerProfile` (the known properties of
/// the server), the request body always has the same bytes, so that the server can recognize retries.
pub(crate) trait Request: Send + Sync + fmt::Debug {
    /// Builds the HTTP call that sends the request with the sequence number `seq_id`, in a form that suits the known properties of the server
    /// (`profile`).
    fn call(&self, seq_id: u64, profile: &ServerProfile) -> Result<Call>;

    /// Returns what to do if the response is lost and the server is not known to recognize a repeated request.
    fn on_lost_reply(&self) -> OnLostReply;

    /// Returns whether the request saves weights.
    fn is_save(&self) -> bool {
        false
    }

    /// Returns the name and kind of the checkpoint that the request saves. `None` if the request is no named save.
    fn saved_name(&self) -> Option<SavedName> {
        None
    }

    /// Returns a copy of the request with a new sampling sequence number (the number of the sampler that an unnamed save creates). This is
    /// needed for servers that reject a retry with the same number. Returns `None` if the request has no sampling sequence number.
    fn with_new_sampling_number(&self, session: &dyn SessionContext) -> Option<Box<dyn Request>> {
        let _ = session;
        None
    }

    /// Returns whether the request body can be encoded in two formats, protobuf and JSON. Some servers accept only one of these formats.
    fn has_formats(&self) -> bool {
        false
    }

    /// Returns whether the JSON body loses no data, so that servers decode the same request from it as from the protobuf body.
    fn is_the_same_in_json(&self) -> bool {
        true
    }

    /// Returns whether the request adds gradients to the accumulated gradients of the model.
    fn adds_gradients(&self) -> bool {
        false
    }

    /// Returns whether the request changes the weights, the optimizer state or the accumulated gradients of the model.
    fn changes_model(&self) -> bool {
        true
    }

    /// Returns which requests a server must deduplicate by sequence number, so that it applies this request only once even if the request is
    /// retried.
    fn required_deduplication(&self) -> Deduplication {
        Deduplication::Everything
    }
}

/// The action after the response to a request was lost, so that it is unknown whether the server has applied the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLostReply {
    /// Retry the request, since applying it twice in a row has the same effect as once.
    Repeat,
    /// Look for the checkpoint of the save, and retry the save if there is none.
    LookUp,
    /// Fail with `OutcomeUnknown`, since applying the request twice would be wrong.
    Fail,
}

/// The name and kind of a checkpoint. Together they identify the checkpoint within its training run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SavedName {
    pub(crate) kind: CheckpointKind,
    pub(crate) name: String,
}

impl SavedName {
    /// Returns whether a checkpoint in the server's list has this name and kind. Some servers list the id as `<kind>/<name>`, others list
    /// only the name and state the kind in the path.
    pub(crate) fn is_of(&self, listed: &Checkpoint) -> bool {
        let path = listed.tinker_path.parse::<TinkerPath>();
        listed.checkpoint_id == format!("{}/{}", self.kind.segment(), self.name)
            || path.is_ok_and(|path| path.kind() == Some(self.kind) && path.name() == self.name)
    }
}

/// The request for a forward or forward-backward pass over the data of one chunk of a batch.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) model_id: Arc<str>,
    pub(crate) mode: PassMode,
    pub(crate) data: Vec<Datum>,
    pub(crate) loss: Loss,
}

impl Request for Pass {
    fn call(&self, seq_id: u64, profile: &ServerProfile) -> Result<Call> {
        let request = PassRequest {
            model_id: self.model_id.to_string(),
            seq_id,
            mode: self.mode,
            data: self.data.clone(),
            loss: self.loss.clone(),
        };
        let mut call = match profile.body_format {
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

    fn on_lost_reply(&self) -> OnLostReply {
        match self.mode {
            PassMode::Forward => OnLostReply::Repeat,
            PassMode::ForwardBackward => OnLostReply::Fail,
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

    fn required_deduplication(&self) -> Deduplication {
        Deduplication::PassesAndSteps
    }
}

impl Pass {
    /// Returns the name of the first input of the loss function that is a sparse tensor, or `None` if all inputs are dense.
    fn sparse_input(&self) -> Option<&str> {
        let inputs = self.data.iter().flat_map(|datum| &datum.loss_fn_inputs);
        let mut sparse = inputs.filter(|(_, tensor)| tensor.csr_indices().is_some());
        sparse.next().map(|(name, _)| name.as_str())
    }

    /// Checks that the pass can be sent as JSON. Fails if an input of the loss function is sparse, since some servers silently ignore the
    /// indices of sparse tensors in JSON.
    fn check_json(&self) -> Result<()> {
        let Some(name) = self.sparse_input() else {
            return Ok(());
        };
        let message = format!(
            "{name} is sparse, and this server accepts training data only as JSON, where servers drop the indices of the values; send it dense"
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
    let compressed = match profile.zstd_bodies {
        true => compress(&body)?,
        false => None,
    };
    let is_compressed = compressed.is_some();
    let body = compressed.unwrap_or(body);
    let mut call = Call::post(routes::FORWARD_BACKWARD, body, RouteClass::Train);
    call.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-protobuf"),
    );
    if is_compressed {
        call.headers
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(call)
}

/// Returns `None`: without the feature `zstd`, request bodies are not compressed.
#[cfg(not(feature = "zstd"))]
fn compress(_: &Bytes) -> Result<Option<Bytes>> {
    Ok(None)
}

/// Compresses a request body with zstd at the default level. The result is one zstd frame. The frame header states the size of the content.
#[cfg(feature = "zstd")]
fn compress(body: &Bytes) -> Result<Option<Bytes>> {
    let failed = |error: std::io::Error| {
        Error::new(
            ErrorKind::Io,
            Sent::NotSent,
            "cannot compress a request body",
        )
        .with_source(error)
    };
    let compressed = zstd::bulk::compress(body, 3).map_err(failed)?;
    Ok(Some(compressed.into()))
}

/// The request for an optimizer step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) model_id: Arc<str>,
    pub(crate) params: AdamParams,
}

impl Request for Step {
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

    fn on_lost_reply(&self) -> OnLostReply {
        OnLostReply::Fail
    }

    fn required_deduplication(&self) -> Deduplication {
        Deduplication::PassesAndSteps
    }
}

/// The request to load a checkpoint into an existing model.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) model_id: Arc<str>,
    pub(crate) path: TinkerPath,
    pub(crate) optimizer: bool,
}

impl Request for Load {
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

    fn on_lost_reply(&self) -> OnLostReply {
        OnLostReply::Repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_core::ProfileUpdate;
    use tinkers_wire::LossFn;

    fn pass(mode: PassMode) -> Pass {
        let data = vec![Datum::next_token(&[1, 2, 3], vec![1.0; 2]).unwrap()];
        Pass {
            model_id: Arc::from("m"),
            mode,
            data,
            loss: LossFn::CrossEntropy.into(),
        }
    }

    #[test]
    fn json_forward_pass_is_not_sent_to_the_forward_backward_route() {
        let json = ServerProfile::default().with_body_format(BodyFormat::Json);
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
    fn zstd_compressed_body_decodes_to_the_same_request() {
        let zstd = ServerProfile::default().learn(ProfileUpdate::ZstdBodies);
        let call = pass(PassMode::ForwardBackward).call(3, &zstd).unwrap();
        assert_eq!(call.headers[header::CONTENT_ENCODING], "zstd");
        let body = zstd::bulk::decompress(&call.body, 1 << 20).unwrap();
        assert_eq!(PassRequest::from_protobuf(body.into()).unwrap().seq_id, 3);
    }

    #[test]
    fn listed_checkpoint_is_matched_by_kind_and_by_both_forms_of_its_id() {
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
            assert_eq!(name.is_of(&list.checkpoints[0]), is, "{id} {path}");
        }
    }

    #[test]
    fn request_body_has_the_same_bytes_in_each_attempt() {
        let profile = ServerProfile::default();
        let request = pass(PassMode::ForwardBackward);
        assert_eq!(
            request.call(1, &profile).unwrap().body,
            request.call(1, &profile).unwrap().body
        );
    }
}
