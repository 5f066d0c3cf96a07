//! The error type of the SDK.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tinkers_wire::{FailureCategory, InvalidInput};

use crate::time::Timestamp;

/// Whether a failed request may have reached the server in any of its attempts, and so may have been applied.
///
/// If any attempt has an unknown outcome, the error has [`Sent::MaybeSent`], even if a later attempt got a response. So a conflict (409)
/// with `MaybeSent` may be caused by an earlier attempt of the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "programs must decide each case, and there is no other"
)]
pub enum Sent {
    /// No attempt was sent. It is safe to make the call again.
    NotSent,
    /// An attempt may have reached the server, and its outcome is unknown.
    MaybeSent,
    /// The server sent a response with an error, and no earlier attempt may have been applied.
    Answered,
}

/// The kind of an [`Error`]. Each kind says what to do about the error.
///
/// ```
/// use std::time::Duration;
/// # use tinkers_core as tinkers;
/// use tinkers::{Error, ErrorKind};
///
/// /// Returns how long a program should wait before it repeats a failed sample, or `None` if it should stop.
/// fn pause(error: &Error) -> Option<Duration> {
///     match error.kind() {
///         ErrorKind::RateLimited => error.retry_after(),
///         _ if error.is_retryable() => Some(Duration::from_secs(10)),
///         _ => None,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is invalid, and no request was sent. Correct the argument that [`Error::field`] names.
    InvalidInput,
    /// The configuration of the client is invalid: base URL, API key or environment. Correct the setting that the message names.
    Configuration,
    /// The server does not accept the credential, or there is none (401). Check `TINKER_API_KEY` or the API key that the program sets.
    Authentication,
    /// The credential has no permission for the request (403). Use the API key of the owner, or ask the owner for access.
    PermissionDenied,
    /// The server requires payment (402), and the client has waited for the payment as long as it may. Settle the bill, then repeat the
    /// call.
    Billing,
    /// An object such as a checkpoint or base model does not exist (404). Compare its name with the names that the server lists.
    NotFound,
    /// An object exists already, or a sequence number was reused (409, or the failed result of a save). Use another name. With [`Sent::MaybeSent`] an earlier attempt of the
    /// same call may have created the object.
    Conflict,
    /// The server's rate limit holds the request back beyond its deadline, so the request was not sent. Repeat the call at
    /// [`Error::retry_at`].
    RateLimited,
    /// The server rejected the request for another reason (400, 422 and other 4xx). The message contains the server's reason. Repeating the
    /// same request fails, too.
    Rejected,
    /// The server failed (5xx) at every attempt of the request. Repeat the call later if [`Error::sent`] allows it.
    Server,
    /// The connection could not be opened, or broke. Check the address and the network, then repeat the call if [`Error::sent`] allows it.
    Connection,
    /// A timeout or deadline passed. The server may still carry out the operation: repeat the call only if [`Error::sent`] allows it, or set a
    /// longer time limit.
    Timeout,
    /// The operation made no progress for as long as its progress deadline allows; [`Error::stalled`] has its phase. Check the state of the
    /// server before you repeat the call.
    Stalled,
    /// The operation failed on the server. [`Error::category`] tells whether the request or the server is the cause: correct the request, or
    /// repeat the call.
    OperationFailed,
    /// The server has lost the result of the operation (410). The operation may have been applied: repeat a sample, and continue training from
    /// the last checkpoint.
    ResultLost,
    /// The server no longer knows the session, or a model or sampler of the session: the session expired, the server was restarted, or the
    /// model was unloaded. Connect a new client, create a model from the last checkpoint
    /// (`create_training_client_from_state_with_optimizer`) and continue; see the example `resume`. The request that got this response was
    /// not applied; with [`Sent::MaybeSent`] an earlier attempt of it may have been. In both cases the model is lost with the session. A
    /// missing checkpoint is [`ErrorKind::NotFound`].
    SessionLost,
    /// The response is not one of a Tinker server, or cannot be decoded. Check the base URL, and that proxies leave responses unchanged.
    Protocol,
    /// The request may or may not have been applied, and the server is not known to deduplicate the request. Do not repeat the request:
    /// continue training from the last checkpoint.
    OutcomeUnknown,
    /// An earlier failure, the source of this error, made further training calls unsafe. Call `TrainingClient::recover`, or create a new
    /// client from the last checkpoint.
    Poisoned,
    /// The client was closed. Connect a new one.
    Closed,
    /// The caller cancelled the operation. A training call that was sent is still applied.
    Cancelled,
    /// The background task of the operation panicked, or the runtime of that task ended. Keep the runtime alive as long as the client. A
    /// panic is a bug of the SDK, or of a transport layer or an engine that the program provides.
    Aborted,
    /// The server, or this version of the SDK, does not support the operation. The message names what is missing.
    Unsupported,
    /// Access to a local file or device failed. The source has the reason.
    Io,
}

