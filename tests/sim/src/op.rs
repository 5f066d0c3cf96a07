//! The operation of a request, which its path and its body determine.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tinkers::wire::{PassMode, PassRequest, routes};
use tinkers_core::HttpRequest;

use crate::named_enum::named_enum;

named_enum! {
    /// An operation of the API that a request performs.
    #[expect(missing_docs, reason = "the variants are named like the routes")]
    pub enum Op {
        Config = "config",
        CreateSession = "session",
        Heartbeat = "heartbeat",
        Finish = "finish",
        CreateModel = "model",
        GetInfo = "info",
        Forward = "fwd",
        ForwardBackward = "fwdbwd",
        OptimStep = "step",
        SaveState = "save",
        SaveForSampler = "export",
        Load = "load",
        CreateSampler = "sampler",
        Sample = "sample",
        Poll = "poll",
        SharedPoll = "shared",
        Listing = "list",
    }
}

impl Op {
    /// Returns the operation that a request performs. A protobuf forward pass is sent to the route
    /// of forward-backward passes. Therefore the body must be decoded to tell the two operations
    /// apart.
    pub fn of_request(request: &HttpRequest) -> Self {
        let op = Self::of_path(&request.path);
        if op == Self::ForwardBackward
            && is_protobuf(request)
            && let Ok(body) = uncompressed_body(request)
            && let Ok(pass) = PassRequest::from_protobuf(body)
            && pass.mode == PassMode::Forward
        {
            return Self::Forward;
        }
        op
    }

    /// Returns the operation that requests to a path perform, except that protobuf forward passes
    /// are not told apart from forward-backward passes.
    fn of_path(path: &str) -> Self {
        let route = path.split('?').next().unwrap_or(path);
        match route {
            routes::CLIENT_CONFIG | routes::DYNAMIC_CONFIG => Self::Config,
            routes::CREATE_SESSION => Self::CreateSession,
            routes::SESSION_HEARTBEAT => Self::Heartbeat,
            routes::CREATE_MODEL => Self::CreateModel,
            routes::GET_INFO | routes::WEIGHTS_INFO => Self::GetInfo,
            routes::FORWARD => Self::Forward,
            routes::FORWARD_BACKWARD => Self::ForwardBackward,
            routes::OPTIM_STEP => Self::OptimStep,
            routes::SAVE_WEIGHTS => Self::SaveState,
            routes::SAVE_WEIGHTS_FOR_SAMPLER => Self::SaveForSampler,
            routes::LOAD_WEIGHTS => Self::Load,
            routes::CREATE_SAMPLING_SESSION => Self::CreateSampler,
            routes::ASAMPLE => Self::Sample,
            routes::RETRIEVE_FUTURE => Self::Poll,
            routes::RETRIEVE_FUTURES => Self::SharedPoll,
            _ if route.ends_with("/finish") => Self::Finish,
            _ => Self::Listing,
        }
    }

    /// Returns whether the operation is submitted first and polled for afterwards: the response to
    /// its request contains a request id with which the client polls for the result.
    pub const fn is_submission(self) -> bool {
        matches!(
            self,
            Self::CreateModel
                | Self::Forward
                | Self::ForwardBackward
                | Self::OptimStep
                | Self::SaveState
                | Self::SaveForSampler
                | Self::Load
                | Self::Sample
        )
    }

    /// Returns whether applying the operation twice changes the model more than applying it once.
    pub const fn is_cumulative(self) -> bool {
        matches!(self, Self::ForwardBackward | Self::OptimStep)
    }
}

/// Returns the model id that the body of a request contains, if any.
pub(crate) fn model_of(request: &HttpRequest) -> Option<String> {
    let body = uncompressed_body(request).ok()?;
    if is_protobuf(request) {
        return Some(PassRequest::from_protobuf(body).ok()?.model_id);
    }
    let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
    body["model_id"].as_str().map(str::to_owned)
}

fn is_protobuf(request: &HttpRequest) -> bool {
    let content_type = request.headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.contains("protobuf"))
}

/// Returns the body of a request. Decompresses it if necessary.
pub(crate) fn uncompressed_body(request: &HttpRequest) -> std::io::Result<Bytes> {
    match request.headers.get(CONTENT_ENCODING) {
        Some(_) => zstd::decode_all(&request.body[..]).map(Bytes::from),
        None => Ok(request.body.clone()),
    }
}
