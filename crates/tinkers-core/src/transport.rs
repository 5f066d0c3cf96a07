//! The interface to the network: one request, one response.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::admission::{DepartureCheck, RouteClass};
use crate::error::{Error, ErrorKind, Sent};
pub use crate::response::HttpResponse;
use crate::spawn::BoxFuture;

/// A transport: it sends requests and returns their responses, whatever the status of a response is. It does not retry.
///
/// A transport that writes to a network adds the credential, decompresses responses and follows redirects. It calls the check in
/// [`HttpRequest::departure`] before it writes the first byte. A layer that only forwards requests to another transport need not do so.
///
/// Dropping the future cancels the request, but the server may have received it.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends `request` and waits for the complete response.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>>;
}

/// An HTTP request without the base URL and the credential, which the transport adds.
#[derive(Clone)]
pub struct HttpRequest {
    /// The HTTP method.
    pub method: Method,
    /// The encoded path and query below the base URL, with a leading `/`.
    pub path: String,
    /// The headers of the request, in addition to those that the transport adds.
    pub headers: HeaderMap,
    /// The request body.
    pub body: Bytes,
    /// The route class of the request. The transport has a connection pool for each class.
    pub class: RouteClass,
    /// The timeouts of the request.
    pub timeouts: Timeouts,
    /// The maximum size of the decompressed response body, in bytes.
    pub max_response_bytes: usize,
    /// The check that the transport makes immediately before it sends the request, in case the rate-limit gate has closed meanwhile. The
    /// transport also reports the head of the response to it.
    pub departure: DepartureCheck,
}

impl HttpRequest {
    /// Returns the default maximum size of a response body in bytes: 1 GiB for polls, since the responses contain results, and 16 MiB for
    /// other classes.
    pub const fn default_max_response_bytes(class: RouteClass) -> usize {
        match class {
            RouteClass::Poll => 1 << 30,
            _ => 16 << 20,
        }
    }

    /// Creates a request of a route class with default timeouts and limits.
    pub fn new(method: Method, path: impl Into<String>, class: RouteClass) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            class,
            timeouts: Timeouts::of(class),
            max_response_bytes: Self::default_max_response_bytes(class),
            departure: DepartureCheck::default(),
        }
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body may contain secrets, which must not be logged.
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("class", &self.class)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// The timeouts of a request. Each phase has its own timeout, so that a slow upload is not mistaken for a server that does not respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The time limit for opening a connection, including the TLS handshake. 5 s by default.
    pub connect: Duration,
    /// The time limit from the end of the upload to the first byte of the response. 60 s by default. 45 s by default for polls, since
    /// servers hold a poll for up to about 30 s if there is no result.
    pub first_byte: Duration,
    /// The time limit between two chunks of the response body, and between two accepted chunks of the upload. 60 s by default.
    pub idle: Duration,
    /// The time limit of the whole request, including the wait for a connection. 10 minutes by default.
    pub total: Duration,
}

/// The default of [`Timeouts::first_byte`] of polls.
const POLL_FIRST_BYTE: Duration = Duration::from_secs(45);

impl Default for Timeouts {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeouts {
    /// Returns the timeouts of the official SDK: 5 s to connect, 60 s to the first byte of the response, 60 s between two chunks of a body,
    /// and 10 minutes in total.
    pub const fn new() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }

    /// Returns the default timeouts of requests of the route class `class`.
    pub fn of(class: RouteClass) -> Self {
        match class {
            RouteClass::Poll => Self::default().with_first_byte(POLL_FIRST_BYTE),
            _ => Self::default(),
        }
    }

    /// Returns the default timeouts, changed so that the response must be complete within `total`.
    pub fn within(total: Duration) -> Self {
        Self::default().limited_to(total)
    }

    /// Returns timeouts for a request whose response must be complete within `total`, with the `connect` timeout of `self`.
    #[must_use]
    pub fn limited_to(self, total: Duration) -> Self {
        Self {
            connect: self.connect.min(total),
            first_byte: total,
            idle: total,
            total,
        }
    }

