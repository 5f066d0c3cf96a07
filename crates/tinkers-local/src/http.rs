//! Requests and answers as plain values, so that the protocol knows neither sockets nor hyper.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::protocol::{Form, Payload};

/// A whole request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query, as sent.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body, as sent.
    pub body: Bytes,
}

impl Request {
    /// The path without its query.
    pub fn route(&self) -> &str {
        self.path
            .split_once('?')
            .map_or(&self.path, |(path, _)| path)
    }

    /// A header's value as text, when it is there and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer whose body may still have to be encoded, which is done without the protocol's lock.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Bytes),
    Result(Arc<Payload>, Form, Option<Announcement>),
}

/// Says of a result above a size that it is there, instead of sending it.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    pub(crate) request_id: String,
    /// In bytes.
    pub(crate) above: usize,
}

impl Announcement {
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

impl Answer {
    /// A JSON body.
    pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Self {
        Self::of(
            status,
            Some(JSON),
            Content::Bytes(tinkers_wire::to_json(body)),
        )
    }

    /// 200 with a JSON body.
    pub(crate) fn ok<T: Serialize>(body: &T) -> Self {
        Self::json(StatusCode::OK, body)
    }

    /// A body in plain text.
    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        let body = Bytes::copy_from_slice(text.as_bytes());
        Self::of(status, Some(TEXT), Content::Bytes(body))
    }

    /// A status without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::of(status, None, Content::Bytes(Bytes::new()))
    }

    /// 200 with a result in one of its forms, or with what is said of it when it turns out to be too large.
    pub(crate) fn result(
        payload: Arc<Payload>,
        form: Form,
        announcement: Option<Announcement>,
    ) -> Self {
        let kind = match form {
            Form::Json => JSON,
            Form::Protobuf => PROTOBUF,
        };
        Self::of(
            StatusCode::OK,
            Some(kind),
            Content::Result(payload, form, announcement),
        )
    }

    fn of(status: StatusCode, kind: Option<HeaderValue>, content: Content) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind);
        }
        Self {
            status,
            headers,
            content,
        }
    }

    /// The same with a header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer as it goes out; encodes the body.
    pub fn into_response(self) -> Response {
        let body = match self.content {
            Content::Bytes(bytes) => bytes,
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
