//! Promises and the answers of `retrieve_future`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DecodeError;
use crate::nulls::null_is_default;

/// The immediate answer of everything whose result comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Promise {
    /// The handle for `retrieve_future`.
    pub request_id: String,
    /// The model, where the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// One id for each requested sample; not every server sends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_sequence_ids: Option<Vec<String>>,
}

impl Promise {
    /// Reads a promise.
    ///
    /// # Errors
    /// When the body is none: no JSON object, or without `request_id`.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Ok(serde_json::from_slice(body)?)
    }
}

/// `POST /retrieve_future`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetrieveFuture {
    /// The handle.
    pub request_id: String,
    /// Whether the server may answer that the result is large instead of sending it.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<bool>"))]
    pub allow_metadata_only: bool,
}

/// `POST /cancel_future`: a sample whose result is not wanted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CancelFuture {
    /// The handle.
    pub request_id: String,
}

/// What kind of operation a poll is for; sent as a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the operations'")]
pub enum RequestKind {
    CreateModel,
    Forward,
    ForwardBackward,
    OptimStep,
    SaveWeights,
    SaveWeightsForSampler,
    SaveWeightsExternal,
    LoadWeights,
    UnloadModel,
    Sample,
}

impl RequestKind {
    /// The value of the header `X-Tinker-Request-Type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateModel => "CreateModel",
            Self::Forward => "Forward",
            Self::ForwardBackward => "ForwardBackward",
            Self::OptimStep => "OptimStep",
            Self::SaveWeights => "SaveWeights",
            Self::SaveWeightsForSampler => "SaveWeightsForSampler",
            Self::SaveWeightsExternal => "SaveWeightsExternal",
            Self::LoadWeights => "LoadWeights",
            Self::UnloadModel => "UnloadModel",
            Self::Sample => "Sample",
        }
    }
}

/// The state of the server's queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueState {
    /// Running or queued normally.
    Active,
    /// Too many concurrent clients.
    PausedRateLimit,
    /// The backend is short on capacity.
    PausedCapacity,
    /// A state that this version does not know.
    Other(String),
}

impl QueueState {
    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::PausedRateLimit => "paused_rate_limit",
            Self::PausedCapacity => "paused_capacity",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for QueueState {
    fn from(name: &str) -> Self {
        match name {
            "active" => Self::Active,
            "paused_rate_limit" => Self::PausedRateLimit,
            "paused_capacity" => Self::PausedCapacity,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Whose fault a failed operation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCategory {
    /// The caller's.
    User,
    /// The server's.
    Server,
    /// The server does not say.
    Unknown,
}

impl FailureCategory {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }

    fn read(value: Option<&Value>) -> Self {
        match value.and_then(Value::as_str) {
            Some("user") => Self::User,
            Some("server") => Self::Server,
            _ => Self::Unknown,
        }
    }
}

/// A successful answer of `retrieve_future`, or the body of a 408.
#[derive(Debug, Clone, PartialEq)]
pub enum PollAnswer {
    /// Not ready: ask again.
    TryAgain {
        /// The state of the queue.
        queue_state: Option<QueueState>,
        /// Why, in the server's words.
        reason: Option<String>,
    },
    /// Ready but large: ask again with `allow_metadata_only: false`.
    MetadataOnly {
        /// The size of the result in bytes.
        size: u64,
    },
    /// The operation failed.
    Failed {
        /// The server's words.
        error: String,
        /// Whose fault it was.
        category: FailureCategory,
    },
    /// The result, as protobuf.
    Protobuf(Bytes),
    /// The result, as JSON.
    Json(Bytes),
}

impl PollAnswer {
    /// Reads the body of a 2xx answer.
    ///
    /// # Errors
    /// When it is neither protobuf nor a JSON object.
    pub fn read(content_type: Option<&str>, body: Bytes) -> Result<Self, DecodeError> {
        if content_type.is_some_and(is_protobuf) {
            return Ok(Self::Protobuf(body));
        }
        // The short forms are recognised from a shallow view, so that a large result is not parsed twice.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::new(
                "unreadable answer to a poll: expected a JSON object",
            ));
        }
        let view: View<'_> = serde_json::from_slice(&body)?;
        if view.kind.as_deref() == Some("try_again") {
            let (queue_state, reason) =
                queue_of(view.queue_state.as_deref(), view.queue_state_reason);
            return Ok(Self::TryAgain {
                queue_state,
                reason,
            });
        }
        if view
            .status
            .and_then(|status| status.as_str().map(|text| text == "complete_metadata"))
            == Some(true)
        {
            let size = view
                .response_payload_size
                .and_then(|size| size.as_u64())
                .unwrap_or(0);
            return Ok(Self::MetadataOnly { size });
        }
        if let Some(error) = view.error {
            let text = error
                .as_str()
                .map_or_else(|| error.to_string(), str::to_owned);
            return Ok(Self::Failed {
                error: text,
                category: FailureCategory::read(view.category.as_ref()),
            });
        }
        Ok(Self::Json(body))
    }

