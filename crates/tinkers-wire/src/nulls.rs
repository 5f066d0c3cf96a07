//! Deserialisers that treat null like a missing field, since some servers send null for unset fields.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Deserialises a value; JSON null becomes the default of its type.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Removes the null fields of an object and deserialises the remaining fields with `read`. This is needed for types whose fields have defaults
/// that differ from the defaults of the field types.
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
