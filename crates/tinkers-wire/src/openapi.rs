//! The parts of a server's OpenAPI document that the client uses.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{DecodeError, routes};

/// A summary of a server's OpenAPI document. The documents are often incomplete, so a route that is not listed may exist nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ApiDocument {
    /// The title of the OpenAPI document. On some servers the title contains the name of the server software.
    pub title: String,
    /// The version that the OpenAPI document states, either of the API or of the server.
    pub version: String,
    /// The paths of the routes that the OpenAPI document lists, with placeholders such as `{model_id}` for ids. Paths that the document
    /// lists relative to the prefix of the API have the prefix here.
    pub paths: BTreeSet<String>,
    /// The media types that the OpenAPI document lists for the request body of `forward_backward`; empty if it lists none.
    pub pass_bodies: BTreeSet<String>,
    /// Whether the server rejects unknown fields in requests. This is taken from the schema of the `create_model` request.
    pub forbids_unknown_fields: bool,
    /// Whether the request `optim_step` has the field `seq_id`. Without this field the server cannot distinguish a retry from a second
    /// step.
    pub optim_step_has_seq_id: bool,
}

impl ApiDocument {
    /// The path of the OpenAPI document on the server, below the base URL.
    pub const PATH: &str = "/openapi.json";

    /// The path at which some servers have their OpenAPI document: below the prefix of the API.
    pub const API_PATH: &str = "/api/v1/openapi.json";

    /// Decodes an OpenAPI document.
    ///
    /// # Errors
    /// Fails if the body is not JSON, or has no `paths`.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let document: Value = serde_json::from_slice(body)?;
        let Some(paths) = document.get("paths").and_then(Value::as_object) else {
            return Err(DecodeError::new(
                "cannot decode the OpenAPI document: expected an object with paths",
            ));
        };
        let text = |name: &str| {
            let value = document.get("info").and_then(|info| info.get(name));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let is_relative = lists_relative_paths(&document);
        let body_of = |route: &str| {
            let relative = route.strip_prefix(PREFIX).filter(|_| is_relative);
            let operations = paths.get(route).or_else(|| paths.get(relative?))?;
            let content = operations.get("post")?.get("requestBody")?;
            content.get("content")?.as_object()
        };
        let schema_of = |route: &str| {
            let schema = body_of(route)?.get("application/json")?.get("schema")?;
            resolve(&document, schema)
        };
        let pass_bodies = body_of(routes::FORWARD_BACKWARD);
        let model = schema_of(routes::CREATE_MODEL);
        let step = schema_of(routes::OPTIM_STEP);
        Ok(Self {
            title: text("title"),
            version: text("version"),
            paths: paths
                .keys()
                .map(|path| match is_relative && !path.starts_with(PREFIX) {
                    true => format!("{PREFIX}{path}"),
                    false => path.clone(),
                })
                .collect(),
            pass_bodies: pass_bodies
                .map(|types| types.keys().cloned().collect())
                .unwrap_or_default(),
            forbids_unknown_fields: model
                .and_then(|schema| schema.get("additionalProperties"))
                .is_some_and(|more| *more == Value::Bool(false)),
            optim_step_has_seq_id: step
                .and_then(|schema| schema.get("properties")?.get("seq_id"))
                .is_some(),
        })
    }
}

/// The prefix of the paths of the API.
const PREFIX: &str = "/api/v1";

/// Returns whether the URL of the server that the OpenAPI document names ends with the prefix of the API, so that the paths in the document
/// are relative to it.
fn lists_relative_paths(document: &Value) -> bool {
    let servers = document.get("servers").and_then(Value::as_array);
    let mut urls = servers.into_iter().flatten().map(|server| &server["url"]);
    urls.any(|url| {
        let url = url.as_str().unwrap_or_default();
        url.trim_end_matches('/').ends_with(PREFIX)
    })
}

/// Returns the JSON schema that the `$ref` of `schema` refers to in the OpenAPI document, or `schema` itself if it has no `$ref`.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    match schema.get("$ref") {
        None => Some(schema),
        Some(reference) => document.pointer(reference.as_str()?.strip_prefix('#')?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(step: &str, pass: &str) -> String {
        format!(
            r##"{{"openapi": "3.1.0", "info": {{"title": "A server", "version": "2"}}, "paths": {{
                "/api/v1/create_model": {{"post": {{"requestBody": {{"content": {{"application/json":
                    {{"schema": {{"$ref": "#/components/schemas/CreateModel"}}}}}}}}}}}},
                "/api/v1/optim_step": {{"post": {{"requestBody": {{"content": {{"application/json":
                    {{"schema": {step}}}}}}}}}}},
                "/api/v1/forward_backward": {{"post": {{{pass}}}}}}},
              "components": {{"schemas": {{"CreateModel": {{"additionalProperties": false}}}}}}}}"##
        )
    }

    #[test]
    fn openapi_document_is_decoded_into_a_summary() {
        let pass = r#""requestBody": {"content": {"application/x-protobuf": {}}}"#;
        let step = r#"{"properties": {"seq_id": {"type": "integer"}}}"#;
        let read = ApiDocument::read(document(step, pass).as_bytes()).unwrap();
        assert_eq!((&*read.title, &*read.version), ("A server", "2"));
        assert!(read.forbids_unknown_fields && read.optim_step_has_seq_id);
        assert_eq!(
            Vec::from_iter(&read.pass_bodies),
            ["application/x-protobuf"]
        );
        assert!(read.paths.contains(routes::CREATE_MODEL));
    }

    #[test]
    fn paths_relative_to_the_server_url_get_the_prefix_of_the_api() {
        let body = r#"{"post": {"requestBody": {"content": {"application/json": {}}}}}"#;
        let read = |servers: &str| {
            let text = format!(
                r#"{{"servers": {servers}, "paths": {{"/forward_backward": {body}, "/api/v1/asample": {{}}}}}}"#
            );
            ApiDocument::read(text.as_bytes()).unwrap()
        };
        for servers in [
            r#"[{"url": "/api/v1"}]"#,
            r#"[{}, {"url": "https://host/behind/api/v1/"}]"#,
        ] {
            let document = read(servers);
            let paths = [routes::ASAMPLE, routes::FORWARD_BACKWARD];
            assert_eq!(Vec::from_iter(&document.paths), paths, "{servers}");
            assert_eq!(Vec::from_iter(&document.pass_bodies), ["application/json"]);
        }
        // The base URL of the client contains any other prefix.
        for servers in ["[]", "7", r#"[{"url": "/behind"}]"#] {
            let document = read(servers);
            assert!(document.paths.contains("/forward_backward"), "{servers}");
            assert!(document.pass_bodies.is_empty(), "{servers}");
        }
    }

    #[test]
    fn incomplete_openapi_document_is_decoded_with_default_values() {
        let read = ApiDocument::read(document("{}", "").as_bytes()).unwrap();
        assert!(read.pass_bodies.is_empty() && !read.optim_step_has_seq_id);
        let nowhere = r##"{"paths": {"/api/v1/create_model": {"post": {"requestBody": {"content": {"application/json":
            {"schema": {"$ref": "#/nowhere"}}}}}}}}"##;
        assert!(
            !ApiDocument::read(nowhere.as_bytes())
                .unwrap()
                .forbids_unknown_fields
        );
        for other in ["", "[]", "{}", r#"{"detail": "Not Found"}"#, "<html>"] {
            assert!(ApiDocument::read(other.as_bytes()).is_err(), "{other}");
        }
    }
}
