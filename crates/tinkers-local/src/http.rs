//! Requests and responses as plain values, so that the protocol is independent of sockets and hyper.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::protocol::{Form, Payload};
use crate::trace::{self, Span};

/// A complete HTTP request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method of the request.
    pub method: Method,
    /// The path and the query of the request, as sent.
    pub path: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The complete body of the request, as sent.
    pub body: Bytes,
}

impl Request {
    /// Returns the path of the request without the query.
    pub fn route(&self) -> &str {
        self.path
            .split_once('?')
            .map_or(&self.path, |(path, _)| path)
    }

    /// Returns the value of a request header. Returns `None` if the header is absent or its value is not valid text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A complete HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status of the response.
    pub status: StatusCode,
    /// The headers of the response.
    pub headers: HeaderMap,
    /// The complete body of the response.
    pub body: Bytes,
}

/// A response whose body may not be encoded yet. A result is encoded only after the lock on the protocol state has been released,
/// because this can take long.
#[derive(Debug, Clone)]
pub struct LazyResponse {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Bytes),
    Result(Arc<Payload>, Form, Option<Announcement>),
    Trace(Vec<Span>),
}

/// A notice that a result is available but larger than a limit. The server sends the notice instead of the result, if the poll of
/// the client allows it.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) request_id: String,
    /// The size limit in bytes. The notice is sent only for results above this size.
    pub(crate) above: usize,
}

impl Announcement {
    /// Returns the JSON body of the notice for a result of `size` bytes.
    pub(crate) fn body(&self, size: usize) -> Value {
        json!({
            "status": "complete_metadata",
            "request_id": self.request_id,
            "response_payload_size": size,
        })
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

impl Response {
    /// Returns the value of a response header. Returns `None` if the header is absent or its value is not valid text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl LazyResponse {
    /// Creates a response with a JSON body.
    pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Self {
        Self::of(
            status,
            Some(JSON),
            Content::Bytes(tinkers_wire::to_json(body)),
        )
    }

    /// Creates a 200 response with a JSON body.
    pub(crate) fn ok<T: Serialize>(body: &T) -> Self {
        Self::json(StatusCode::OK, body)
    }

    /// Creates a response with a plain text body.
    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        let body = Bytes::copy_from_slice(text.as_bytes());
        Self::of(status, Some(TEXT), Content::Bytes(body))
    }

    /// Creates a response without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::of(status, None, Content::Bytes(Bytes::new()))
    }

    /// Creates a 200 response with a result in the encoding `form`. If `announcement` is given and the result is larger than its
    /// size limit, the response contains only a notice with the size of the result.
    pub(crate) fn result(
        payload: Arc<Payload>,
        form: Form,
        announcement: Option<Announcement>,
    ) -> Self {
        let content_type = match form {
            Form::Json => JSON,
            Form::Protobuf => PROTOBUF,
        };
        Self::of(
            StatusCode::OK,
            Some(content_type),
            Content::Result(payload, form, announcement),
        )
    }

    /// Creates a 200 response with a trace of operations.
    pub(crate) fn trace(spans: Vec<Span>) -> Self {
        Self::of(StatusCode::OK, Some(JSON), Content::Trace(spans))
    }

    fn of(status: StatusCode, content_type: Option<HeaderValue>, content: Content) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        Self {
            status,
            headers,
            content,
        }
    }

    /// Sets a header of the response.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Returns the status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Encodes the body and returns the complete response.
    pub fn encode(self) -> Response {
        let body = match self.content {
            Content::Bytes(bytes) => bytes,
            Content::Trace(spans) => trace::encode(&spans),
            Content::Result(payload, form, announcement) => {
                let body = payload.encode(form);
                match announcement {
                    Some(announcement) if body.len() > announcement.above => {
                        tinkers_wire::to_json(&announcement.body(body.len()))
                    }
                    _ => body,
                }
            }
        };
        Response {
            status: self.status,
            headers: self.headers,
            body,
        }
    }
}
