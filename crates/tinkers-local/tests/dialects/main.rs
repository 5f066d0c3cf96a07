//! Requests and complete responses of each dialect.

#[path = "../support/mod.rs"]
mod support;

mod hatchery;
mod options;
mod skyrl;
mod strict;
mod tuft;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{Response, TestServer, datum, test_server_with};
use tinkers_core::{HttpRequest, RouteClass, Transport};
use tinkers_local::{Dialect, LocalConfig, Script};
use tinkers_wire::{LossFn, PassMode, PassRequest};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const ACCEPT_PROTOBUF: (&str, &str) = ("accept", "application/x-protobuf");

/// Starts a server with this dialect (set of differences from the official service).
fn dialect_server(dialect: Dialect) -> TestServer {
    test_server_with(config(dialect), Script::default())
}

fn config(dialect: Dialect) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    config
}

/// Returns a `forward_backward` body in protobuf, with one datum.
fn proto_pass(model: &str, seq_id: u64) -> bytes::Bytes {
    let pass = PassRequest {
        model_id: model.to_owned(),
        seq_id,
        mode: PassMode::ForwardBackward,
        data: vec![serde_json::from_value(datum()).unwrap()],
        loss: LossFn::CrossEntropy.into(),
    };
    pass.to_protobuf().unwrap()
}

impl TestServer {
    async fn proto_pass(&self, model: &str, seq_id: u64) -> Response {
        let path = "/api/v1/forward_backward";
        let body = proto_pass(model, seq_id);
        self.send(Method::POST, path, body, &[PROTOBUF]).await
    }

    async fn poll_with(&self, id: &str, headers: &[(&'static str, &str)]) -> Response {
        let body = json!({ "request_id": id, "allow_metadata_only": false }).to_string();
        let path = "/api/v1/retrieve_future";
        self.send(Method::POST, path, body, headers).await
    }

    /// Polls for a result with a client timeout of ten minutes, which is longer than any dialect holds a poll open.
    async fn long_poll(&self, id: &str) -> Response {
        let path = "/api/v1/retrieve_future";
        let mut request = HttpRequest::new(Method::POST, path, RouteClass::Poll);
        request.body = json!({ "request_id": id }).to_string().into();
        request.timeouts.first_byte = Duration::from_secs(600);
        Response::new(self.client.send(request).await.expect("a response"))
    }
}

fn content_type(response: &Response) -> &str {
    response.raw.header("content-type").unwrap_or_default()
}

/// Returns the status and the body of a response, to compare with expected ones.
fn status_and_body(response: &Response) -> (u16, Value) {
    (response.status, response.body.clone())
}

/// Returns the status and the body of an error response with this status and this reason, to compare with an actual response.
fn error_body(status: u16, detail: impl Into<Value>) -> (u16, Value) {
    (status, json!({ "detail": detail.into() }))
}

fn extra(loc: Value) -> Value {
    json!({ "type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted" })
}
