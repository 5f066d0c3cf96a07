//! A server whose every exchange is held against its document.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{LocalConfig, Route, open_api};

use super::path;
use super::schema::faults;
use super::support::{Got, World, world};

pub(crate) struct Checked {
    pub(crate) world: World,
    pub(crate) document: Value,
}

impl Checked {
    pub(crate) fn new() -> Self {
        Self {
            world: world(),
            document: open_api(&LocalConfig::default()).expect("the official dialect has one"),
        }
    }

    /// What the document says of a route.
    pub(crate) fn operation(&self, route: Route) -> &Value {
        let method = route.method().to_ascii_lowercase();
        &self.document["paths"][route.path()][&method]
    }

    /// The schema of a route's JSON body.
    pub(crate) fn body(&self, route: Route) -> &Value {
        &self.operation(route)["requestBody"]["content"]["application/json"]["schema"]
    }

    /// The schema that is meant, where there is only a reference.
    pub(crate) fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema["$ref"].as_str() else {
            return schema;
        };
        let pointer = reference.strip_prefix('#').expect("within the document");
        self.document.pointer(pointer).expect("it is there")
    }

    /// What is wrong with a body by a schema of the document.
    pub(crate) fn faults(&self, schema: &Value, body: &Value) -> Vec<String> {
        faults(&self.document, schema, body)
    }

    /// An exchange whose body, status and answer are as the document has them.
    pub(crate) async fn call(&self, route: Route, ids: &[&str], body: Option<Value>) -> Got {
        if let Some(body) = &body {
            let faults = self.faults(self.body(route), body);
            assert!(faults.is_empty(), "{route:?} {body}: {faults:?}");
        }
        self.send(route, ids, body).await
    }

    /// The same of a body that need not be right.
    pub(crate) async fn send(&self, route: Route, ids: &[&str], body: Option<Value>) -> Got {
        let method = Method::from_bytes(route.method().as_bytes()).expect("a method");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let got = self.world.send(method, &path(route, ids), body, &[]).await;
        let answers = &self.operation(route)["responses"];
        let answer = self.resolved(&answers[got.status.to_string()]);
        assert!(
            answer.is_object(),
            "{route:?} {} is not told of",
            got.status
        );
        let schema = &answer["content"]["application/json"]["schema"];
        if schema.is_null() {
            assert!(got.raw.body.is_empty(), "{route:?}");
        } else {
            let faults = self.faults(schema, &got.body);
            assert!(faults.is_empty(), "{route:?} {}: {faults:?}", got.body);
        }
        got
    }

    /// The result of what a route promised.
    pub(crate) async fn result(&self, promise: Got) -> Value {
        let body = json!({ "request_id": promise.id(), "allow_metadata_only": true });
        self.call(Route::RetrieveFuture, &[], Some(body)).await.ok()
    }
}
