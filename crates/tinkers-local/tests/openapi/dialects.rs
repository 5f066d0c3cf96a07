//! The documents of other makes.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, LocalConfig, Route, Script, open_api};

use super::listed;
use super::schema::faults;
use super::support::{create_model, world_with};

fn config(dialect: Dialect) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    config
}

/// The content types that the document has for a pass.
fn pass_bodies(document: &Value) -> Option<Vec<String>> {
    let operation = &document["paths"][Route::ForwardBackward.path()]["post"];
    let content = operation.get("requestBody")?["content"].as_object()?;
    Some(content.keys().cloned().collect())
}

#[tokio::test]
async fn each_tells_of_the_bodies_of_a_pass_as_its_server_does() {
    let (json, proto) = ("application/json", "application/x-protobuf");
    let all = |kinds: &[&str]| Some(kinds.iter().map(|kind| (*kind).to_owned()).collect());
    for (dialect, expected) in [
        (Dialect::tinker(), all(&[json, proto])),
        (Dialect::skyrl(), all(&[json])),
        (Dialect::skyrl_main(), None),
        (Dialect::tuft(), all(&[proto])),
    ] {
        let config = config(dialect.clone());
        let document = open_api(&config).unwrap();
        assert_eq!(pass_bodies(&document), expected);
        let told = listed(&document);
        assert_eq!(told.len(), Route::ALL.len() - dialect.absent.len());
        assert!(dialect.absent.iter().all(|route| {
            !told.contains(&(route.path().to_owned(), route.method().to_ascii_lowercase()))
        }));
        let world = world_with(config, Script::default());
        let key = [("x-api-key", "tml-any")];
        let got = world.send(Method::GET, "/openapi.json", "", &key).await;
        assert_eq!(got.ok(), document);
    }
}

#[tokio::test]
async fn the_strict_one_has_none() {
    let config = config(Dialect::json_strict());
    assert_eq!(open_api(&config), None);
    let world = world_with(config, Script::default());
    let got = world.send(Method::GET, "/openapi.json", "", &[]).await;
    assert_eq!(
        (got.status, got.body),
        (404, json!({ "detail": "Not Found" }))
    );
}

#[tokio::test]
async fn a_server_that_knows_fewer_fields_lists_fewer() {
    let official = open_api(&LocalConfig::default()).unwrap();
    let strict = open_api(&config(Dialect::tuft())).unwrap();
    let body = json!({ "$ref": "#/components/schemas/CreateModel" });
    let mut create = create_model("s", 0);
    create["type"] = "create_model".into();
    assert!(faults(&strict, &body, &create).is_empty());
    create["optimizer_config"] = json!({ "type": "adamw" });
    assert!(faults(&official, &body, &create).is_empty());
    assert_eq!(faults(&strict, &body, &create).len(), 1);
    let fields = |document: &Value, name: &str| {
        let schema = &document["components"]["schemas"][name]["properties"];
        schema
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    // Below the top too.
    assert!(fields(&official, "Datum").contains(&"model_input_spans".to_owned()));
    assert_eq!(fields(&strict, "Datum"), ["loss_fn_inputs", "model_input"]);
    let told = &strict["paths"][Route::CreateSession.path()]["post"]["responses"];
    assert!(told.get("201").is_some() && told.get("200").is_none());
    let told = &strict["paths"][Route::RetrieveFuture.path()]["post"]["responses"];
    assert!(told.get("422").is_some() && told.get("401").is_some());
}
