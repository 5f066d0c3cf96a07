//! Servers that write null for what they do not set: read as if the field were not there.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A field that is null has its type's default.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An object without its null fields, for types whose defaults are not those of their fields.
pub(crate) fn without_nulls<'de, D, T>(
    deserializer: D,
    read: impl FnOnce(Value) -> Result<T, serde_json::Error>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let mut fields = Map::deserialize(deserializer)?;
    fields.retain(|_, value| !value.is_null());
    read(Value::Object(fields)).map_err(D::Error::custom)
}
