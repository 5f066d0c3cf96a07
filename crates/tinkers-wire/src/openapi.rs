//! What the OpenAPI document of a server says that a client can use.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{DecodeError, routes};

/// What a server's OpenAPI document says of it. Servers leave things out of theirs, so that what is not listed is not known, and only
/// what is listed is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ApiDocument {
    /// The title, which some servers put their name into.
    pub title: String,
    /// The version, of the API or of the server.
    pub version: String,
    /// The paths, with `{name}` where an id goes.
    pub paths: BTreeSet<String>,
    /// The media types of a pass's body; none when it does not say.
    pub pass_bodies: BTreeSet<String>,
    /// Whether a field that the server does not know is refused, as far as the creation of a model shows.
    pub forbids_unknown_fields: bool,
    /// Whether an optimizer step has a number, without which a repeat cannot be told from a second step.
    pub numbers_steps: bool,
}

impl ApiDocument {
    /// Where servers keep it, below the base URL.
    pub const PATH: &str = "/openapi.json";

    /// Reads a document.
    ///
    /// # Errors
    /// When it is no OpenAPI document.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let document: Value = serde_json::from_slice(body)?;
        let Some(paths) = document.get("paths").and_then(Value::as_object) else {
            return Err(DecodeError::new("an OpenAPI document without paths"));
        };
        let text = |name: &str| {
            let value = document.get("info").and_then(|info| info.get(name));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let body_of = |route: &str| {
            let content = paths.get(route)?.get("post")?.get("requestBody")?;
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
            paths: paths.keys().cloned().collect(),
            pass_bodies: pass_bodies
                .map(|types| types.keys().cloned().collect())
                .unwrap_or_default(),
            forbids_unknown_fields: model
                .and_then(|schema| schema.get("additionalProperties"))
                .is_some_and(|more| *more == Value::Bool(false)),
            numbers_steps: step
                .and_then(|schema| schema.get("properties")?.get("seq_id"))
                .is_some(),
        })
    }
}

/// The schema, or the one of the document that it points to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    match schema.get("$ref") {
        None => Some(schema),
        Some(place) => document.pointer(place.as_str()?.strip_prefix('#')?),
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
    fn what_is_listed_is_read() {
        let pass = r#""requestBody": {"content": {"application/x-protobuf": {}}}"#;
        let step = r#"{"properties": {"seq_id": {"type": "integer"}}}"#;
        let read = ApiDocument::read(document(step, pass).as_bytes()).unwrap();
        assert_eq!((&*read.title, &*read.version), ("A server", "2"));
        assert!(read.forbids_unknown_fields && read.numbers_steps);
        assert_eq!(
            Vec::from_iter(&read.pass_bodies),
            ["application/x-protobuf"]
        );
        assert!(read.paths.contains(routes::CREATE_MODEL));
    }

    #[test]
    fn what_is_not_listed_is_not_known() {
        let read = ApiDocument::read(document("{}", "").as_bytes()).unwrap();
        assert!(read.pass_bodies.is_empty() && !read.numbers_steps);
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
