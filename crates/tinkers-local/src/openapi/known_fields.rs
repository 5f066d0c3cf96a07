//! Reduces the request schemas to the fields that a dialect knows.
//!
//! Only schemas that a request refers to directly are reduced; alternatives, such as the kinds of chunks, are left as they are.

use serde_json::{Map, Value};

use crate::dialect::Shape;
use crate::read::Route;

/// Removes the fields that the Python SDK 0.25 does not know from the schemas of request bodies, and forbids additional fields in
/// these schemas. Used for dialects that refuse such fields.
pub(super) fn prune(schemas: &mut Map<String, Value>, bodies: &[(Route, Value)]) {
    for (route, body) in bodies {
        if let Some(name) = reference(body) {
            prune_named(schemas, &name, &Shape::of_sdk_025(*route));
        }
    }
}

/// Removes `seq_id` from the schemas of training requests, for dialects that ignore `seq_id`.
pub(super) fn remove_seq_ids(schemas: &mut Map<String, Value>, bodies: &[(Route, Value)]) {
    for (route, body) in bodies {
        // SkyRL accepts the `seq_id` of samples.
        let is_numbered = *route != Route::Sample;
        let name = reference(body).filter(|_| is_numbered);
        let schema = name.and_then(|name| schemas.get_mut(&name));
        if let Some(Value::Object(properties)) = schema.and_then(|it| it.get_mut("properties")) {
            properties.remove("seq_id");
        }
    }
}

fn prune_named(schemas: &mut Map<String, Value>, name: &str, shape: &Shape) {
    let Shape::Fields(known) = shape else {
        return;
    };
    let Some(Value::Object(schema)) = schemas.get_mut(name) else {
        return;
    };
    schema.insert("additionalProperties".to_owned(), false.into());
    let properties = schema
        .entry("properties")
        .or_insert_with(|| Map::new().into());
    let Value::Object(properties) = properties else {
        return;
    };
    properties.retain(|field, _| known.iter().any(|(name, _)| name == field));
    let mut nested = Vec::new();
    for (field, shape) in *known {
        let property = properties
            .entry(*field)
            .or_insert_with(|| Map::new().into());
        nested.extend(reference(property).map(|name| (name, shape)));
    }
    for (name, shape) in nested {
        let shape = match shape {
            Shape::Each(each) => each,
            shape => shape,
        };
        prune_named(schemas, &name, shape);
    }
}

/// Returns the name of the schema to which a property refers, directly or as the schema of its list items.
fn reference(property: &Value) -> Option<String> {
    let target = property
        .get("$ref")
        .or_else(|| property["items"].get("$ref"));
    let name = target?.as_str()?.rsplit('/').next()?;
    Some(name.to_owned())
}
