//! Deserialisers that treat null like a missing field, since some servers send null for unset fields.

use serde::{Deserialize, Deserializer};

/// Deserialises a value; JSON null becomes the default of its type.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
