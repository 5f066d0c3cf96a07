//! The seam to the network: one request, one answer.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::admission::{Departure, RouteClass};
use crate::error::Sent;
use crate::spawn::BoxFuture;

/// Sends one request and gives its answer, whatever the status. Whatever reaches a network asks [`HttpRequest::departure`] first; a
/// layer that passes requests on needs not. Retries, credentials' renewal and rate limits are others' work;
/// adding the credential, compression of answers and redirects are the transport's.
///
/// Dropping the future cancels the request; the server may have seen it.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends `request`.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>>;
}

/// One HTTP request. The base URL and the credential are the transport's own.
#[derive(Clone)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Path and query below the base URL, opening with `/`, ready for the wire.
    pub path: String,
    /// Headers beyond those that the transport adds.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The class whose connections carry it.
    pub class: RouteClass,
    /// Its time limits.
    pub timeouts: Timeouts,
    /// The answer's body may be this long after decompression, in bytes.
    pub max_response_bytes: usize,
    /// To be asked immediately before the request leaves, and told of the head of its response.
    pub departure: Departure,
}

impl HttpRequest {
    /// The longest body of an answer to a request of `class`, in bytes: 1 GiB for polls, which bring results, and 16 MiB for all
    /// else. A body above it is no answer of any Tinker server.
    pub const fn default_max_response_bytes(class: RouteClass) -> usize {
        match class {
            RouteClass::Poll => 1 << 30,
            _ => 16 << 20,
        }
    }

    /// A request of `class` with the default limits.
    pub fn new(method: Method, path: impl Into<String>, class: RouteClass) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            class,
            timeouts: Timeouts::default(),
            max_response_bytes: Self::default_max_response_bytes(class),
            departure: Departure::default(),
        }
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither headers nor body: either may hold what must not reach a log.
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("class", &self.class)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// One HTTP answer, its body decompressed and complete.
#[derive(Clone)]
pub struct HttpResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl HttpResponse {
    /// A header's value as text, when it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Time limits of one request. Each phase has its own, so a slow upload is not taken for a dead server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// From the end of the upload to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer's body, and between two accepted pieces of the upload.
    pub idle: Duration,
    /// All of it.
    pub total: Duration,
}

impl Default for Timeouts {
    /// Connect 5 s, first byte 60 s, idle 60 s (the official SDK's values), 10 minutes in all.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

impl Timeouts {
    /// Limits for a request whose whole answer must be there within `total`.
    pub fn within(total: Duration) -> Self {
        let base = Self::default();
        Self {
            connect: base.connect.min(total),
            first_byte: total,
            idle: total,
            total,
        }
    }
}

/// What kept a request from getting an answer.
#[derive(Debug)]
pub struct TransportError {
    /// What went wrong.
    pub kind: TransportErrorKind,
    /// What is known of the request.
    pub sent: Sent,
    /// What to tell a person: a lower-case fragment without secrets.
    pub message: String,
    /// The cause below.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of transport failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No connection: refused, unreachable, name not found, or cut before it was set up.
    Connect,
    /// The two sides cannot agree on TLS, or the certificate is not trusted.
    Tls,
    /// A time limit of [`Timeouts`] passed.
    Timeout,
    /// The connection broke.
    Broken,
    /// The answer's body is longer than allowed.
    TooLarge,
    /// The answer could not be decoded.
    Decode,
    /// A redirect that is not followed.
    Redirect,
    /// There is no usable credential.
    Credential,
    /// The transport is closed.
    Closed,
    /// The rate limit closed after the request was admitted, so it did not leave; it goes back to admission.
    Held,
    /// The request cannot be expressed in HTTP.
    Invalid,
    /// The work was cut off here: its runtime has ended, or it panicked. To send it again is of no use.
    Aborted,
}

impl TransportError {
    /// A failure of `kind`.
    pub fn new(kind: TransportErrorKind, sent: Sent, message: impl Into<String>) -> Self {
        Self {
            kind,
            sent,
            message: message.into(),
            source: None,
        }
    }

    /// The same with its cause.
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
