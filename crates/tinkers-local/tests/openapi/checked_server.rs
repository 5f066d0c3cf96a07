//! A test server. All requests to it, and its responses, are checked against its OpenAPI document.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{LocalConfig, Route, open_api};

use super::path;
use super::schema::violations;
use super::support::{Response, TestServer, test_server};

/// A test server that checks requests and responses against its OpenAPI document.
pub(crate) struct CheckedServer {
    pub(crate) server: TestServer,
    pub(crate) document: Value,
}

impl CheckedServer {
    pub(crate) fn new() -> Self {
        Self {
            server: test_server(),
            document: open_api(&LocalConfig::default())
                .expect("the default dialect has a document"),
        }
    }

    /// Returns the part of the OpenAPI document that describes a route.
    pub(crate) fn operation(&self, route: Route) -> &Value {
        let method = route.method().to_ascii_lowercase();
        &self.document["paths"][route.path()][&method]
    }

    /// Returns the schema of a route's JSON request body.
    pub(crate) fn body(&self, route: Route) -> &Value {
        &self.operation(route)["requestBody"]["content"]["application/json"]["schema"]
    }

    /// Returns the schema to which `schema` refers if `schema` is a `$ref`. Otherwise returns `schema`.
    pub(crate) fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema["$ref"].as_str() else {
            return schema;
        };
        let pointer = reference.strip_prefix('#').expect("a local reference");
        self.document
            .pointer(pointer)
            .expect("the reference resolves")
    }

    /// Returns the reasons why a body does not match a schema.
    pub(crate) fn violations(&self, schema: &Value, body: &Value) -> Vec<String> {
        violations(&self.document, schema, body)
    }

    /// Sends a request. Checks the request body and the response against the OpenAPI document.
    pub(crate) async fn call(&self, route: Route, ids: &[&str], body: Option<Value>) -> Response {
        if let Some(body) = &body {
            let violations = self.violations(self.body(route), body);
            assert!(violations.is_empty(), "{route:?} {body}: {violations:?}");
        }
        self.send(route, ids, body).await
    }

    /// Sends a request that may be invalid. Checks only the response against the OpenAPI document.
    pub(crate) async fn send(&self, route: Route, ids: &[&str], body: Option<Value>) -> Response {
        let method = Method::from_bytes(route.method().as_bytes()).expect("a method");
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let response = self.server.send(method, &path(route, ids), body, &[]).await;
        let documented = &self.operation(route)["responses"];
        let documented = self.resolved(&documented[response.status.to_string()]);
        assert!(
            documented.is_object(),
            "{route:?}: status {} is not documented",
            response.status
        );
        let schema = &documented["content"]["application/json"]["schema"];
        if schema.is_null() {
            assert!(response.raw.body.is_empty(), "{route:?}");
        } else {
            let violations = self.violations(schema, &response.body);
            assert!(
                violations.is_empty(),
                "{route:?} {}: {violations:?}",
                response.body
            );
        }
        response
    }

    /// Waits for the result of an accepted request and returns it. `accepted` is the response to the request.
    pub(crate) async fn result(&self, accepted: Response) -> Value {
        let body = json!({ "request_id": accepted.id(), "allow_metadata_only": true });
        self.call(Route::RetrieveFuture, &[], Some(body)).await.ok()
    }
}
