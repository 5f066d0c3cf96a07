//! Promises and the answers of `retrieve_future`.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answer::{error_text, excerpt, quote_literals, read_json, reason};
use crate::nulls::null_is_default;
use crate::{DecodeError, lenient};

/// The immediate answer of everything whose result comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Promise {
    /// The handle for `retrieve_future`.
    #[serde(deserialize_with = "lenient::id")]
    pub request_id: String,
    /// The model, where the server says so.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub model_id: Option<String>,
    /// One id for each requested sample; not every server sends them.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_ids"
    )]
    pub sample_sequence_ids: Option<Vec<String>>,
}

impl Promise {
    /// Reads a promise.
    ///
    /// # Errors
    /// When the body is none: no JSON object, or without `request_id`.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
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

    /// Reads the name in any letter case.
    fn read(value: Option<&Value>) -> Self {
        let name = value.and_then(Value::as_str).unwrap_or_default();
        let known = [Self::User, Self::Server].into_iter();
        let mut known = known.filter(|category| name.eq_ignore_ascii_case(category.name()));
        known.next().unwrap_or(Self::Unknown)
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
    /// The result, as JSON, when it has the fields of its kind: [`OperationResult::from_json`](crate::OperationResult::from_json)
    /// finds that out.
    Json(Bytes),
}

/// What servers say of an operation that has not ended, in `type` or `status`, as [`word`] gives it.
const PENDING: [&str; 10] = [
    "tryagain",
    "tryagainresponse",
    "pending",
    "queued",
    "running",
    "processing",
    "inprogress",
    "notready",
    "waiting",
    "started",
];
/// What they say in `status` of one that failed.
const FAILED: [&str; 8] = [
    "failed",
    "failure",
    "error",
    "errored",
    "cancelled",
    "canceled",
    "aborted",
    "rejected",
];
/// And of one that succeeded.
const SUCCEEDED: [&str; 7] = [
    "ok",
    "success",
    "succeeded",
    "complete",
    "completed",
    "done",
    "finished",
];

impl PollAnswer {
    /// Reads the body of a 2xx answer. What has a known form of failure or of "not yet" is never a result.
    ///
    /// # Errors
    /// When it is neither protobuf nor a JSON object.
    pub fn read(content_type: Option<&str>, body: Bytes) -> Result<Self, DecodeError> {
        if content_type.is_some_and(is_protobuf) {
            return Ok(Self::Protobuf(body));
        }
        // The short forms are recognised from a shallow view, so that a large result is not parsed twice.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::new(format!(
                "unreadable answer to a poll: expected a JSON object, got: {}",
                excerpt(&body)
            )));
        }
        let (view, body) = View::read(body)?;
        let (kind, status) = (word(view.kind.as_ref()), word(view.status.as_ref()));
        let is_pending = |word: &String| PENDING.contains(&word.as_str());
        if is_pending(&kind) {
            return Ok(view.try_again());
        }
        let is_failed = kind.contains("fail") || kind.contains("error");
        if is_failed || FAILED.contains(&status.as_str()) || view.tells_of_an_error() {
            return Ok(view.failed(&body));
        }
        if is_pending(&status) || is_said(view.queue_state.as_ref()) {
            return Ok(view.try_again());
        }
        if status == "completemetadata" {
            let size = view.response_payload_size.as_ref().and_then(lenient::whole);
            let size = size.and_then(|size| size.try_into().ok()).unwrap_or(0);
            return Ok(Self::MetadataOnly { size });
        }
        // Some servers wrap the result.
        match view.result {
            Some(Value::Object(result)) if SUCCEEDED.contains(&status.as_str()) => {
                Ok(Self::Json(crate::to_json(&result)))
            }
            _ => Ok(Self::Json(body)),
        }
    }

    /// The failure that a body tells of in `detail`, once it is known that it is no result: a result may have a field of that name.
    pub fn failure_in(body: &Bytes) -> Option<Self> {
        match Self::read(None, body.clone()) {
            Ok(failed @ Self::Failed { .. }) => return Some(failed),
            Ok(Self::Json(_)) => {}
            _ => return None,
        }
        let (view, body) = View::read(body.clone()).ok()?;
        is_said(view.detail.as_ref()).then(|| view.failed(&body))
    }

    /// The queue state that the body of a 408 may carry.
    pub fn queue_of_timeout(body: &[u8]) -> (Option<QueueState>, Option<String>) {
        read_json::<View>(body).map_or((None, None), |view| view.queue())
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

/// A field of a body: there, and neither null, false nor empty.
fn is_said(field: Option<&Value>) -> bool {
    match field {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Bool(true) | Value::Number(_)) => true,
    }
}

