//! Deserialisers for response fields that differ between servers, such as numeric ids and numbers as strings.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

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
