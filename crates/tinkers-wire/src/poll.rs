//! The responses to submissions, and the polls for their results by `retrieve_future`.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names::{display_name, serde_name};
use crate::nulls::null_is_default;
use crate::response::{error_text, excerpt, quote_literals, read_json, reason};
use crate::{DecodeError, lenient};

/// The response to the submission of an asynchronous operation. The result is fetched later with [`RetrieveFuture`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SubmissionResponse {
    /// The id by which the client polls for the result, with `retrieve_future`.
    #[serde(deserialize_with = "lenient::id")]
    pub request_id: String,
    /// The id of the model that the operation creates or changes, if the server sends it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_id"
    )]
    pub model_id: Option<String>,
    /// The ids of the sampled sequences, one per requested sample, if the server sends them.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_ids"
    )]
    pub sample_sequence_ids: Option<Vec<String>>,
}

impl SubmissionResponse {
    /// Decodes the response to a submission.
    ///
    /// # Errors
    /// Fails if the body is not a JSON object with a `request_id`.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

/// `POST /retrieve_future`: polls for the result of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetrieveFuture {
    /// The request id of the operation, from its [`SubmissionResponse`].
    pub request_id: String,
    /// Whether the server may respond with only the size of a large result. The client then polls again for the result.
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_is_default"
    )]
    #[cfg_attr(feature = "schema", schemars(with = "Option<bool>"))]
    pub allow_metadata_only: bool,
}

/// `POST /cancel_future`: cancels a sampling request that the server has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CancelFuture {
    /// The request id of the sampling request.
    pub request_id: String,
}

/// The kind of an operation. Polls for the result of the operation send this kind in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are named after the operations")]
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
    CreateSamplingSession,
    Sample,
}

impl RequestKind {
    /// Returns the name used in the header `X-Tinker-Request-Type`, such as `ForwardBackward`.
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
            Self::CreateSamplingSession => "CreateSamplingSession",
            Self::Sample => "Sample",
        }
    }
}

/// The state of the server's queue of operations, which responses to polls contain while a result is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueState {
    /// `active`: the operation is running, or waits behind other operations.
    Active,
    /// `paused_rate_limit`: the queue is paused because the caller has too many concurrent clients.
    PausedRateLimit,
    /// `paused_capacity`: the queue is paused because the server has no capacity left.
    PausedCapacity,
    /// A state that this version does not know.
    Other(String),
}

impl QueueState {
    /// Returns the name used in JSON, such as `active`.
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
    /// Parses the name of a queue state. Unknown names become [`QueueState::Other`].
    fn from(name: &str) -> Self {
        match name {
            "active" => Self::Active,
            "paused_rate_limit" => Self::PausedRateLimit,
            "paused_capacity" => Self::PausedCapacity,
            other => Self::Other(other.to_owned()),
        }
    }
}

display_name!(RequestKind, QueueState, FailureCategory);
serde_name!(QueueState, FailureCategory);

/// The party that caused an operation to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCategory {
    /// The caller caused the failure, with invalid input.
    User,
    /// The server caused the failure.
    Server,
    /// The party that caused the failure is unknown: the server sends no category, or an unknown one.
    Unknown,
}

impl FailureCategory {
    /// Returns the name used in JSON: `user`, `server` or `unknown`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }
}

impl From<&str> for FailureCategory {
    /// Parses the name of a failure category, ignoring case. Other names become [`FailureCategory::Unknown`].
    fn from(name: &str) -> Self {
        let mut known = [Self::User, Self::Server].into_iter();
        let known = known.find(|category| name.eq_ignore_ascii_case(category.name()));
        known.unwrap_or(Self::Unknown)
    }
}

/// A decoded 2xx response of `retrieve_future`.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "polls handle every response")]
pub enum PollResponse {
    /// The result is not ready. The client should poll again.
    TryAgain {
        /// The state of the server's queue of operations, if the server sends it.
        queue_state: Option<QueueState>,
        /// The server's reason for `queue_state`, such as a reached rate limit, if the server sends it.
        reason: Option<String>,
    },
    /// The result is ready but large. To get it, the client polls again with `allow_metadata_only: false`.
    MetadataOnly {
        /// The size in bytes of the result that the next poll would return.
        size: u64,
    },
    /// The operation failed.
    Failed {
        /// The server's error message.
        error: String,
        /// The party that caused the failure.
        category: FailureCategory,
    },
    /// The operation succeeded. The body is its result, as protobuf.
    Protobuf(Bytes),
    /// A JSON object without any known sign of a pending or failed operation, and so probably the result. The fields of the result are checked
    /// later, by [`OperationResult::from_json`](crate::OperationResult::from_json).
    Json(Bytes),
}

