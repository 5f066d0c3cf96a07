//! A validator for the part of JSON Schema that the document uses. It panics on any other keyword.

use serde_json::Value;

/// Returns the reasons why `body` does not match `schema`. References are resolved in `document`.
pub(crate) fn violations(document: &Value, schema: &Value, body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, body, "", &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else {
        assert!(schema.is_boolean(), "invalid schema: {schema}");
        if schema == false {
            found.push(format!("{at}: no value is allowed here"));
        }
        return;
    };
    let is_valid = |schema: &Value| violations(document, schema, value).is_empty();
    let count = |all: &Value| {
        all.as_array()
            .unwrap()
            .iter()
            .filter(|schema| is_valid(schema))
            .count()
    };
    for (keyword, rule) in keywords {
        let holds = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(
                    document,
                    document.pointer(pointer).unwrap(),
                    value,
                    at,
                    found,
                );
                true
            }
            "type" => match rule {
                Value::Array(names) => names.iter().any(|name| has_type(value, name)),
                name => has_type(value, name),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|x| x >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|x| x <= rule.as_f64().unwrap()),
            "pattern" => {
                let start = rule.as_str().unwrap().strip_prefix('^').unwrap();
                value.as_str().is_none_or(|text| text.starts_with(start))
            }
            "anyOf" => count(rule) > 0,
            "oneOf" => count(rule) == 1,
            "not" => !is_valid(rule),
            "required" => value.as_object().is_none_or(|fields| {
                let names = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|name| name.as_str().unwrap());
                names.into_iter().all(|name| fields.contains_key(name))
            }),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(document, schema, value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if schema["properties"].get(name).is_none() {
                        check(document, rule, value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "items" => {
                for (i, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, value, &format!("{at}/{i}"), found);
                }
                true
            }
            "description" | "title" | "format" | "default" | "contentEncoding" => true,
            other => panic!("unsupported keyword {other}"),
        };
        if !holds {
            found.push(format!("{at}: {keyword} {rule}"));
        }
    }
}

fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("unknown type {other}"),
    }
}
