//! What each dialect accepts and answers, in raw requests and whole answers.

#[path = "../support/mod.rs"]
mod support;

mod knobs;
mod skyrl;
mod strict;
mod tuft;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use support::{Got, World, datum, world_with};
use tinkers_core::{HttpRequest, RouteClass, Transport};
use tinkers_local::{Dialect, LocalConfig, Script};
use tinkers_wire::{Loss, LossFn, PassMode, PassRequest};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const ASK_PROTOBUF: (&str, &str) = ("accept", "application/x-protobuf");

/// A server that speaks `dialect`.
fn speaks(dialect: Dialect) -> World {
    world_with(config(dialect), Script::default())
}

fn config(dialect: Dialect) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    config
}

/// A pass over one datum in protobuf.
fn proto_pass(model: &str, seq_id: u64) -> bytes::Bytes {
    let pass = PassRequest {
        model_id: model.to_owned(),
        seq_id,
        mode: PassMode::ForwardBackward,
        data: vec![serde_json::from_value(datum()).unwrap()],
        loss: Loss {
            name: LossFn::CrossEntropy,
            config: std::collections::BTreeMap::new(),
        },
    };
    pass.to_protobuf().unwrap()
}

impl World {
    async fn proto_pass(&self, model: &str, seq_id: u64) -> Got {
        let path = "/api/v1/forward_backward";
        let body = proto_pass(model, seq_id);
        self.send(Method::POST, path, body, &[PROTOBUF]).await
    }

    async fn ask(&self, id: &str, headers: &[(&'static str, &str)]) -> Got {
        let body = json!({ "request_id": id, "allow_metadata_only": false }).to_string();
        let path = "/api/v1/retrieve_future";
        self.send(Method::POST, path, body, headers).await
    }

    /// A poll that waits for an answer longer than clients commonly do.
    async fn ask_for_long(&self, id: &str) -> Got {
        let path = "/api/v1/retrieve_future";
        let mut request = HttpRequest::new(Method::POST, path, RouteClass::Poll);
        request.body = json!({ "request_id": id }).to_string().into();
        request.timeouts.first_byte = Duration::from_secs(600);
        Got::of(self.client.send(request).await.expect("an answer"))
    }
}

fn kind(got: &Got) -> &str {
    got.raw.header("content-type").unwrap_or_default()
}

/// The status and the whole body.
fn said(got: &Got) -> (u16, Value) {
    (got.status, got.body.clone())
}

/// The same of a refusal.
fn refused(status: u16, detail: impl Into<Value>) -> (u16, Value) {
    (status, json!({ "detail": detail.into() }))
}

fn extra(loc: Value) -> Value {
    json!({ "type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted" })
}
