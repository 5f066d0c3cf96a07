//! The JSON of chunks. Lists of tokens are parsed directly, since a [`Value`] per token would be expensive.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::Chunk;

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Raw<'a> {
            EncodedText {
                tokens: &'a [u32],
            },
            Image {
                data: String,
                format: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                expected_tokens: Option<u32>,
            },
            ImageAssetPointer {
                location: &'a str,
                format: &'a str,
                #[serde(skip_serializing_if = "Option::is_none")]
                expected_tokens: Option<u32>,
            },
            Dmel {
                dmel: String,
            },
        }
        match self {
            Self::EncodedText(tokens) => Raw::EncodedText { tokens },
            Self::Image {
                data,
                format,
                expected_tokens,
            } => Raw::Image {
                data: BASE64.encode(data),
                format,
                expected_tokens: *expected_tokens,
            },
            Self::ImageAssetPointer {
                location,
                format,
                expected_tokens,
            } => Raw::ImageAssetPointer {
                location,
                format,
                expected_tokens: *expected_tokens,
            },
            Self::Dmel(data) => Raw::Dmel {
                dmel: BASE64.encode(data),
            },
            Self::Other(value) => return serialize_other(value, serializer),
        }
        .serialize(serializer)
    }
}

/// Serialises a chunk of a model input, if the chunk has a kind that this version of the crate does not know. The field `type` comes first, so
/// that a streaming parser knows the kind before the other fields.
fn serialize_other<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
    let Value::Object(fields) = value else {
        return value.serialize(serializer);
    };
    let (first, rest): (Vec<_>, Vec<_>) = fields.iter().partition(|(name, _)| *name == "type");
    serializer.collect_map(first.into_iter().chain(rest))
}

/// The fields of the JSON object of one chunk of a model input, collected while the object is parsed.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    tokens: Option<Vec<u32>>,
    others: Map<String, Value>,
}

impl Fields {
    fn string<E: Error>(&mut self, field: &'static str) -> Result<String, E> {
        match self.others.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(E::custom(format!(
                "{field}: expected a string, got {}",
                kind(&other)
            ))),
            None => Err(E::missing_field(field)),
        }
    }

    fn bytes<E: Error>(&mut self, field: &'static str) -> Result<Bytes, E> {
        let text = self.string(field)?;
        let bytes = BASE64.decode(text);
        bytes
            .map(Bytes::from)
            .map_err(|error| E::custom(format!("{field}: invalid base64: {error}")))
    }

    fn expected_tokens<E: Error>(&mut self) -> Result<Option<u32>, E> {
        match self.others.remove("expected_tokens") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => u32::deserialize(value)
                .map(Some)
                .map_err(|error| E::custom(format!("expected_tokens: {error}"))),
        }
    }

    fn into_chunk<E: Error>(mut self) -> Result<Chunk, E> {
        match self.kind.as_deref().unwrap_or("encoded_text") {
            "encoded_text" => {
                let tokens = self.tokens.ok_or_else(|| E::missing_field("tokens"))?;
                Ok(Chunk::EncodedText(tokens.into()))
            }
            "image" => Ok(Chunk::Image {
                data: self.bytes("data")?,
                format: self.string("format")?,
                expected_tokens: self.expected_tokens()?,
            }),
            "image_asset_pointer" => Ok(Chunk::ImageAssetPointer {
                location: self.string("location")?,
                format: self.string("format")?,
                expected_tokens: self.expected_tokens()?,
            }),
            "dmel" => Ok(Chunk::Dmel(self.bytes("dmel")?)),
            other => {
                self.others.insert("type".to_owned(), other.into());
                if let Some(tokens) = self.tokens {
                    self.others.insert("tokens".to_owned(), tokens.into());
                }
                Ok(Chunk::Other(Value::Object(self.others)))
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChunkVisitor;

        impl<'de> Visitor<'de> for ChunkVisitor {
            type Value = Chunk;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a chunk object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Chunk, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    // A chunk without a `type` is text, so `tokens` may come before it.
                    let is_text = || {
                        fields
                            .kind
                            .as_deref()
                            .is_none_or(|kind| kind == "encoded_text")
                    };
                    match name.as_str() {
                        "type" => fields.kind = map.next_value()?,
                        "tokens" if is_text() => fields.tokens = map.next_value()?,
                        _ => {
                            fields.others.insert(name, map.next_value()?);
                        }
                    }
                }
                fields.into_chunk()
            }
        }
        deserializer.deserialize_map(ChunkVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelInput;

    #[test]
    fn chunk_of_an_unknown_kind_round_trips_through_json() {
        for chunk in [
            r#"{"type":"hologram","data":{"x":1},"depth":3,"expected_tokens":"many"}"#,
            r#"{"tokens":[1,2],"type":"graph","edges":[[0,1]]}"#,
            r#"{"type":"graph","tokens":"other"}"#,
        ] {
            let read: Chunk = serde_json::from_str(chunk).unwrap();
            let Chunk::Other(value) = &read else {
                panic!("{read:?}");
            };
            assert_eq!(value, &serde_json::from_str::<Value>(chunk).unwrap());
            assert_eq!(read.len(), None);
            let written = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Chunk>(&written).unwrap(), read);
        }
    }

    #[test]
    fn chunk_fields_are_decoded_in_any_order() {
        let text = Chunk::EncodedText([1, 2].into());
        for chunk in [
            r#"{"tokens":[1,2],"type":"encoded_text"}"#,
            r#"{"type":"encoded_text","tokens":[1,2],"later":{}}"#,
            r#"{"type":null,"tokens":[1,2]}"#,
            r#"{"tokens":[1,2]}"#,
        ] {
            assert_eq!(
                serde_json::from_str::<Chunk>(chunk).unwrap(),
                text,
                "{chunk}"
            );
        }
        for (chunk, field) in [
            (r#"{"type":"encoded_text"}"#, "tokens"),
            (r#"{"type":"image","data":"!","format":"png"}"#, "data"),
            (r#"{"type":"image","data":7,"format":"png"}"#, "data"),
            (
                r#"{"type":"image","data":"iVBORw==","format":"png","expected_tokens":-1}"#,
                "expected_tokens",
            ),
            (r#"{"type":"dmel"}"#, "dmel"),
        ] {
            let error = serde_json::from_str::<Chunk>(chunk)
                .unwrap_err()
                .to_string();
            assert!(error.contains(field), "{chunk}: {error}");
        }
        assert!(serde_json::from_str::<ModelInput>(r#"{"chunks":[7]}"#).is_err());
    }
}
