//! The OpenAPI document: it has the routes that are served, and says of their bodies what the server does with them.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod checked;
mod dialects;
mod schema;
mod wrong;

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use support::{World, create_model, world};
use tinkers_local::{LocalConfig, Route, open_api};

/// A route's path with its ids filled in from the front.
fn path(route: Route, ids: &[&str]) -> String {
    let mut ids = ids.iter();
    let filled = route.path().split('/').map(|part| match part {
        id if id.starts_with('{') => *ids.next().expect("an id for each place"),
        part => part,
    });
    filled.collect::<Vec<_>>().join("/")
}

/// A session, a model with a checkpoint of each kind, and a sampler.
struct Things {
    session: String,
    model: String,
    sampler: String,
}

async fn things(world: &World) -> Things {
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    for (number, name) in [(1, "a"), (2, "b")] {
        let save = serde_json::json!({ "model_id": model, "seq_id": number, "path": name });
        world.post("save_weights", save).await.id();
    }
    let save = serde_json::json!({ "model_id": model, "seq_id": 3, "sampling_session_seq_id": 0 });
    let save = world.post("save_weights_for_sampler", save).await.id();
    let sampler = world.result(&save).await["sampling_session_id"].clone();
    Things {
        session,
        model,
        sampler: sampler.as_str().unwrap().to_owned(),
    }
}

/// The ids that a route of these things has in its path.
fn ids(route: Route, things: &Things) -> Vec<&str> {
    match route {
        Route::FinishSession | Route::Session => vec![&things.session],
        Route::Sampler => vec![&things.sampler],
        Route::TrainingRun | Route::RunCheckpoints => vec![&things.model],
        Route::DeleteCheckpoint => vec![&things.model, "weights", "a"],
        Route::DeleteEscapedCheckpoint => vec![&things.model, "weights%2Fb"],
        _ => vec![],
    }
}

#[tokio::test]
async fn each_route_takes_its_method_and_no_other() {
    let world = world();
    let things = things(&world).await;
    for route in Route::ALL {
        let path = path(*route, &ids(*route, &things));
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PUT] {
            let is_its_own = method.as_str() == route.method();
            // A body that cannot be read, so that nothing is done to the things.
            let got = world.send(method.clone(), &path, "{", &[]).await;
            match is_its_own {
                true => assert!(
                    ![404, 405].contains(&got.status),
                    "{method} {path}: {}",
                    got.status
                ),
                false => {
                    assert_eq!(got.status, 405, "{method} {path}");
                    assert_eq!(got.raw.header("allow"), Some(route.method()));
                }
            }
        }
    }
}

#[tokio::test]
async fn the_document_has_the_routes_of_the_table() {
    let world = world();
    let got = world.send(Method::GET, "/openapi.json", "", &[]).await;
    let document = got.clone().ok();
    assert_eq!(got.raw.header("content-type"), Some("application/json"));
    assert_eq!(Some(&document), open_api(&LocalConfig::default()).as_ref());
    assert_eq!(document["openapi"], "3.1.0");
    let table = Route::ALL.iter();
    let table: BTreeSet<_> = table
        .map(|route| (route.path().to_owned(), route.method().to_ascii_lowercase()))
        .collect();
    assert_eq!(listed(&document), table);
    for other in [Method::POST, Method::DELETE] {
        assert_eq!(
            world.send(other, "/openapi.json", "", &[]).await.status,
            405
        );
    }
}

/// Path and method of each operation.
fn listed(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(|method| (path.clone(), method.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn references_lead_somewhere_and_ids_are_unique() {
    let document = open_api(&LocalConfig::default()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let operations = Route::ALL.iter().map(|route| {
        let method = route.method().to_ascii_lowercase();
        document["paths"][route.path()][&method]["operationId"].to_string()
    });
    let ids: BTreeSet<String> = operations.collect();
    assert_eq!(ids.len(), Route::ALL.len());
}

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
async fn the_key_is_asked_for_as_everywhere() {
    let config = LocalConfig::default().with_api_key("tml-own");
    let document = open_api(&config).unwrap();
    let world = support::world_with(config, tinkers_local::Script::default());
    let without = world.send(Method::GET, "/openapi.json", "", &[]).await;
    assert_eq!(without.status, 401);
    let key = [("x-api-key", "tml-own")];
    let with = world.send(Method::GET, "/openapi.json", "", &key).await;
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
    let created = world.post("create_model", create_model("s", 0)).await;
    assert_eq!(created.status, 401);
}
