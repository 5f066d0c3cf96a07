//! The one error of the SDK: a kind, what is known of the request, a context, a source.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tinkers_wire::{FailureCategory, InvalidInput};

use crate::time::Timestamp;
use crate::transport::{TransportError, TransportErrorKind};

/// What is known of the request that failed, over all its attempts.
///
/// An attempt whose fate is unknown is never forgotten: whatever the later attempts of the same call met, the error says
/// [`Sent::MaybeSent`], also where it has the status of the last answer. So a conflict (409) that comes with `MaybeSent` may be
/// the server's word on the earlier attempt, and a refusal with it says nothing of what that attempt did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// No attempt left: repeating it is safe.
    NotSent,
    /// Some attempt may have reached the server, and what it did there is not known.
    MaybeSent,
    /// The server answered, and no earlier attempt may have been applied.
    Answered,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is wrong; nothing was sent. [`Error::field`] names it.
    InvalidInput,
    /// The client's set-up is wrong: base URL, key, environment.
    Configuration,
    /// No credential, or one that the server does not take (401).
    Authentication,
    /// The credential may not do this (403).
    PermissionDenied,
    /// Billing stands in the way (402) and the pause for it is over.
    Billing,
    /// There is no such thing (404), such as a checkpoint or a base model.
    NotFound,
    /// It exists already, or a sequence number was reused (409).
    Conflict,
    /// The server's rate limit does not let it go before the deadline; [`Error::retry_at`] says when it could.
    RateLimited,
    /// Any other refusal of the request (400, 422 and the other 4xx).
    Rejected,
    /// The server failed (5xx).
    Server,
    /// No connection, or it broke.
    Connection,
    /// A time limit passed.
    Timeout,
    /// No news of the operation for its whole progress deadline; [`Error::stalled`] has the phase.
    Stalled,
    /// The operation itself failed on the server; [`Error::category`] says whose fault.
    OperationFailed,
    /// The server no longer knows the operation (410): its result is lost.
    ResultLost,
    /// The server does not know the session any more, or the model or sampler of it: the session expired, the server was started
    /// again, or the model was unloaded. Nothing of it can be used. Connect a new client, make a model from the last checkpoint
    /// (`training_from_state`), and go on from there; the example `resume` does. A missing checkpoint is [`ErrorKind::NotFound`].
    SessionLost,
    /// An answer that no Tinker server gives, or that cannot be read.
    Protocol,
    /// The request may or may not have been applied, and the server is not known to de-duplicate.
    OutcomeUnknown,
    /// An earlier failure made further training calls unsafe; the source is that failure.
    Poisoned,
    /// The client was closed.
    Closed,
    /// The caller cancelled it.
    Cancelled,
    /// The background task panicked or its runtime ended.
    Aborted,
    /// The server, or this version, does not offer it.
    Unsupported,
    /// A local file or device.
    Io,
}

/// Where an operation was when it stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for its turn or for the rate limit.
    Admission,
    /// Being submitted.
    Submitting,
    /// Accepted; the result is being waited for.
    Waiting,
    /// The result is ready and being fetched.
    Fetching,
}

/// The progress deadline passed without news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// Where it was.
    pub phase: Phase,
    /// How long there had been no news.
    pub since: Duration,
}

