//! Deserialisers for response fields that differ between servers, such as numeric ids and numbers as strings.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::numbers::float_to_i64;

/// Deserialises an id from a string or an integer.
pub(crate) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let value = Value::deserialize(deserializer)?;
    id_of(&value).ok_or_else(|| D::Error::custom(format_args!("expected an id, got {value}")))
}

/// Deserialises an id from a string or an integer. Any other value becomes `None`.
pub(crate) fn optional_id<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(id_of(&Value::deserialize(deserializer)?))
}

/// Deserialises a list of ids, each a string or an integer. Any other value, and a list with any other element, becomes `None`.
pub(crate) fn optional_ids<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let ids = value.as_array().map(|ids| ids.iter().map(id_of).collect());
    Ok(ids.flatten())
}

/// Deserialises a non-negative integer, such as a size. Any other value becomes `None`.
pub(crate) fn optional_count<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = Value::deserialize(deserializer)?;
    Ok(as_i64(&value).and_then(|count| u64::try_from(count).ok()?.try_into().ok()))
}

/// Deserialises a non-negative integer, such as a position in a list. Any other value becomes 0.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(optional_count(deserializer)?.unwrap_or_default())
}

/// Deserialises a non-negative integer that must be known. Any other value is an error.
pub(crate) fn required_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    optional_count(deserializer)?.ok_or_else(|| D::Error::custom("expected a count"))
}

/// Deserialises a number, such as a price. Strings of numbers are accepted. Any other value becomes `None`.
pub(crate) fn optional_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<f64>, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    Ok(number.filter(|number| number.is_finite()))
}

/// Deserialises the metadata of a user. Values that are not strings become their JSON text. Anything but an object becomes `None`.
pub(crate) fn optional_metadata<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let Value::Object(fields) = Value::deserialize(deserializer)? else {
        return Ok(None);
    };
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let fields = fields.into_iter();
    Ok(Some(
        fields.map(|(name, value)| (name, text(value))).collect(),
    ))
}

/// Deserialises a value that callers can do without. A value that cannot be decoded becomes `None`.
pub(crate) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// Deserialises an object with `read`, whose fields all have defaults. Numbers and booleans may be strings, and integers may be floats. Fields
/// whose value is invalid nevertheless, such as a negative size, are left out and logged in one line.
pub(crate) fn fields<'de, D, T>(
    deserializer: D,
    read: impl Fn(Value) -> Result<T, serde_json::Error>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let given = Map::deserialize(deserializer)?;
    let mut fields = Map::new();
    let mut skipped = Vec::new();
    for (name, value) in given {
        if value.is_null() {
            continue;
        }
        let integer = as_i64(&value).map(Value::from);
        let boolean = as_bool(&value).map(Value::from);
        let is_valid =
            |form: &Value| read(Map::from_iter([(name.clone(), form.clone())]).into()).is_ok();
        let mut forms = std::iter::once(value).chain(integer).chain(boolean);
        match forms.find(is_valid) {
            Some(form) => {
                fields.insert(name, form);
            }
            None => skipped.push(name),
        }
    }
    if !skipped.is_empty() {
        tracing::warn!(?skipped, "skipped invalid fields of a server configuration");
    }
    read(fields.into()).map_err(D::Error::custom)
}

/// Returns a JSON value as a boolean, if the value is 0, 1, or a string such as `true`. Returns `None` for other values.
fn as_bool(value: &Value) -> Option<bool> {
    let text = match value {
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    match text.as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Returns a JSON value as an id, if the value is an integer or a string that is not empty. Returns `None` for other values.
pub(crate) fn id_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Returns a JSON value as an integer, if the value is an integer, a float without a fraction, or a string of such a number. Returns `None`
/// for other values.
pub(crate) fn as_i64(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| float_to_i64(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse()
                .ok()
                .or_else(|| float_to_i64(text.parse().ok()?))
        }
        _ => None,
    }
}
