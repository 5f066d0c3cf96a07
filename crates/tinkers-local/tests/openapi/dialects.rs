//! The OpenAPI documents of the dialects.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, LocalConfig, Route, Script, open_api};

use super::schema::violations;
use super::support::{create_model, test_server_with};
use super::{documented_operations, keyless_routes};

fn config(dialect: Dialect) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    config
}

/// Returns the documented content types of a `forward_backward` body.
fn pass_bodies(document: &Value) -> Option<Vec<String>> {
    let operation = &document["paths"][Route::ForwardBackward.path()]["post"];
    let content = operation.get("requestBody")?["content"].as_object()?;
    Some(content.keys().cloned().collect())
}

#[tokio::test]
async fn openapi_document_lists_routes_and_encodings_of_the_dialect() {
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
        let operations = documented_operations(&document);
        // The route to publish a checkpoint has two methods.
        let other_methods = usize::from(!dialect.absent.contains(&Route::PublishCheckpoint));
        assert_eq!(
            operations.len(),
            keyless_routes().count() - dialect.absent.len() + other_methods
        );
        assert!(dialect.absent.iter().all(|route| {
            !operations.contains(&(route.path().to_owned(), route.method().to_ascii_lowercase()))
        }));
        let server = test_server_with(config, Script::default());
        let key = [("x-api-key", "tml-any")];
        let response = server.send(Method::GET, "/openapi.json", "", &key).await;
        assert_eq!(response.ok(), document);
    }
}

#[tokio::test]
async fn strict_dialect_serves_no_openapi_document() {
    let config = config(Dialect::json_strict());
    assert_eq!(open_api(&config), None);
    let server = test_server_with(config, Script::default());
    let response = server.send(Method::GET, "/openapi.json", "", &[]).await;
    assert_eq!(
        (response.status, response.body),
        (404, json!({ "detail": "Not Found" }))
    );
}

#[tokio::test]
async fn openapi_document_omits_unsupported_fields() {
    let official = open_api(&LocalConfig::default()).unwrap();
    let strict = open_api(&config(Dialect::tuft())).unwrap();
    let body = json!({ "$ref": "#/components/schemas/CreateModel" });
    let mut create = create_model("s", 0);
    create["type"] = "create_model".into();
    assert!(violations(&strict, &body, &create).is_empty());
    create["optimizer_config"] = json!({ "type": "adamw" });
    assert!(violations(&official, &body, &create).is_empty());
    assert_eq!(violations(&strict, &body, &create).len(), 1);
    let fields = |document: &Value, name: &str| {
        let schema = &document["components"]["schemas"][name]["properties"];
        schema
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    // Nested schemas omit the fields, too.
    assert!(fields(&official, "Datum").contains(&"model_input_spans".to_owned()));
    assert_eq!(fields(&strict, "Datum"), ["loss_fn_inputs", "model_input"]);
    let responses = &strict["paths"][Route::CreateSession.path()]["post"]["responses"];
    assert!(responses.get("201").is_some() && responses.get("200").is_none());
    let responses = &strict["paths"][Route::RetrieveFuture.path()]["post"]["responses"];
    assert!(responses.get("422").is_some() && responses.get("401").is_some());
}
