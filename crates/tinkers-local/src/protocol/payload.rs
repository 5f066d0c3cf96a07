//! The results of operations, in the encodings that polls ask for.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tinkers_wire::{
    DecodeError, FailureCategory, ForwardBackwardOutput, OperationResult, SampleResponse,
};

use crate::engine::{EngineError, Outcome};

/// The encoding of the result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these encodings")]
pub enum Form {
    /// JSON.
    Json,
    /// Protobuf, for forward and backward passes and for samples.
    Protobuf,
}

impl Form {
    /// Returns the encoding for which an `Accept` header asks. The default is JSON.
    pub(crate) fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("protobuf") => Self::Protobuf,
            _ => Self::Json,
        }
    }
}

/// The result of an operation. It is stored in one encoding: results of passes and samples in protobuf, which is shorter, all
/// others in JSON.
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

    /// Returns the encoding for the response to a poll that asks for the encoding `wanted`. Some results exist only as JSON.
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

    /// Returns the size of the result in the encoding `form`, in bytes. Returns `None` if the size is unknown because the result is
    /// not stored in this encoding.
    pub(crate) fn known_size(&self, form: Form) -> Option<usize> {
        (self.kind == Kind::Json || form == Form::Protobuf).then_some(self.bytes.len())
    }

    /// Returns the response body in the encoding `form`. If the result is stored as protobuf, each call encodes it as JSON anew.
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

/// Returns a response body that reports a failed operation, for a stored result that cannot be converted to JSON. The client then
/// gets an error and stops polling.
fn unreadable(error: &DecodeError) -> Bytes {
    tracing::error!(%error, "a result cannot be put into JSON");
    tinkers_wire::to_json(&json!({
        "error": format!("the result has no JSON form: {error}; ask for protobuf"),
        "category": FailureCategory::Server.name(),
    }))
}

/// The outcome of an engine job, with the result already encoded. Encoding takes time, so it is done before the protocol state is
/// locked.
#[derive(Debug)]
pub struct Ended(pub(crate) Result<Product, EngineError>);

/// The successful outcome of an engine job, with the result already encoded.
#[derive(Debug)]
pub(crate) enum Product {
    Nothing,
    Pass(Payload),
    /// The result of a sample, and the number of sampled tokens.
    Sample(Payload, u64),
    Step(Payload),
    Saved(u64),
    /// An outcome of a kind that this version of the server does not know.
    Unknown,
}

impl From<Result<Outcome, EngineError>> for Ended {
    /// Encodes the outcome of an engine job.
    fn from(outcome: Result<Outcome, EngineError>) -> Self {
        Self(outcome.map(|outcome| match outcome {
            Outcome::Done => Product::Nothing,
            Outcome::Pass(output) => Product::Pass(Payload {
                kind: Kind::Pass,
                bytes: output.to_protobuf(),
            }),
            Outcome::Sampled(sample) => {
                let sequences = sample.sequences.iter();
                let tokens = sequences.map(|sequence| sequence.tokens.len() as u64).sum();
                let bytes = sample.to_protobuf();
                let kind = Kind::Sample;
                Product::Sample(Payload { kind, bytes }, tokens)
            }
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
