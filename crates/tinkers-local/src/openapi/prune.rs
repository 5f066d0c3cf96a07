//! The document of a server that knows fewer fields, and refuses the others.
//!
//! Only what a request's schema names by itself is gone through; parts in alternatives, such as chunks, stay as they are.

use serde_json::{Map, Value};

use crate::dialect::Shape;
use crate::read::Route;

/// Takes out of the schemas of request bodies what is not known, and says that nothing else is.
pub(super) fn prune(schemas: &mut Map<String, Value>, bodies: &[(Route, Value)]) {
    for (route, body) in bodies {
        if let Some(name) = reference(body) {
            prune_named(schemas, &name, &Shape::of(*route));
        }
    }
}

/// Takes out of the schemas of training requests their numbers, which are not read.
pub(super) fn unnumbered(schemas: &mut Map<String, Value>, bodies: &[(Route, Value)]) {
    for (route, body) in bodies {
        // Samples have one there too.
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
    let mut below = Vec::new();
    for (field, shape) in *known {
        let property = properties
            .entry(*field)
            .or_insert_with(|| Map::new().into());
        below.extend(reference(property).map(|name| (name, shape)));
    }
    for (name, shape) in below {
        let shape = match shape {
            Shape::Each(each) => each,
            shape => shape,
        };
        prune_named(schemas, &name, shape);
    }
}

/// The schema that a property, or each entry of it, refers to.
fn reference(property: &Value) -> Option<String> {
    let there = property
        .get("$ref")
        .or_else(|| property["items"].get("$ref"));
    let name = there?.as_str()?.rsplit('/').next()?;
    Some(name.to_owned())
}
