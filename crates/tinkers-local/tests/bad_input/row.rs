//! One bad input, and small changes to good ones.

use serde_json::Value;

/// What is sent, and what has to come back.
pub(crate) struct Row {
    pub(crate) route: &'static str,
    pub(crate) body: Value,
    pub(crate) status: u16,
    pub(crate) names: &'static str,
}

pub(crate) fn row(route: &'static str, body: Value, status: u16, names: &'static str) -> Row {
    Row {
        route,
        body,
        status,
        names,
    }
}

/// `body` with `value` at `pointer`.
pub(crate) fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).expect("a parent");
    match last.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[last] = value,
    }
    body
}

pub(crate) fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().expect("an object").remove(field);
    body
}
