//! What a request is for, as the network sees it.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tinkers::wire::{PassMode, PassRequest, routes};
use tinkers_core::HttpRequest;

/// The operations of the API that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the routes'")]
pub enum Op {
    Config,
    CreateSession,
    Heartbeat,
    Finish,
    CreateModel,
    GetInfo,
    Forward,
    ForwardBackward,
    OptimStep,
    SaveState,
    SaveForSampler,
    Load,
    CreateSampler,
    Sample,
    Poll,
    SessionPoll,
    Listing,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Config,
        Self::CreateSession,
        Self::Heartbeat,
        Self::Finish,
        Self::CreateModel,
        Self::GetInfo,
        Self::Forward,
        Self::ForwardBackward,
        Self::OptimStep,
        Self::SaveState,
        Self::SaveForSampler,
        Self::Load,
        Self::CreateSampler,
        Self::Sample,
        Self::Poll,
        Self::SessionPoll,
        Self::Listing,
    ];

    /// What a request is for. Passes without gradients go to the same route as those with them, in protobuf.
    pub fn of_request(request: &HttpRequest) -> Self {
        let op = Self::of(&request.path);
        if op == Self::ForwardBackward
            && is_protobuf(request)
            && let Ok(body) = plain(request)
            && let Ok(pass) = PassRequest::from_protobuf(body)
            && pass.mode == PassMode::Forward
        {
            return Self::Forward;
        }
        op
    }

    /// What a request to `path` is for, as far as that says.
    fn of(path: &str) -> Self {
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
            routes::RETRIEVE_FUTURES => Self::SessionPoll,
            _ if route.ends_with("/finish") => Self::Finish,
            _ => Self::Listing,
        }
    }

    /// The short name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::CreateSession => "session",
            Self::Heartbeat => "beat",
            Self::Finish => "finish",
            Self::CreateModel => "model",
            Self::GetInfo => "info",
            Self::Forward => "fwd",
            Self::ForwardBackward => "fwdbwd",
            Self::OptimStep => "step",
            Self::SaveState => "save",
            Self::SaveForSampler => "export",
            Self::Load => "load",
            Self::CreateSampler => "sampler",
            Self::Sample => "sample",
            Self::Poll => "poll",
            Self::SessionPoll => "polls",
            Self::Listing => "list",
        }
    }

    /// Whether it is answered with a promise, and its result comes later.
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

    /// Whether twice is more than once.
    pub const fn adds(self) -> bool {
        matches!(self, Self::ForwardBackward | Self::OptimStep)
    }
}

/// The model that a request is for.
pub(crate) fn model_of(request: &HttpRequest) -> Option<String> {
    let body = plain(request).ok()?;
    if is_protobuf(request) {
        return Some(PassRequest::from_protobuf(body).ok()?.model_id);
    }
    let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
    body["model_id"].as_str().map(str::to_owned)
}

fn is_protobuf(request: &HttpRequest) -> bool {
    let kind = request.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.contains("protobuf"))
}

/// The body as it was before it was compressed.
pub(crate) fn plain(request: &HttpRequest) -> std::io::Result<Bytes> {
    match request.headers.get(CONTENT_ENCODING) {
        Some(_) => zstd::decode_all(&request.body[..]).map(Bytes::from),
        None => Ok(request.body.clone()),
    }
}
