//! The error type of the SDK.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tinkers_wire::{FailureCategory, InvalidInput};

use crate::time::Timestamp;

/// Whether a failed request may have reached the server, in any of its attempts.
///
/// If any attempt has an unknown outcome, the error has [`Sent::MaybeSent`], even if a later attempt got a response. So a conflict (409)
/// with `MaybeSent` may be caused by an earlier attempt of the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// No attempt was sent. It is safe to make the call again.
    NotSent,
    /// An attempt may have reached the server, and its outcome is unknown.
    MaybeSent,
    /// The server sent a response with an error, and no earlier attempt may have been applied.
    Answered,
}

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is invalid, and nothing was sent. [`Error::field`] names the argument.
    InvalidInput,
    /// The configuration of the client is invalid: base URL, key or environment.
    Configuration,
    /// The credential is missing, or the server does not accept it (401).
    Authentication,
    /// The credential has no permission for the request (403).
    PermissionDenied,
    /// The server requires payment (402), and the maximum billing pause is over.
    Billing,
    /// An object, such as a checkpoint or base model, does not exist (404).
    NotFound,
    /// An object exists already, or a sequence number was used twice (409).
    Conflict,
    /// The server's rate limit would delay the request beyond its deadline. [`Error::retry_at`] is the time at which it could be sent.
    RateLimited,
    /// The server rejected the request for another reason (400, 422 and other 4xx).
    Rejected,
    /// The server failed (5xx).
    Server,
    /// The connection could not be opened, or broke.
    Connection,
    /// A timeout or deadline passed.
    Timeout,
    /// The operation made no progress for longer than its progress deadline. [`Error::stalled`] has the phase.
    Stalled,
    /// The operation failed on the server. [`Error::category`] has the cause.
    OperationFailed,
    /// The server has lost the result of the operation (410).
    ResultLost,
    /// The server no longer knows the session, or a model or sampler of the session: the session expired, the server was restarted, or
    /// the model was unloaded. Connect a new client, create a model from the last checkpoint (`training_from_state`) and continue; see
    /// the example `resume`. A missing checkpoint is [`ErrorKind::NotFound`].
    SessionLost,
    /// The response does not come from a Tinker server, or cannot be decoded.
    Protocol,
    /// The request may or may not have been applied, and the server is not known to deduplicate it.
    OutcomeUnknown,
    /// An earlier failure made further training calls unsafe. That failure is the source of this error.
    Poisoned,
    /// The client was closed.
    Closed,
    /// The caller cancelled the operation.
    Cancelled,
    /// The background task panicked, or its runtime ended.
    Aborted,
    /// The server or this version of the client does not support the operation.
    Unsupported,
    /// A local file or device failed.
    Io,
}

/// The phase of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The operation waits for admission by the rate limits.
    Admission,
    /// The client sends the request of the operation.
    Submitting,
    /// The server has accepted the operation, and the result is not available yet.
    Waiting,
    /// The client fetches the result.
    Fetching,
}

/// The state of an operation whose progress deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// The phase in which the operation stalled.
    pub phase: Phase,
    /// The time since the last progress.
    pub since: Duration,
}