    /// The queue state that the body of a 408 may carry.
    pub fn queue_of_timeout(body: &[u8]) -> (Option<QueueState>, Option<String>) {
        let Ok(view) = serde_json::from_slice::<View<'_>>(body) else {
            return (None, None);
        };
        queue_of(view.queue_state.as_deref(), view.queue_state_reason)
    }

    /// The body of a `try_again` answer, for servers.
    pub fn try_again_body(
        request_id: &str,
        queue_state: &QueueState,
        reason: Option<&str>,
    ) -> Value {
        let mut body = serde_json::json!({ "type": "try_again", "request_id": request_id, "queue_state": queue_state.name() });
        if let Some(reason) = reason {
            body["queue_state_reason"] = reason.into();
        }
        body
    }
}

/// Whether a content type is protobuf, by either of its names.
fn is_protobuf(content_type: &str) -> bool {
    content_type.contains("application/x-protobuf") || content_type.contains("application/protobuf")
}

fn queue_of(state: Option<&str>, reason: Option<String>) -> (Option<QueueState>, Option<String>) {
    (state.map(QueueState::from), reason)
}

#[derive(Deserialize)]
struct View<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    queue_state: Option<String>,
    #[serde(default)]
    queue_state_reason: Option<String>,
    #[serde(default)]
    status: Option<Value>,
    #[serde(default)]
    response_payload_size: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    category: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> PollAnswer {
        PollAnswer::read(
            Some("application/json"),
            Bytes::from_static(body.as_bytes()),
        )
        .unwrap()
    }

    #[test]
    fn each_form_of_answer_is_told_apart() {
        assert_eq!(
            read(
                r#"{"type": "try_again", "request_id": "1", "queue_state": "paused_capacity", "queue_state_reason": "busy"}"#
            ),
            PollAnswer::TryAgain {
                queue_state: Some(QueueState::PausedCapacity),
                reason: Some("busy".into())
            }
        );
        assert_eq!(
            read(r#"{"type": "try_again", "queue_state": "paused_for_tea"}"#),
            PollAnswer::TryAgain {
                queue_state: Some(QueueState::Other("paused_for_tea".into())),
                reason: None
            }
        );
        assert_eq!(
            read(r#"{"status": "complete_metadata", "response_payload_size": 12}"#),
            PollAnswer::MetadataOnly { size: 12 }
        );
        assert_eq!(
            read(r#"{"status": "complete_metadata", "response_payload_size": null}"#),
            PollAnswer::MetadataOnly { size: 0 }
        );
        assert_eq!(
            read(r#"{"error": "out of vocabulary", "category": "user"}"#),
            PollAnswer::Failed {
                error: "out of vocabulary".into(),
                category: FailureCategory::User
            }
        );
        assert_eq!(
            read(r#"{"error": "?", "category": "gremlins"}"#),
            PollAnswer::Failed {
                error: "?".into(),
                category: FailureCategory::Unknown
            }
        );
        // A result may have a status of its own and a type.
        assert!(matches!(
            read(
                r#"{"path": "tinker://m/weights/c", "type": "save_weights", "status": "completed"}"#
            ),
            PollAnswer::Json(_)
        ));
        let proto = PollAnswer::read(
            Some("application/x-protobuf; v=1"),
            Bytes::from_static(&[8, 1]),
        )
        .unwrap();
        assert_eq!(proto, PollAnswer::Protobuf(Bytes::from_static(&[8, 1])));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for body in ["", "<html>", "[]", "[1, 2]", "\"text\"", "{"] {
            assert!(
                PollAnswer::read(Some("text/html"), Bytes::from_static(body.as_bytes())).is_err(),
                "{body}"
            );
        }
    }

    #[test]
    fn the_body_of_a_408_may_tell_of_the_queue() {
        let told = PollAnswer::queue_of_timeout(br#"{"queue_state": "active"}"#);
        assert_eq!(told, (Some(QueueState::Active), None));
        assert_eq!(
            PollAnswer::queue_of_timeout(br#"{"detail": "Timeout waiting for result"}"#),
            (None, None)
        );
    }
}