/// The error of every fallible operation. Cheap to clone: clones share one value.
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
    /// At most this much of an answer's body is kept, in bytes.
    pub const MAX_BODY: usize = 4096;

    /// An error of `kind`; `message` is a lower-case fragment that says what to do next where that is known.
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

    /// An argument that is wrong, with what was expected of it.
    pub fn invalid(field: impl Into<String>, expected: impl fmt::Display) -> Self {
        InvalidInput::new(field, expected).into()
    }

    /// The client was closed before this could be done.
    pub fn closed() -> Self {
        Self::new(
            ErrorKind::Closed,
            Sent::NotSent,
            "the client is closed; connect a new one",
        )
    }

    /// The server may have applied a request that ended in `cause`, and a repeat could apply it twice.
    pub fn outcome_unknown(cause: Self) -> Self {
        let message = format!("the server may or may not have applied this request: {cause}");
        Self::new(ErrorKind::OutcomeUnknown, Sent::MaybeSent, message).with_source(cause)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is known of the request.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// Whether the same call may succeed later, unchanged. Not whether repeating it is safe: see [`Error::sent`].
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

    /// The first moment at which the server would take it, on the clock of the client, when it said so.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.0.retry_at
    }

    /// How long after this error the server would take it, when it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The server's id of the operation, when it got one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The HTTP status, when there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The first [`Error::MAX_BODY`] bytes of the answer's body.
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// The argument that is wrong.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// Whose fault a failed operation was, as the server sees it.
    pub fn category(&self) -> Option<FailureCategory> {
        self.0.category
    }

    /// Where the operation stalled.
    pub fn stalled(&self) -> Option<Stalled> {
        self.0.stalled
    }

    /// The public method that failed, as `Client.method`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// Names the public method, unless a more exact name is there.
    #[must_use]
    pub fn with_operation(self, operation: &'static str) -> Self {
        self.edit(|inner| {
            inner.operation.get_or_insert(operation);
        })
    }

    /// Puts `context` before the message: where, or while what, it happened.
    #[must_use]
    pub fn with_context(self, context: impl fmt::Display) -> Self {
        self.edit(|inner| inner.message = format!("{context}: {}", inner.message))
    }

    /// Sets what is known of the request.
    #[must_use]
    pub fn with_sent(self, sent: Sent) -> Self {
        self.edit(|inner| inner.sent = sent)
    }

    /// Names the argument that is wrong.
    #[must_use]
    pub fn with_field(self, field: impl Into<String>) -> Self {
        let field = field.into();
        self.edit(|inner| inner.field = Some(field))
    }

    /// Adds the answer that it comes from.
    #[must_use]
    pub fn with_answer(self, status: u16, body: &Bytes) -> Self {
        // A copy, so that a small error does not keep a large body alive.
        let kept = Bytes::copy_from_slice(&body[..body.len().min(Self::MAX_BODY)]);
        self.edit(|inner| {
            inner.status = Some(status);
            inner.body = kept;
        })
    }

    /// Adds the server's id of the operation.
    #[must_use]
    pub fn with_request_id(self, id: impl Into<String>) -> Self {
        let id = id.into();
        self.edit(|inner| inner.request_id = Some(id))
    }

    /// Adds when it could go.
    #[must_use]
    pub fn with_retry_at(self, now: Timestamp, at: Timestamp) -> Self {
        self.edit(|inner| {
            inner.retry_at = Some(at);
            inner.retry_after = Some(at.since(now));
        })
    }

    /// Adds whose fault it was.
    #[must_use]
    pub fn with_category(self, category: FailureCategory) -> Self {
        self.edit(|inner| inner.category = Some(category))
    }

    /// Adds where it stalled.
    #[must_use]
    pub fn with_stalled(self, stalled: Stalled) -> Self {
        self.edit(|inner| inner.stalled = Some(stalled))
    }

    /// Adds the cause below.
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

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        let kind = match error.kind {
            TransportErrorKind::Connect | TransportErrorKind::Tls | TransportErrorKind::Broken => {
                ErrorKind::Connection
            }
            TransportErrorKind::Timeout => ErrorKind::Timeout,
            TransportErrorKind::TooLarge
            | TransportErrorKind::Decode
            | TransportErrorKind::Redirect => ErrorKind::Protocol,
            TransportErrorKind::Credential => ErrorKind::Authentication,
            TransportErrorKind::Closed => ErrorKind::Closed,
            TransportErrorKind::Held => ErrorKind::RateLimited,
            TransportErrorKind::Invalid => ErrorKind::Configuration,
            TransportErrorKind::Aborted => ErrorKind::Aborted,
        };
        let sent = error.sent;
        let message = error.message.clone();
        Self::new(kind, sent, message).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_argument_names_its_field_and_was_not_sent() {
        let error = Error::invalid("max_tokens", "at least 1, got 0");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.field(), Some("max_tokens"));
        assert_eq!(error.sent(), Sent::NotSent);
        assert!(error.to_string().contains("max_tokens"), "{error}");
    }

    #[test]
    fn a_long_body_is_cut() {
        let body = Bytes::from(vec![b'x'; 10_000]);
        let error = Error::new(ErrorKind::Server, Sent::Answered, "no").with_answer(500, &body);
        assert_eq!(error.body().len(), Error::MAX_BODY);
        assert_eq!(error.status(), Some(500));
    }

    #[test]
    fn context_goes_before_the_message_and_changes_nothing_else() {
        let error = Error::new(ErrorKind::Server, Sent::Answered, "no room")
            .with_answer(503, &Bytes::new())
            .with_context("while saving");
        assert_eq!(error.to_string(), "while saving: no room (status 503)");
        assert_eq!(error.kind(), ErrorKind::Server);
    }

    #[test]
    fn clones_keep_what_the_original_said() {
        let first = Error::closed();
        let second = first.clone().with_operation("TrainingClient.optim_step");
        assert_eq!(first.operation(), None);
        assert_eq!(second.operation(), Some("TrainingClient.optim_step"));
    }
}