/// The error of every fallible operation of the SDK. It is cheap to clone, since clones share one value.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    sent: Sent,
    field: Option<String>,
    status: Option<u16>,
    body: Bytes,
    request_id: Option<String>,
    retry_at: Option<Timestamp>,
    retry_after: Option<Duration>,
    category: Option<FailureCategory>,
    stalled: Option<Stalled>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The maximum number of bytes of a response body that an error keeps.
    pub const MAX_BODY: usize = 4096;

    /// Creates an error. `message` is a lower-case fragment that says what failed, then what to do.
    pub fn new(kind: ErrorKind, sent: Sent, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            sent,
            field: None,
            status: None,
            body: Bytes::new(),
            request_id: None,
            retry_at: None,
            retry_after: None,
            category: None,
            stalled: None,
            source: None,
        }))
    }

    /// Creates the error for an invalid argument. `expected` describes the valid values.
    pub fn invalid(field: impl Into<String>, expected: impl fmt::Display) -> Self {
        InvalidInput::new(field, expected).into()
    }

    /// Creates the error of a call on a closed client.
    pub fn closed() -> Self {
        Self::new(
            ErrorKind::Closed,
            Sent::NotSent,
            "the client is closed; connect a new one",
        )
    }

    /// Creates the error of a request that failed with `cause` but may have been applied.
    pub fn outcome_unknown(cause: Self) -> Self {
        let message = format!("the server may or may not have applied this request: {cause}");
        Self::new(ErrorKind::OutcomeUnknown, Sent::MaybeSent, message).with_source(cause)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the request may have reached the server.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// Returns whether the same call may succeed later. Whether it is safe to make the call again depends on [`Error::sent`].
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::RateLimited
                | ErrorKind::Server
                | ErrorKind::Connection
                | ErrorKind::Timeout
                | ErrorKind::Stalled
                | ErrorKind::ResultLost
        ) || self.0.category == Some(FailureCategory::Server)
    }

    /// Returns the time, on the client's clock, at which the server will accept the request. `None` if unknown.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.0.retry_at
    }

    /// Returns the time from this error until the server will accept the request. `None` if unknown.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the request id of the operation, if the server accepted it.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Returns the HTTP status of the response, if there was a response.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// Returns the response body, cut to [`Error::MAX_BODY`] bytes. Empty if there was no response.
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// Returns the name of the invalid argument. `None` for other errors.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Returns whether the user or the server caused the failure of the operation, according to the server.
    pub fn category(&self) -> Option<FailureCategory> {
        self.0.category
    }

    /// Returns the state of a stalled operation. `None` for other errors.
    pub fn stalled(&self) -> Option<Stalled> {
        self.0.stalled
    }

    /// Returns the public method that failed, as `Client.method`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Sets the public method that failed, unless one is set.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| {
            inner.operation.get_or_insert(operation);
        })
    }

    /// Prepends `context` to the message.
    #[must_use]
    pub fn with_context(self, context: impl fmt::Display) -> Self {
        self.edit(|inner| inner.message = format!("{context}: {}", inner.message))
    }

    /// Sets whether the request may have reached the server.
    #[must_use]
    pub fn with_sent(self, sent: Sent) -> Self {
        self.edit(|inner| inner.sent = sent)
    }

    /// Sets the name of the invalid argument.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        let field = field.into();
        self.edit(|inner| inner.field = Some(field))
    }

    /// Adds the status and body of the response.
    #[must_use]
    pub fn with_response(self, status: u16, body: &Bytes) -> Self {
        // A copy, so that a small error does not keep a large body alive.
        let kept = Bytes::copy_from_slice(&body[..body.len().min(Self::MAX_BODY)]);
        self.edit(|inner| {
            inner.status = Some(status);
            inner.body = kept;
        })
    }

    /// Adds the request id of the operation.
    #[must_use]
    pub fn with_request_id(self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.edit(|inner| inner.request_id = Some(id))
    }

    /// Adds the time `at` at which the server will accept the request. `now` is the time of the error.
    #[must_use]
    pub fn with_retry_at(self, now: Timestamp, at: Timestamp) -> Self {
        self.edit(|inner| {
            inner.retry_at = Some(at);
            inner.retry_after = Some(at.since(now));
        })
    }

    /// Adds the cause of a failed operation according to the server.
    #[must_use]
    pub fn with_category(self, category: FailureCategory) -> Self {
        self.edit(|inner| inner.category = Some(category))
    }

    /// Adds the state of a stalled operation.
    #[must_use]
    pub fn with_stalled(self, stalled: Stalled) -> Self {
        self.edit(|inner| inner.stalled = Some(stalled))
    }

    /// Adds the source error.
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(status) = self.0.status {
            write!(f, " (status {status})")?;
        }
        if let Some(id) = &self.0.request_id {
            write!(f, " (request {id})")?;
        }
        if self.0.sent == Sent::MaybeSent {
            f.write_str(" (the request may have reached the server)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Error");
        s.field("kind", &self.0.kind)
            .field("sent", &self.0.sent)
            .field("message", &self.to_string());
        if let Some(field) = &self.0.field {
            s.field("field", field);
        }
        if let Some(source) = &self.0.source {
            s.field("source", &source.to_string());
        }
        s.finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<InvalidInput> for Error {
    fn from(invalid: InvalidInput) -> Self {
        let field = invalid.field().to_owned();
        Self::new(ErrorKind::InvalidInput, Sent::NotSent, invalid.to_string()).with_field(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_argument_error_names_the_field_and_is_not_sent() {
        let error = Error::invalid("max_tokens", "at least 1, got 0");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.field(), Some("max_tokens"));
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("max_tokens"), "{error}");
    }

    #[test]
    fn long_response_body_is_truncated_in_the_error() {
        let body = Bytes::from(vec![b'x'; 10_000]);
        let error = Error::new(ErrorKind::Server, Sent::Answered, "no").with_response(500, &body);
        assert_eq!(error.body().len(), Error::MAX_BODY);
        assert_eq!(error.status(), Some(500));
    }

    #[test]
    fn error_context_is_prepended_to_the_message() {
        let error = Error::new(ErrorKind::Server, Sent::Answered, "no room")
            .with_response(503, &Bytes::new())
            .with_context("while saving");
        assert_eq!(error.to_string(), "while saving: no room (status 503)");
        assert_eq!(error.kind(), ErrorKind::Server);
    }

    #[test]
    fn changed_clone_of_an_error_leaves_the_original_unchanged() {
        let first = Error::closed();
        let second = first.clone().with_operation("TrainingClient.optim_step");
        assert_eq!(first.operation(), None);
        assert_eq!(second.operation(), Some("TrainingClient.optim_step"));
    }
}
