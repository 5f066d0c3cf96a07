//! The OpenAPI document of the server, generated from the table of routes and the types of the bodies.

mod known_fields;
mod requests;
mod responses;

use std::collections::BTreeSet;

use http::StatusCode;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use tinkers_wire::AuditEventType;

use crate::config::LocalConfig;
use crate::dialect::{
    Dialect, Failures, KeyNeed, OpenApi, PassBodies, PollEnd, Repeats, ResultForm, UnknownFields,
};
use crate::read::{Route, is_id};

/// The path of the OpenAPI document.
pub(crate) const PATH: &str = "/openapi.json";

/// The content type of protobuf bodies. The OpenAPI document has no schema for them, since their messages are defined in the public
/// `.proto` file.
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Returns the OpenAPI 3.1 document of a server with this configuration, as served at `GET /openapi.json`. Returns `None` if the
/// dialect of the server has no document.
///
/// The document lists each route with its request bodies, response statuses and response bodies.
pub fn open_api(config: &LocalConfig) -> Option<Value> {
    if config.dialect.open_api == OpenApi::Absent {
        return None;
    }
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut document = Document {
        config,
        schemas: settings.into_generator(),
    };
    let mut paths = Map::new();
    for route in Route::ALL {
        if !config.serves(*route) {
            continue;
        }
        let method = route.method().to_ascii_lowercase();
        let mut operations = json!({ method: document.operation(*route) });
        if *route == Route::PublishCheckpoint {
            operations["delete"] = document.unpublication();
        }
        paths.insert(route.path().to_owned(), operations);
    }
    let bodies = document.bodies();
    let refusal = document.reference_to::<responses::Refused>();
    let mut schemas = document.schemas.take_definitions(true);
    if config.dialect.unknown_fields == UnknownFields::RefusedAsOfSdk025 {
        known_fields::prune(&mut schemas, &bodies);
    }
    if config.dialect.repeats == Repeats::Again {
        known_fields::remove_seq_ids(&mut schemas, &bodies);
    }
    let (title, version) = config.dialect.title;
    Some(json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "description": "The routes of tinkers-local, the embedded server.",
            "version": version,
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Refused": {
                    "description": "The request was refused, for the reason in `detail`.",
                    "content": { JSON: { "schema": refusal } },
                },
            },
            "parameters": {
                "ContentEncoding": {
                    "name": "Content-Encoding",
                    "in": "header",
                    "description": "The body may be one frame of zstd.",
                    "schema": { "enum": ["identity", "zstd"] },
                },
            },
            "securitySchemes": {
                "ApiKey": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
        },
    }))
}

/// A builder of the OpenAPI document, which describes the routes of a server.
struct Document<'a> {
    config: &'a LocalConfig,
    /// The schemas of all types that the document refers to so far.
    schemas: SchemaGenerator,
}

