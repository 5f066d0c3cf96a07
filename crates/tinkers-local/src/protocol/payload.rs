//! The results of operations, in the encodings that polls ask for.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tinkers_wire::{
    DecodeError, FailureCategory, ForwardBackwardOutput, OperationResult, SampleResponse,
};

use crate::engine::{EngineError, Outcome};

/// The encoding of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these encodings")]
pub enum Form {
    /// JSON.
    Json,
    /// Protobuf, for forward and backward passes and for samples.
    Protobuf,
}

impl Form {
    /// Returns the encoding that an `Accept` header asks for.
    pub(crate) fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("protobuf") => Self::Protobuf,
            _ => Self::Json,
        }
    }
}

/// The result of an operation. Only its shorter encoding is stored.
#[derive(Debug)]
pub struct Payload {
    kind: Kind,
    bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    /// The result of a forward or backward pass, stored as protobuf.
    Pass,
    /// The result of a sample, stored as protobuf.
    Sample,
}

impl Payload {
    pub(crate) fn json<T: Serialize>(body: &T) -> Self {
        Self {
            kind: Kind::Json,
            bytes: tinkers_wire::to_json(body),
        }
    }

    /// Returns the encoding of the response to a poll that asks for `wanted`. Some results exist only as JSON.
    pub(crate) fn form(&self, wanted: Form) -> Form {
        match self.kind {
            Kind::Json => Form::Json,
            Kind::Pass | Kind::Sample => wanted,
        }
    }

    /// Returns the size of the stored encoding in bytes.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the size in the encoding `form` in bytes, if it is known without encoding the result.
    pub(crate) fn known_size(&self, form: Form) -> Option<usize> {
        (self.kind == Kind::Json || form == Form::Protobuf).then_some(self.bytes.len())
    }

    /// Returns the body in the encoding `form`. If protobuf is stored, JSON is encoded anew for each call.
    pub fn encode(&self, form: Form) -> Bytes {
        let made = match (self.kind, form) {
            (Kind::Json, _) | (_, Form::Protobuf) => return self.bytes.clone(),
            (Kind::Pass, Form::Json) => {
                ForwardBackwardOutput::from_protobuf(self.bytes.clone()).map(|pass| pass.to_json())
            }
            (Kind::Sample, Form::Json) => {
                SampleResponse::from_protobuf(self.bytes.clone()).map(|sample| sample.to_json())
            }
        };
        made.unwrap_or_else(|error| unreadable(&error))
    }
}

/// Returns a failure as the result if the stored encoding cannot be decoded, so that the client's polls end.
fn unreadable(error: &DecodeError) -> Bytes {
    tracing::error!(%error, "a result cannot be put into JSON");
    tinkers_wire::to_json(&json!({
        "error": format!("the result has no JSON form: {error}; ask for protobuf"),
        "category": FailureCategory::Server.name(),
    }))
}

/// The end of a job, with its encoded result. Created before the protocol is locked, since encoding takes time.
#[derive(Debug)]
pub struct Ended(pub(crate) Result<Product, EngineError>);

/// The outcome of a job.
#[derive(Debug)]
pub(crate) enum Product {
    Nothing,
    Pass(Payload),
    Sample(Payload),
    Step(Payload),
    Saved(u64),
    /// An outcome that this version of the server does not know.
    Unknown,
}

impl From<Result<Outcome, EngineError>> for Ended {
    /// Encodes the outcome of a job.
    fn from(outcome: Result<Outcome, EngineError>) -> Self {
        Self(outcome.map(|outcome| match outcome {
            Outcome::Done => Product::Nothing,
            Outcome::Pass(output) => Product::Pass(Payload {
                kind: Kind::Pass,
                bytes: output.to_protobuf(),
            }),
            Outcome::Sampled(sample) => Product::Sample(Payload {
                kind: Kind::Sample,
                bytes: sample.to_protobuf(),
            }),
            Outcome::Step(step) => Product::Step(Payload {
                kind: Kind::Json,
                bytes: step.to_json(),
            }),
            Outcome::Saved { size_bytes } => Product::Saved(size_bytes),
            #[expect(unreachable_patterns, reason = "the enum is open")]
            _ => Product::Unknown,
        }))
    }
}