/// Writes the name of the kind, such as `RateLimited`.
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// The phase of an operation, from the wait for admission to the fetch of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The request waits for admission by the rate limits.
    Admission,
    /// The request is being sent.
    Submitting,
    /// The server accepted the request, and the result is not ready.
    Waiting,
    /// The client fetches the result.
    Fetching,
}

/// Writes the name of the phase in lower case, such as `admission`.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Admission => "admission",
            Self::Submitting => "submitting",
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
        })
    }
}

/// How an operation stalled, which means that its progress deadline has passed: in which phase, and for how long without progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalled {
    /// The phase of the operation when its progress deadline passed.
    pub phase: Phase,
    /// The time between the last progress and the error.
    pub since: Duration,
}

impl Stalled {
    /// Creates the description of an operation that made no progress for the duration `since` in `phase`.
    pub const fn new(phase: Phase, since: Duration) -> Self {
        Self { phase, since }
    }
}

/// The error of every fallible operation of the SDK. It is cheap to clone, since clones share one value.
///
/// `{error}` is the error itself, `{error:#}` adds its sources on the same line, and `{error:?}` adds each source on a line of its own, so that
/// `fn main() -> Result<(), Error>` prints a readable text.
///
/// ```
/// # use tinkers_core as tinkers;
/// use tinkers::{Error, ErrorKind, Sent};
///
/// let full = std::io::Error::other("disk full");
/// let error = Error::new(ErrorKind::Io, Sent::NotSent, "cannot write the metrics").with_source(full);
/// assert_eq!(error.to_string(), "cannot write the metrics");
/// assert_eq!(format!("{error:#}"), "cannot write the metrics: disk full");
/// assert_eq!(format!("{error:?}"), "Io: cannot write the metrics\n  caused by: disk full");
/// ```
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
    /// The maximum number of bytes of the response body that an error contains.
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
        let message = "the server may or may not have applied this request";
        Self::new(ErrorKind::OutcomeUnknown, Sent::MaybeSent, message).with_source(cause)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the failed request may have reached the server.
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

    /// Returns the time, on the client's clock, at which the server will accept the rejected request. `None` if the server did not say.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.0.retry_at
    }

    /// Returns the time from the creation of this error until the server will accept the request. `None` if the server did not say.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the id that the server gave to the request of the operation, if the server accepted the request.
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

    /// Returns who caused the failure of the operation, according to the server: the user, by the request, or the server itself. `None` for
    /// other errors.
    pub fn category(&self) -> Option<FailureCategory> {
        self.0.category
    }

    /// Returns the phase in which the operation stalled, and for how long it made no progress. `None` for other errors than `Stalled`.
    pub fn stalled(&self) -> Option<Stalled> {
        self.0.stalled
    }

    /// Returns the name of the public method that failed, in the form `Client.method`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Sets the name of the public method that failed, unless a name is set already.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| {
            inner.operation.get_or_insert(operation);
        })
    }

    /// Puts `context` before the message of the error.
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

    /// Adds the status and the body of the response. The body is cut to [`Error::MAX_BODY`] bytes.
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

    /// Adds `at`, the time at which the server will accept the request. `now` is the time of the error, from which [`Error::retry_after`]
    /// is counted.
    #[must_use]
    pub fn with_retry_at(self, now: Timestamp, at: Timestamp) -> Self {
        self.edit(|inner| {
            inner.retry_at = Some(at);
            inner.retry_after = Some(at.since(now));
        })
    }

    /// Adds whether the user or the server caused the failure of the operation, according to the server.
    #[must_use]
    pub fn with_category(self, category: FailureCategory) -> Self {
        self.edit(|inner| inner.category = Some(category))
    }

    /// Adds the phase in which the operation stalled, and for how long it made no progress.
    #[must_use]
    pub fn with_stalled(self, stalled: Stalled) -> Self {
        self.edit(|inner| inner.stalled = Some(stalled))
    }

    /// Adds the error that caused this error, as its source.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = Arc::from(source.into());
        self.edit(|inner| inner.source = Some(source))
    }

    fn sources(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let mut next = self.source();
        std::iter::from_fn(move || {
            let source = next?;
            next = source.source();
            Some(source)
        })
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
        if f.alternate() {
            return self
                .sources()
                .try_for_each(|source| write!(f, ": {source}"));
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)?;
        self.sources()
            .try_for_each(|source| write!(f, "\n  caused by: {source}"))
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
    fn displayed_error_kind_is_padded_to_the_format_width() {
        assert_eq!(format!("{:<8}|", ErrorKind::Server), "Server  |");
    }

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