/// The values of the fields `type` and `status` in a poll response that mean that the operation is pending, in the form that [`normalise`]
/// returns.
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
/// The values of the field `status` in a poll response that mean that the operation has failed, in the form that [`normalise`] returns.
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
/// The values of the field `status` in a poll response that mean that the operation has succeeded, in the form that [`normalise`] returns.
const SUCCEEDED: [&str; 7] = [
    "ok",
    "success",
    "succeeded",
    "complete",
    "completed",
    "done",
    "finished",
];

impl PollResponse {
    /// Decodes the body of a 2xx response of `retrieve_future`. Bodies with a known sign of a failed or pending operation are never taken for a
    /// result.
    ///
    /// # Errors
    /// Fails if the body is neither protobuf nor a JSON object.
    pub fn read(content_type: Option<&str>, body: Bytes) -> Result<Self, DecodeError> {
        if content_type.is_some_and(is_protobuf) {
            return Ok(Self::Protobuf(body));
        }
        // Only the fields of `View` are parsed here, so that a large result is not parsed twice.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::new(format!(
                "cannot decode the poll response: expected a JSON object, got: {}",
                excerpt(&body)
            )));
        }
        let (view, body) = View::read(body)?;
        let (kind, status) = (
            normalise(view.kind.as_ref()),
            normalise(view.status.as_ref()),
        );
        let is_pending = |word: &String| PENDING.contains(&word.as_str());
        if is_pending(&kind) {
            return Ok(view.try_again());
        }
        let is_failed = kind.contains("fail") || kind.contains("error");
        if is_failed || FAILED.contains(&status.as_str()) || view.has_error_field() {
            return Ok(view.failed(&body));
        }
        if is_pending(&status) || is_set(view.queue_state.as_ref()) {
            return Ok(view.try_again());
        }
        if status == "completemetadata" {
            let size = view
                .response_payload_size
                .as_ref()
                .and_then(lenient::as_i64);
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

    /// Returns the failure of an operation that a response body reports, or `None` if it reports no failure. Use this only for a body that
    /// cannot be a result, such as the body of an error status. The field `detail` also counts as a failure here. [`PollResponse::read`] ignores
    /// the field `detail`, since a result may contain it, too.
    pub fn failure_in(body: &Bytes) -> Option<Self> {
        match Self::read(None, body.clone()) {
            Ok(failed @ Self::Failed { .. }) => return Some(failed),
            Ok(Self::Json(_)) => {}
            _ => return None,
        }
        let (view, body) = View::read(body.clone()).ok()?;
        is_set(view.detail.as_ref()).then(|| view.failed(&body))
    }

    /// Returns the state of the server's queue and the reason for this state from the body of a 408 response to a poll, if the body contains
    /// them.
    pub fn queue_state_of_timeout(body: &[u8]) -> (Option<QueueState>, Option<String>) {
        read_json::<View>(body).map_or((None, None), |view| view.queue())
    }

    /// Builds the body of a `try_again` response, with which a server says that the result is not ready.
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

/// Returns whether the body of an error response to a poll says that the result is not ready. `true` for the forms that a 2xx response has,
/// and for error messages such as `not ready`.
pub fn says_not_ready(body: &[u8]) -> bool {
    const WORDS: [&str; 5] = [
        "not ready",
        "still pending",
        "still running",
        "in progress",
        "not finished",
    ];
    if matches!(
        PollResponse::read(None, Bytes::copy_from_slice(body)),
        Ok(PollResponse::TryAgain { .. })
    ) {
        return true;
    }
    let words = error_text(body).unwrap_or_default().to_ascii_lowercase();
    WORDS.iter().any(|part| words.contains(part))
}

/// Returns whether a `Content-Type` value means protobuf. Servers use two names for protobuf.
fn is_protobuf(content_type: &str) -> bool {
    content_type.contains("application/x-protobuf") || content_type.contains("application/protobuf")
}

/// Returns whether a JSON field is present and neither null, false nor empty.
fn is_set(field: Option<&Value>) -> bool {
    match field {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Bool(true) | Value::Number(_)) => true,
    }
}

