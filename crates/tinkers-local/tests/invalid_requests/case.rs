//! A test case of an invalid request, and helpers that modify valid bodies.

use serde_json::Value;

/// An invalid request, its expected status, and a part of its expected error text.
pub(crate) struct Case {
    pub(crate) route: &'static str,
    pub(crate) body: Value,
    pub(crate) status: u16,
    pub(crate) expected: &'static str,
}

pub(crate) fn case(route: &'static str, body: Value, status: u16, expected: &'static str) -> Case {
    Case {
        route,
        body,
        status,
        expected,
    }
}

/// Returns `body` with the value at the JSON pointer `pointer` replaced by `value`.
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