impl Document<'_> {
    fn dialect(&self) -> &Dialect {
        &self.config.dialect
    }

    /// Adds the schema of the type `T` to the document and returns a reference to the schema.
    fn reference_to<T: schemars::JsonSchema>(&mut self) -> Value {
        self.schemas.subschema_for::<T>().to_value()
    }

    fn operation(&mut self, route: Route) -> Value {
        let mut operation = json!({
            "operationId": operation_id(route.method(), route),
            "summary": route.summary(),
            "parameters": parameters(route),
            "responses": self.responses(route),
            "security": self.security(route),
        });
        if let Some(content) = self.request(route) {
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        operation
    }

    /// Returns the description of the method DELETE of [`Route::PublishCheckpoint`].
    fn unpublication(&mut self) -> Value {
        let route = Route::PublishCheckpoint;
        let mut operation = self.operation(route);
        operation["operationId"] = operation_id("DELETE", route).into();
        operation["summary"] = "Unpublishes a checkpoint.".into();
        operation
    }

    /// Returns the schemas of the JSON request bodies of all routes that have one.
    fn bodies(&mut self) -> Vec<(Route, Value)> {
        let all = Route::ALL.iter();
        all.filter_map(|route| Some((*route, self.body(*route)?)))
            .collect()
    }

    /// Returns the schemas of the request bodies of a route, by content type. Returns `None` if the route has no body, or if the
    /// dialect does not document the body.
    fn request(&mut self, route: Route) -> Option<Value> {
        let json = json!({ "schema": self.body(route)? });
        if route != Route::ForwardBackward {
            return Some(json!({ JSON: json }));
        }
        if self.dialect().open_api == OpenApi::PassWithoutBody {
            return None;
        }
        let protobuf =
            json!({ "schema": { "description": "ForwardBackwardRequest, in protobuf." } });
        Some(match self.dialect().pass_bodies {
            PassBodies::Both => json!({ PROTOBUF: protobuf, JSON: json }),
            PassBodies::Json => json!({ JSON: json }),
            PassBodies::Protobuf => json!({ PROTOBUF: protobuf }),
        })
    }

    fn responses(&mut self, route: Route) -> Value {
        let mut responses = Map::new();
        let (status, response) = match self.response(route) {
            Some(schema) => (self.status(route), self.content(route, schema)),
            None => (
                StatusCode::NO_CONTENT,
                json!({ "description": "The checkpoint was deleted." }),
            ),
        };
        responses.insert(status.as_str().to_owned(), response);
        for status in self.refusals(route) {
            let refused = json!({ "$ref": "#/components/responses/Refused" });
            responses.insert(status.to_string(), refused);
        }
        responses.into()
    }

    fn status(&self, route: Route) -> StatusCode {
        match route {
            Route::CreateSession | Route::CreateSamplingSession => self.dialect().created,
            _ => StatusCode::OK,
        }
    }

    fn content(&self, route: Route, schema: Value) -> Value {
        let mut content = json!({ JSON: { "schema": schema } });
        if route == Route::RetrieveFuture && self.dialect().results != ResultForm::Json {
            let message = "ForwardBackwardOutput or SampleResponse, in protobuf.";
            content[PROTOBUF] = json!({ "schema": { "description": message } });
        }
        json!({ "description": "The requested result.", "content": content })
    }

    /// Returns the error statuses that a route can return if no fault is injected.
    fn refusals(&self, route: Route) -> BTreeSet<u16> {
        let mut all: BTreeSet<u16> = responses::refusals(route).iter().copied().collect();
        if self.is_key_needed(route) {
            all.insert(401);
        }
        if matches!(route.method(), "POST" | "PUT") {
            // The statuses for bodies that are malformed, too long, in an unsupported content coding, or invalid.
            all.extend([400, 413, 415, 422]);
        }
        if route == Route::RetrieveFuture {
            if let Failures::Status(status) = self.dialect().failures {
                all.insert(status.as_u16());
            }
            if self.dialect().poll_end == PollEnd::Timeout {
                all.insert(408);
            }
        }
        all
    }

    fn is_key_needed(&self, route: Route) -> bool {
        let is_needed = self.config.access.needs_key() || self.dialect().key == KeyNeed::Always;
        is_needed && route != Route::Health
    }

    fn security(&self, route: Route) -> Value {
        match self.is_key_needed(route) {
            true => json!([{ "ApiKey": [] }]),
            false => json!([{}, { "ApiKey": [] }]),
        }
    }
}

/// Returns the OpenAPI operation id of a method of a route, which consists of the method and the path below `/api/v1/`.
fn operation_id(method: &str, route: Route) -> String {
    let words: Vec<&str> = route
        .segments()
        .map(|segment| segment.trim_matches(['{', '}']))
        .collect();
    format!("{}_{}", method.to_ascii_lowercase(), words.join("_"))
}

fn parameters(route: Route) -> Vec<Value> {
    let ids = route.segments().filter(|segment| is_id(segment));
    let ids = ids.map(|segment| {
        let name = segment.trim_matches(['{', '}']);
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
    });
    let mut all: Vec<Value> = ids.collect();
    let in_query = |name: &str, is_required: bool, schema: Value| json!({ "name": name, "in": "query", "required": is_required, "schema": schema });
    let text = || json!({ "type": "string" });
    match route {
        Route::Sessions | Route::TrainingRuns | Route::Checkpoints => {
            let number = || json!({ "type": "integer", "minimum": 0 });
            all.extend(["offset", "limit"].map(|name| in_query(name, false, number())));
            if route == Route::TrainingRuns {
                all.push(in_query("project_id", false, text()));
            }
        }
        Route::Audit => {
            let kinds = AuditEventType::ALL.map(AuditEventType::name);
            all.push(in_query("event_type", false, json!({ "enum": kinds })));
            let day = json!({ "type": "string", "format": "date" });
            all.push(in_query("day", false, day));
        }
        Route::BillingUsage => {
            let hour = || json!({ "type": "string", "format": "date-time" });
            let names = ["starting_on", "ending_before"];
            all.extend(names.map(|name| in_query(name, true, hour())));
        }
        Route::CheckpointStorage => all.push(in_query("project_id", false, text())),
        _ => {}
    }
    if matches!(route.method(), "POST" | "PUT") {
        all.push(json!({ "$ref": "#/components/parameters/ContentEncoding" }));
    }
    all
}