/// Returns the ASCII letters and digits of a string field in lower case, so that `try_again` and `TryAgain` both give `tryagain`.
fn normalise(field: Option<&Value>) -> String {
    let text = field.and_then(Value::as_str).unwrap_or_default();
    let letters = text.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// Decodes the result of an operation of `kind`. `fields` are the fields of the result, all optional. So that another response is not
/// mistaken for the result, the JSON object must be empty, have one of the `fields`, have `kind` as its `type`, or have the `status` of a
/// successful operation.
pub(crate) fn read_known<T: DeserializeOwned>(
    body: &[u8],
    kind: &str,
    fields: &[&str],
) -> Result<T, DecodeError> {
    let object: Map<String, Value> = read_json(body).map_err(|error| error.quoting(body))?;
    let is_known = object.is_empty()
        || fields.iter().any(|field| object.contains_key(*field))
        || object.get("type").and_then(Value::as_str) == Some(kind)
        || SUCCEEDED.contains(&normalise(object.get("status")).as_str());
    if !is_known {
        let message = format!(
            "cannot decode the result of {kind}: expected one of the fields {}",
            fields.join(", ")
        );
        return Err(DecodeError::new(message).quoting(body));
    }
    serde_json::from_value(Value::Object(object))
        .map_err(|error| DecodeError::from(error).quoting(body))
}

/// The fields of a poll response that show whether the operation is pending, has failed or has succeeded.
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
    /// Parses the fields of this type from the body of a poll response. Also returns the body, in which the literals `NaN` and `Infinity` are
    /// replaced by strings if they make the body invalid JSON.
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

    /// Returns whether the response contains a field that only the responses of failed operations contain.
    fn has_error_field(&self) -> bool {
        [&self.error, &self.error_message, &self.category]
            .into_iter()
            .any(|field| is_set(field.as_ref()))
    }

    fn failed(&self, body: &[u8]) -> PollResponse {
        let inner = self.error.as_ref().and_then(|error| error.get("category"));
        let category = self.category.as_ref().or(inner).and_then(Value::as_str);
        PollResponse::Failed {
            error: error_text(body).unwrap_or_else(|| {
                format!("the server gave no reason; it sent: {}", excerpt(body))
            }),
            category: category.unwrap_or_default().into(),
        }
    }

    fn try_again(&self) -> PollResponse {
        let (queue_state, reason) = self.queue();
        PollResponse::TryAgain {
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

    #[test]
    fn error_body_of_a_pending_result_is_recognized() {
        for (body, expected) in [
            (r#"{"detail": "not ready"}"#, true),
            (r#"{"status": "pending"}"#, true),
            (r#"{"type": "try_again"}"#, true),
            ("The operation is still running", true),
            (r#"{"detail": "Future not found"}"#, false),
            ("", false),
        ] {
            assert_eq!(says_not_ready(body.as_bytes()), expected, "{body}");
        }
    }

    fn read(body: &'static str) -> PollResponse {
        PollResponse::read(
            Some("application/json"),
            Bytes::from_static(body.as_bytes()),
        )
        .unwrap()
    }

    #[test]
    fn poll_responses_of_each_kind_are_decoded() {
        assert_eq!(
            read(
                r#"{"type": "try_again", "request_id": "1", "queue_state": "paused_capacity", "queue_state_reason": "busy"}"#
            ),
            PollResponse::TryAgain {
                queue_state: Some(QueueState::PausedCapacity),
                reason: Some("busy".into())
            }
        );
        assert_eq!(
            read(r#"{"type": "try_again", "queue_state": "paused_for_repair"}"#),
            PollResponse::TryAgain {
                queue_state: Some(QueueState::Other("paused_for_repair".into())),
                reason: None
            }
        );
        assert_eq!(
            read(r#"{"status": "complete_metadata", "response_payload_size": 12}"#),
            PollResponse::MetadataOnly { size: 12 }
        );
        assert_eq!(
            read(r#"{"status": "complete_metadata", "response_payload_size": null}"#),
            PollResponse::MetadataOnly { size: 0 }
        );
        assert_eq!(
            read(r#"{"error": "out of vocabulary", "category": "user"}"#),
            PollResponse::Failed {
                error: "out of vocabulary".into(),
                category: FailureCategory::User
            }
        );
        assert_eq!(
            read(r#"{"error": "?", "category": "network"}"#),
            PollResponse::Failed {
                error: "?".into(),
                category: FailureCategory::Unknown
            }
        );
        // A result may have its own `status` and `type`.
        assert!(matches!(
            read(
                r#"{"path": "tinker://m/weights/c", "type": "save_weights", "status": "completed"}"#
            ),
            PollResponse::Json(_)
        ));
        let proto = PollResponse::read(
            Some("application/x-protobuf; v=1"),
            Bytes::from_static(&[8, 1]),
        )
        .unwrap();
        assert_eq!(proto, PollResponse::Protobuf(Bytes::from_static(&[8, 1])));
    }

    #[test]
    fn response_of_a_failed_operation_is_not_taken_for_a_result() {
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
            let failed = PollResponse::Failed {
                error: error.into(),
                category,
            };
            assert_eq!(read(body), failed, "{body}");
        }
        // A result may have a `detail` field, or failure fields that are empty.
        for body in [
            r#"{"path": "tinker://m/weights/c", "error": null, "category": null}"#,
            r#"{"metrics": {}, "error": "", "error_message": null}"#,
            r#"{"detail": "CUDA out of memory"}"#,
        ] {
            assert!(matches!(read(body), PollResponse::Json(_)), "{body}");
        }
        let detail = Bytes::from_static(br#"{"detail": "CUDA out of memory"}"#);
        let failed = PollResponse::Failed {
            error: "CUDA out of memory".into(),
            category: C::Unknown,
        };
        assert_eq!(PollResponse::failure_in(&detail), Some(failed));
        for none in [r#"{"status": "ok"}"#, r#"{"status": "pending"}"#, "<html>"] {
            assert_eq!(PollResponse::failure_in(&Bytes::from(none)), None, "{none}");
        }
    }

    #[test]
    fn response_of_a_pending_operation_is_not_taken_for_a_result() {
        for body in [
            r#"{"status": "pending"}"#,
            r#"{"status": "pending", "request_id": "4", "future_id": "4", "error": null}"#,
            r#"{"status": "IN_PROGRESS"}"#,
            r#"{"type": "TryAgainResponse"}"#,
            r#"{"type": "try_again", "error": "not yet"}"#,
        ] {
            let pending = PollResponse::TryAgain {
                queue_state: None,
                reason: None,
            };
            assert_eq!(read(body), pending, "{body}");
        }
        let queued = PollResponse::TryAgain {
            queue_state: Some(QueueState::Active),
            reason: None,
        };
        assert_eq!(read(r#"{"queue_state": "active"}"#), queued);
    }

    #[test]
    fn result_inside_a_wrapper_object_is_unwrapped() {
        let wrapped = read(r#"{"status": "completed", "result": {"model_id": "m"}}"#);
        assert_eq!(
            wrapped,
            PollResponse::Json(Bytes::from(r#"{"model_id":"m"}"#))
        );
        let running = read(r#"{"status": "running", "result": {"model_id": "m"}}"#);
        assert!(matches!(running, PollResponse::TryAgain { .. }));
    }

    #[test]
    fn submission_response_with_integer_ids_is_decoded() {
        let response = SubmissionResponse::read(
            br#"{"request_id": 7, "future_id": "7", "status": "pending", "model_id": null, "sample_sequence_ids": [1, "b"]}"#,
        );
        let expected = SubmissionResponse {
            request_id: "7".into(),
            model_id: None,
            sample_sequence_ids: Some(vec!["1".into(), "b".into()]),
        };
        assert_eq!(response, Ok(expected));
        for (body, message) in [
            (r#"{"status": "accepted"}"#, "request_id"),
            (r#"{"request_id": null}"#, "expected an id, got null"),
            ("<html>welcome</html>", "<html>welcome"),
        ] {
            let error = SubmissionResponse::read(body.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn poll_response_that_is_not_a_json_object_is_rejected() {
        for body in ["", "<html>", "[]", "[1, 2]", "\"text\"", "{"] {
            assert!(
                PollResponse::read(Some("text/html"), Bytes::from_static(body.as_bytes())).is_err(),
                "{body}"
            );
        }
    }

    #[test]
    fn queue_state_is_read_from_the_body_of_a_408_response() {
        let queue = PollResponse::queue_state_of_timeout(br#"{"queue_state": "active"}"#);
        assert_eq!(queue, (Some(QueueState::Active), None));
        assert_eq!(
            PollResponse::queue_state_of_timeout(br#"{"detail": "Timeout waiting for result"}"#),
            (None, None)
        );
    }
}
