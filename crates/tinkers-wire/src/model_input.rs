//! What a model is shown: a sequence of chunks, nearly always one of text.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::InvalidInput;

/// The largest token id that the wire can carry.
pub(crate) const MAX_TOKEN: u32 = i32::MAX as u32;

/// A sequence of chunks. Cheap to clone: tokens and images are shared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelInput {
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
}

/// A piece of a [`ModelInput`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Chunk {
    /// Token ids.
    EncodedText(Arc<[u32]>),
    /// An encoded image.
    Image {
        /// The file's bytes.
        data: Bytes,
        /// `png` or `jpeg`.
        format: String,
        /// How many tokens it should become; servers may refuse early on a mismatch.
        expected_tokens: Option<u32>,
    },
    /// An image that the server fetches; JSON only.
    ImageAssetPointer {
        /// Where it is.
        location: String,
        /// `png` or `jpeg`.
        format: String,
        /// How many tokens it should become.
        expected_tokens: Option<u32>,
    },
    /// A serialised tensor container, passed through untouched.
    Dmel(Bytes),
    /// A kind that this version does not know, kept as it is.
    Other(Value),
}

impl ModelInput {
    /// One chunk of text.
    pub fn from_tokens(tokens: impl Into<Arc<[u32]>>) -> Self {
        Self {
            chunks: vec![Chunk::EncodedText(tokens.into())],
        }
    }

    /// The length in tokens; `None` when an image does not say how many it will be.
    pub fn len(&self) -> Option<usize> {
        self.chunks.iter().map(Chunk::len).sum()
    }

    /// Whether there is not a single token.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// All tokens; `None` when some chunk is not text.
    pub fn tokens(&self) -> Option<Vec<u32>> {
        let mut all = Vec::new();
        for chunk in &self.chunks {
            let Chunk::EncodedText(tokens) = chunk else {
                return None;
            };
            all.extend_from_slice(tokens);
        }
        Some(all)
    }

    /// Estimated bytes in a sampling request, as the official SDK counts them: 10 for each token, images as they are.
    pub fn sampling_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(10)).sum()
    }

    /// Estimated bytes in a training request: 4 for each token, images as they are.
    pub fn training_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(4)).sum()
    }

    /// Checks that every chunk has a form in training requests.
    ///
    /// # Errors
    /// Names `chunks[i].type`.
    pub fn validate_trainable(&self) -> Result<(), InvalidInput> {
        let untrainable =
            |chunk: &Chunk| matches!(chunk, Chunk::ImageAssetPointer { .. } | Chunk::Other(_));
        match self.chunks.iter().position(untrainable) {
            Some(i) => Err(InvalidInput::new(
                format!("chunks[{i}].type"),
                "encoded_text, image or dmel",
            )),
            None => Ok(()),
        }
    }

    /// Checks token ids and image formats.
    ///
    /// # Errors
    /// Names `chunks[i]` and what was expected.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.is_empty() {
            return Err(InvalidInput::new("chunks", "at least one token"));
        }
        for (i, chunk) in self.chunks.iter().enumerate() {
            chunk
                .validate()
                .map_err(|error| error.within(format_args!("chunks[{i}].")))?;
        }
        Ok(())
    }
}

impl From<Vec<u32>> for ModelInput {
    fn from(tokens: Vec<u32>) -> Self {
        Self::from_tokens(tokens)
    }
}

impl From<&[u32]> for ModelInput {
    fn from(tokens: &[u32]) -> Self {
        Self::from_tokens(tokens)
    }
}

impl Chunk {
    /// The length in tokens, where it is known.
    pub fn len(&self) -> Option<usize> {
        match self {
            Self::EncodedText(tokens) => Some(tokens.len()),
            Self::Image {
                expected_tokens, ..
            }
            | Self::ImageAssetPointer {
                expected_tokens, ..
            } => expected_tokens.map(|n| n as usize),
            Self::Dmel(_) | Self::Other(_) => None,
        }
    }