    /// Sets the time limit for opening a connection.
    #[must_use]
    pub const fn with_connect(mut self, limit: Duration) -> Self {
        self.connect = limit;
        self
    }

    /// Sets the time limit from the end of the upload to the first byte of the response.
    #[must_use]
    pub const fn with_first_byte(mut self, limit: Duration) -> Self {
        self.first_byte = limit;
        self
    }

    /// Sets the time limit between two chunks of a body.
    #[must_use]
    pub const fn with_idle(mut self, limit: Duration) -> Self {
        self.idle = limit;
        self
    }

    /// Sets the time limit of the whole request.
    #[must_use]
    pub const fn with_total(mut self, limit: Duration) -> Self {
        self.total = limit;
        self
    }
}

/// The timeouts of the requests of each route class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassTimeouts([Timeouts; RouteClass::ALL.len()]);

impl Default for ClassTimeouts {
    fn default() -> Self {
        Self(RouteClass::ALL.map(Timeouts::of))
    }
}

impl ClassTimeouts {
    /// Returns the timeouts of requests of the route class `class`.
    pub fn of(&self, class: RouteClass) -> Timeouts {
        self.0[class.index()]
    }

    /// Sets the timeouts of requests of the route class `class`.
    pub fn set(&mut self, class: RouteClass, timeouts: Timeouts) {
        self.0[class.index()] = timeouts;
    }

    /// Sets the time limit for opening a connection, for the requests of all route classes.
    pub fn set_connect(&mut self, limit: Duration) {
        self.0.iter_mut().for_each(|class| class.connect = limit);
    }

    /// Checks that no timeout is zero.
    ///
    /// # Errors
    /// `InvalidInput` with the name of the first timeout that is zero, such as `timeouts.sample.connect`.
    pub fn check(&self) -> Result<(), Error> {
        for class in RouteClass::ALL {
            let timeouts = self.of(class);
            for (phase, limit) in [
                ("connect", timeouts.connect),
                ("first_byte", timeouts.first_byte),
                ("idle", timeouts.idle),
                ("total", timeouts.total),
            ] {
                if limit.is_zero() {
                    let field = format!("timeouts.{}.{phase}", class.name());
                    return Err(Error::invalid(field, "a duration above zero"));
                }
            }
        }
        Ok(())
    }
}

/// The error of a request that got no response, or a response that the transport could not read.
#[derive(Debug)]
pub struct TransportError {
    /// The kind of the error.
    pub kind: TransportErrorKind,
    /// Whether the request may have reached the server.
    pub sent: Sent,
    /// The message: a lower-case fragment without secrets.
    pub message: String,
    /// The error that caused this error.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kind of a transport error, which is the failure of a request without a readable response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The connection could not be opened: refused, unreachable, host not found, or closed during the handshake.
    Connect,
    /// TLS failed, or the certificate is not trusted.
    Tls,
    /// The request took longer than one of its [`Timeouts`] allows.
    Timeout,
    /// The connection broke after it was opened.
    Broken,
    /// The response body is larger than the limit of the request, [`HttpRequest::max_response_bytes`].
    TooLarge,
    /// The response could not be decoded, because it is not valid HTTP or its body could not be decompressed.
    Decode,
    /// The response is a redirect that is not followed.
    Redirect,
    /// The credential is missing or invalid.
    Credential,
    /// The transport is closed.
    Closed,
    /// The request was admitted, but the rate-limit gate closed before the request was sent. It was not sent and has to be admitted again.
    Held,
    /// The request cannot be expressed in HTTP, for example because of an invalid header.
    Invalid,
    /// The background task that sends the request panicked, or the runtime of that task ended. A retry cannot succeed.
    Aborted,
}

impl TransportError {
    /// Creates a transport error of `kind`.
    pub fn new(kind: TransportErrorKind, sent: Sent, message: impl Into<String>) -> Self {
        Self {
            kind,
            sent,
            message: message.into(),
            source: None,
        }
    }

    /// Adds the error that caused this error, as its source.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
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
        let TransportError {
            message, source, ..
        } = error;
        let converted = Self::new(kind, sent, message);
        match source {
            Some(source) => converted.with_source(source),
            None => converted,
        }
    }
}