/// A word such as `try_again`, `TryAgain` or `in progress` in one spelling: letters alone, in lower case.
fn word(field: Option<&Value>) -> String {
    let text = field.and_then(Value::as_str).unwrap_or_default();
    let letters = text.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// Reads a result of `kind`, none of whose `fields` is required. Anything but an object that is empty, has one of them, names its kind as `type`
/// or says that it succeeded is no result: it could be any other answer.
pub(crate) fn read_known<T: DeserializeOwned>(
    body: &[u8],
    kind: &str,
    fields: &[&str],
) -> Result<T, DecodeError> {
    let object: Map<String, Value> = read_json(body).map_err(|error| error.quoting(body))?;
    let is_known = object.is_empty()
        || fields.iter().any(|field| object.contains_key(*field))
        || object.get("type").and_then(Value::as_str) == Some(kind)
        || SUCCEEDED.contains(&word(object.get("status")).as_str());
    if !is_known {
        let message = format!("none of the fields of {kind}: {}", fields.join(", "));
        return Err(DecodeError::new(message).quoting(body));
    }
    serde_json::from_value(Value::Object(object))
        .map_err(|error| DecodeError::from(error).quoting(body))
}

/// The fields by which the forms of answers are told apart.
#[derive(Default, Deserialize)]
#[serde(default)]
struct View {
    #[serde(rename = "type")]
    kind: Option<Value>,
    queue_state: Option<Value>,
    queue_state_reason: Option<Value>,
    status: Option<Value>,
    response_payload_size: Option<Value>,
    error: Option<Value>,
    error_message: Option<Value>,
    detail: Option<Value>,
    category: Option<Value>,
    result: Option<Value>,
}

impl View {
    /// The view of a body, and the body in plain JSON.
    fn read(body: Bytes) -> Result<(Self, Bytes), DecodeError> {
        let error = match serde_json::from_slice(&body) {
            Ok(view) => return Ok((view, body)),
            Err(error) => DecodeError::from(error).quoting(&body),
        };
        match quote_literals(&body) {
            Cow::Owned(quoted) => Ok((serde_json::from_slice(&quoted)?, quoted.into())),
            Cow::Borrowed(_) => Err(error),
        }
    }

    /// `category` comes with failures alone.
    fn tells_of_an_error(&self) -> bool {
        [&self.error, &self.error_message, &self.category]
            .into_iter()
            .any(|field| is_said(field.as_ref()))
    }

    fn failed(&self, body: &[u8]) -> PollAnswer {
        let inner = self.error.as_ref().and_then(|error| error.get("category"));
        PollAnswer::Failed {
            error: error_text(body).unwrap_or_else(|| {
                format!("the server gave no reason; it sent: {}", excerpt(body))
            }),
            category: FailureCategory::read(self.category.as_ref().or(inner)),
        }
    }

    fn try_again(&self) -> PollAnswer {
        let (queue_state, reason) = self.queue();
        PollAnswer::TryAgain {
            queue_state,
            reason,
        }
    }

    fn queue(&self) -> (Option<QueueState>, Option<String>) {
        let state = self.queue_state.as_ref().and_then(Value::as_str);
        let reason = self.queue_state_reason.as_ref().and_then(reason);
        (state.map(QueueState::from), reason)
    }
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
    fn known_forms_of_failure_are_no_results() {
        use FailureCategory as C;
        for (body, error, category) in [
            (
                r#"{"type": "RequestFailedResponse", "error_message": "CUDA out of memory"}"#,
                "CUDA out of memory",
                C::Unknown,
            ),
            (
                r#"{"status": "failed", "message": "CUDA out of memory"}"#,
                "CUDA out of memory",
                C::Unknown,
            ),
            (
                r#"{"status": "FAILED", "category": "Server", "reason": "no room"}"#,
                "no room",
                C::Server,
            ),
            (
                r#"{"error": "Traceback", "category": "USER"}"#,
                "Traceback",
                C::User,
            ),
            (
                r#"{"error": {"message": "no room", "category": "server"}}"#,
                "no room",
                C::Server,
            ),
            (
                r#"{"error": null, "category": "system"}"#,
                r#"the server gave no reason; it sent: {"error": null, "category": "system"}"#,
                C::Unknown,
            ),
            (
                r#"{"error": {"code": 5}, "loss": NaN}"#,
                r#"the server gave no reason; it sent: {"error": {"code": 5}, "loss": "NaN"}"#,
                C::Unknown,
            ),
        ] {
            let failed = PollAnswer::Failed {
                error: error.into(),
                category,
            };
            assert_eq!(read(body), failed, "{body}");
        }
        // A result may have a field `detail`, and empty fields of a failure.
        for body in [
            r#"{"path": "tinker://m/weights/c", "error": null, "category": null}"#,
            r#"{"metrics": {}, "error": "", "error_message": null}"#,
            r#"{"detail": "CUDA out of memory"}"#,
        ] {
            assert!(matches!(read(body), PollAnswer::Json(_)), "{body}");
        }
        let detail = Bytes::from_static(br#"{"detail": "CUDA out of memory"}"#);
        let failed = PollAnswer::Failed {
            error: "CUDA out of memory".into(),
            category: C::Unknown,
        };
        assert_eq!(PollAnswer::failure_in(&detail), Some(failed));
        for none in [r#"{"status": "ok"}"#, r#"{"status": "pending"}"#, "<html>"] {
            assert_eq!(PollAnswer::failure_in(&Bytes::from(none)), None, "{none}");
        }
    }

    #[test]
    fn known_forms_of_pending_are_no_results() {
        for body in [
            r#"{"status": "pending"}"#,
            r#"{"status": "pending", "request_id": "4", "future_id": "4", "error": null}"#,
            r#"{"status": "IN_PROGRESS"}"#,
            r#"{"type": "TryAgainResponse"}"#,
            r#"{"type": "try_again", "error": "not yet"}"#,
        ] {
            let pending = PollAnswer::TryAgain {
                queue_state: None,
                reason: None,
            };
            assert_eq!(read(body), pending, "{body}");
        }
        let queued = PollAnswer::TryAgain {
            queue_state: Some(QueueState::Active),
            reason: None,
        };
        assert_eq!(read(r#"{"queue_state": "active"}"#), queued);
    }

    #[test]
    fn a_wrapped_result_is_unwrapped() {
        let wrapped = read(r#"{"status": "completed", "result": {"model_id": "m"}}"#);
        assert_eq!(
            wrapped,
            PollAnswer::Json(Bytes::from(r#"{"model_id":"m"}"#))
        );
        let running = read(r#"{"status": "running", "result": {"model_id": "m"}}"#);
        assert!(matches!(running, PollAnswer::TryAgain { .. }));
    }

    #[test]
    fn a_promise_is_read_whatever_its_ids_are_made_of() {
        let promise = Promise::read(
            br#"{"request_id": 7, "future_id": "7", "status": "pending", "model_id": null, "sample_sequence_ids": [1, "b"]}"#,
        );
        let expected = Promise {
            request_id: "7".into(),
            model_id: None,
            sample_sequence_ids: Some(vec!["1".into(), "b".into()]),
        };
        assert_eq!(promise, Ok(expected));
        for (none, says) in [
            (r#"{"status": "accepted"}"#, "request_id"),
            (r#"{"request_id": null}"#, "expected an id, got null"),
            ("<html>welcome</html>", "<html>welcome"),
        ] {
            let error = Promise::read(none.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
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