    /// Whether it is known to be of no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    fn bytes(&self, per_token: u64) -> u64 {
        match self {
            Self::EncodedText(tokens) => per_token * tokens.len() as u64,
            Self::Image { data, .. } | Self::Dmel(data) => data.len() as u64,
            Self::ImageAssetPointer { location, .. } => location.len() as u64,
            Self::Other(_) => 0,
        }
    }

    fn validate(&self) -> Result<(), InvalidInput> {
        match self {
            Self::EncodedText(tokens) => match tokens.iter().find(|&&token| token > MAX_TOKEN) {
                Some(token) => Err(InvalidInput::new(
                    "tokens",
                    format_args!("token ids up to {MAX_TOKEN}, got {token}"),
                )),
                None => Ok(()),
            },
            Self::Image { format, .. } | Self::ImageAssetPointer { format, .. }
                if format != "png" && format != "jpeg" =>
            {
                Err(InvalidInput::new(
                    "format",
                    format_args!("png or jpeg, got {format:?}"),
                ))
            }
            _ => Ok(()),
        }
    }
}

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
            Self::Other(value) => return value.serialize(serializer),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        #[derive(Deserialize)]
        struct Raw {
            #[serde(rename = "type")]
            kind: Option<String>,
            tokens: Option<Vec<u32>>,
            data: Option<String>,
            dmel: Option<String>,
            location: Option<String>,
            format: Option<String>,
            expected_tokens: Option<u32>,
        }
        // Text has a path of its own: it is nearly everything, and a tree of values for each token would be waste.
        let raw = Raw::deserialize(deserializer)?;
        let decode = |text: String| {
            BASE64
                .decode(text)
                .map(Bytes::from)
                .map_err(|e| D::Error::custom(format!("bad base64: {e}")))
        };
        let missing = |field: &'static str| D::Error::missing_field(field);
        match raw.kind.as_deref().unwrap_or("encoded_text") {
            "encoded_text" => Ok(Self::EncodedText(
                raw.tokens.ok_or_else(|| missing("tokens"))?.into(),
            )),
            "image" => Ok(Self::Image {
                data: decode(raw.data.ok_or_else(|| missing("data"))?)?,
                format: raw.format.ok_or_else(|| missing("format"))?,
                expected_tokens: raw.expected_tokens,
            }),
            "image_asset_pointer" => Ok(Self::ImageAssetPointer {
                location: raw.location.ok_or_else(|| missing("location"))?,
                format: raw.format.ok_or_else(|| missing("format"))?,
                expected_tokens: raw.expected_tokens,
            }),
            "dmel" => Ok(Self::Dmel(decode(
                raw.dmel.ok_or_else(|| missing("dmel"))?,
            )?)),
            other => Ok(Self::Other(json!({ "type": other }))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_kind_has_the_json_of_the_official_sdk() {
        let input = ModelInput {
            chunks: vec![
                Chunk::EncodedText(Arc::from([1, 2])),
                Chunk::Image {
                    data: Bytes::from_static(b"\x89PNG"),
                    format: "png".into(),
                    expected_tokens: Some(1),
                },
                Chunk::ImageAssetPointer {
                    location: "gs://x".into(),
                    format: "jpeg".into(),
                    expected_tokens: None,
                },
                Chunk::Dmel(Bytes::from_static(&[1, 2])),
            ],
        };
        let json = serde_json::to_string(&input).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"chunks":[{"type":"encoded_text","tokens":[1,2]},"#,
                r#"{"type":"image","data":"iVBORw==","format":"png","expected_tokens":1},"#,
                r#"{"type":"image_asset_pointer","location":"gs://x","format":"jpeg"},"#,
                r#"{"type":"dmel","dmel":"AQI="}]}"#
            )
        );
        assert_eq!(serde_json::from_str::<ModelInput>(&json).unwrap(), input);
    }

    #[test]
    fn a_chunk_of_an_unknown_kind_is_kept() {
        let input: ModelInput =
            serde_json::from_str(r#"{"chunks": [{"type": "hologram", "depth": 3}]}"#).unwrap();
        assert!(matches!(input.chunks[0], Chunk::Other(_)));
        assert_eq!(input.len(), None);
    }

    #[test]
    fn tokens_beyond_the_wire_and_empty_inputs_are_refused() {
        assert_eq!(
            ModelInput::from_tokens(vec![1, MAX_TOKEN + 1])
                .validate()
                .unwrap_err()
                .field(),
            "chunks[0].tokens"
        );
        assert_eq!(
            ModelInput::from_tokens(vec![])
                .validate()
                .unwrap_err()
                .field(),
            "chunks"
        );
    }
}
