//! The OpenAPI document lists the routes of the server, and its schemas agree with the server's behaviour.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod checked_server;
mod dialects;
mod invalid;
mod schema;

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use support::{TestServer, create_model, test_server};
use tinkers_local::{LocalConfig, Route, open_api};

/// Returns the path of a route in which `ids` replace the parameters in braces.
fn path(route: Route, ids: &[&str]) -> String {
    let mut ids = ids.iter();
    let filled = route.path().split('/').map(|part| match part {
        id if id.starts_with('{') => *ids.next().expect("an id for each parameter"),
        part => part,
    });
    filled.collect::<Vec<_>>().join("/")
}

/// The ids of objects on a test server: a session, a model with two checkpoints, and a sampling session.
struct Resources {
    session: String,
    model: String,
    sampler: String,
}

async fn resources(server: &TestServer) -> Resources {
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    for (number, name) in [(1, "a"), (2, "b")] {
        let save = serde_json::json!({ "model_id": model, "seq_id": number, "path": name });
        server.submit("save_weights", save).await;
    }
    let save = serde_json::json!({ "model_id": model, "seq_id": 3, "sampling_session_seq_id": 0 });
    let save = server.submit("save_weights_for_sampler", save).await;
    let sampler = server.result(&save).await["sampling_session_id"].clone();
    Resources {
        session,
        model,
        sampler: sampler.as_str().unwrap().to_owned(),
    }
}

/// Returns the ids to put into the path of a route in place of its parameters.
fn ids(route: Route, resources: &Resources) -> Vec<&str> {
    match route {
        Route::FinishSession | Route::Session | Route::SessionProject | Route::TraceExport => {
            vec![&resources.session]
        }
        Route::Sampler => vec![&resources.sampler],
        Route::TrainingRun | Route::RunCheckpoints => vec![&resources.model],
        Route::DeleteCheckpoint => vec![&resources.model, "weights", "a"],
        Route::PublishCheckpoint | Route::CheckpointTtl => vec![&resources.model, "weights", "a"],
        Route::DeleteEscapedCheckpoint => vec![&resources.model, "weights%2Fb"],
        _ => vec![],
    }
}

/// Returns the routes of a server without API keys. It has no routes for keys.
fn keyless_routes() -> impl Iterator<Item = Route> {
    let is_keyless = |route: &Route| !matches!(route, Route::AuthToken | Route::ApiKey);
    Route::ALL.iter().copied().filter(is_keyless)
}

#[tokio::test]
async fn each_route_accepts_only_its_method() {
    let server = test_server();
    let resources = resources(&server).await;
    for route in keyless_routes() {
        let path = path(route, &ids(route, &resources));
        let allowed = match route {
            Route::PublishCheckpoint => "POST, DELETE",
            other => other.method(),
        };
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PUT] {
            let is_allowed = allowed.split(", ").any(|one| one == method.as_str());
            // The body is invalid, so that the request has no effect.
            let response = server.send(method.clone(), &path, "{", &[]).await;
            match is_allowed {
                true => assert!(
                    ![404, 405].contains(&response.status),
                    "{method} {path}: {}",
                    response.status
                ),
                false => {
                    assert_eq!(response.status, 405, "{method} {path}");
                    assert_eq!(response.raw.header("allow"), Some(allowed));
                }
            }
        }
    }
}

#[tokio::test]
async fn openapi_document_lists_every_route() {
    let server = test_server();
    let response = server.send(Method::GET, "/openapi.json", "", &[]).await;
    let document = response.clone().ok();
    assert_eq!(
        response.raw.header("content-type"),
        Some("application/json")
    );
    assert_eq!(Some(&document), open_api(&LocalConfig::default()).as_ref());
    assert_eq!(document["openapi"], "3.1.0");
    let mut table: BTreeSet<_> = keyless_routes()
        .map(|route| (route.path().to_owned(), route.method().to_ascii_lowercase()))
        .collect();
    let publication = Route::PublishCheckpoint.path().to_owned();
    table.insert((publication, "delete".to_owned()));
    assert_eq!(documented_operations(&document), table);
    for other in [Method::POST, Method::DELETE] {
        assert_eq!(
            server.send(other, "/openapi.json", "", &[]).await.status,
            405
        );
    }
}

/// Returns the path and method of each documented operation.
fn documented_operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(|method| (path.clone(), method.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn openapi_references_resolve_and_operation_ids_are_unique() {
    let document = open_api(&LocalConfig::default()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let operations = documented_operations(&document);
    let ids: BTreeSet<String> = operations
        .iter()
        .map(|(path, method)| document["paths"][path][method]["operationId"].to_string())
        .collect();
    assert_eq!(ids.len(), operations.len());
}

/// Appends all `$ref` values that occur in `value` to `into`.
fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$ref", Value::String(reference)) => into.push(reference.clone()),
                    _ => collect(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}

#[tokio::test]
async fn openapi_document_and_routes_require_the_api_key() {
    let config = LocalConfig::default().with_api_key("tml-own");
    let document = open_api(&config).unwrap();
    let server = support::test_server_with(config, tinkers_local::Script::default());
    let without = server.send(Method::GET, "/openapi.json", "", &[]).await;
    assert_eq!(without.status, 401);
    let key = [("x-api-key", "tml-own")];
    let with = server.send(Method::GET, "/openapi.json", "", &key).await;
    assert_eq!(with.ok(), document);
    let security =
        |route: Route, method: &str| &document["paths"][route.path()][method]["security"];
    assert_eq!(
        security(Route::Sample, "post"),
        &serde_json::json!([{ "ApiKey": [] }])
    );
    assert_eq!(
        security(Route::Health, "get"),
        &serde_json::json!([{}, { "ApiKey": [] }])
    );
    let created = server.post("create_model", create_model("s", 0)).await;
    assert_eq!(created.status, 401);
}
