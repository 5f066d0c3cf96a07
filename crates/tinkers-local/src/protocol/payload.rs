//! Results, in the form that the poll asks for.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::Serialize;
use tinkers_wire::{ForwardBackwardOutput, SampleResponse};

use crate::engine::{EngineError, Outcome};

/// The representation of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// JSON.
    Json,
    /// Protobuf, for passes and samples.
    Protobuf,
}

impl Form {
    /// The form that an `Accept` header asks for.
    pub(crate) fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("protobuf") => Self::Protobuf,
            _ => Self::Json,
        }
    }
}

/// The result of an operation, encoded at most once in each form.
#[derive(Debug)]
pub struct Payload {
    content: Content,
    json: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "always behind the Arc of its payload"
)]
enum Content {
    Json(Bytes),
    Pass(ForwardBackwardOutput),
    Sample(SampleResponse),
}

impl Payload {
    pub(crate) fn json<T: Serialize>(body: &T) -> Self {
        Self::of(Content::Json(tinkers_wire::to_json(body)))
    }

    fn of(content: Content) -> Self {
        Self {
            content,
            json: OnceLock::new(),
            protobuf: OnceLock::new(),
        }
    }

    /// The form that a poll for `wanted` gets: not every result has both.
    pub(crate) fn form(&self, wanted: Form) -> Form {
        match self.content {
            Content::Json(_) => Form::Json,
            _ => wanted,
        }
    }

    /// The body in `form`. Cheap after the first time.
    pub fn encode(&self, form: Form) -> Bytes {
        match (&self.content, form) {
            (Content::Json(bytes), _) => bytes.clone(),
            (Content::Pass(output), Form::Json) => {
                self.json.get_or_init(|| output.to_json()).clone()
            }
            (Content::Pass(output), Form::Protobuf) => {
                self.protobuf.get_or_init(|| output.to_protobuf()).clone()
            }
            (Content::Sample(sample), Form::Json) => {
                self.json.get_or_init(|| sample.to_json()).clone()
            }
            (Content::Sample(sample), Form::Protobuf) => {
                self.protobuf.get_or_init(|| sample.to_protobuf()).clone()
            }
        }
    }
}

/// How a job ended, made ready for polls. Built from an outcome before the protocol is locked, since it encodes results.
#[derive(Debug)]
pub struct Ended(pub(crate) Result<Product, EngineError>);

/// What a job gave.
#[derive(Debug)]
pub(crate) enum Product {
    Nothing,
    Pass(Payload),
    Sample(Payload),
    Step(Payload),
    Saved(u64),
    /// An outcome that this version does not know.
    Unknown,
}

impl From<Result<Outcome, EngineError>> for Ended {
    fn from(outcome: Result<Outcome, EngineError>) -> Self {
        Self(outcome.map(|outcome| match outcome {
            Outcome::Done => Product::Nothing,
            Outcome::Pass(output) => Product::Pass(encoded(Content::Pass(output))),
            Outcome::Sampled(sample) => Product::Sample(encoded(Content::Sample(sample))),
            Outcome::Step(step) => Product::Step(Payload::json(&step)),
            Outcome::Saved { size_bytes } => Product::Saved(size_bytes),
            #[expect(unreachable_patterns, reason = "the enum is open")]
            _ => Product::Unknown,
        }))
    }
}

fn encoded(content: Content) -> Payload {
    let payload = Payload::of(content);
    payload.encode(Form::Protobuf);
    payload
}
