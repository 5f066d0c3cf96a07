//! Model inputs: sequences of chunks, usually a single chunk of text.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::InvalidInput;

/// The largest token id that the protocol can encode.
pub(crate) const MAX_TOKEN: u32 = i32::MAX as u32;

/// The input of a model as a sequence of chunks. Cheap to clone: tokens and images are shared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// The bytes of the image file.
        data: Bytes,
        /// `png` or `jpeg`.
        format: String,
        /// The expected number of tokens; servers may reject a mismatch early.
        expected_tokens: Option<u32>,
    },
    /// An image that the server fetches. Has no protobuf form.
    ImageAssetPointer {
        /// The URL of the image.
        location: String,
        /// `png` or `jpeg`.
        format: String,
        /// The expected number of tokens.
        expected_tokens: Option<u32>,
    },
    /// A serialised tensor container, sent unchanged.
    Dmel(Bytes),
    /// A chunk of unknown kind, kept unchanged.
    Other(Value),
}

impl ModelInput {
    /// Creates an input of one text chunk.
    pub fn from_tokens(tokens: impl Into<Arc<[u32]>>) -> Self {
        Self {
            chunks: vec![Chunk::EncodedText(tokens.into())],
        }
    }

    /// Returns the length in tokens; `None` if the length of a chunk is unknown.
    pub fn len(&self) -> Option<usize> {
        self.chunks.iter().map(Chunk::len).sum()
    }

    /// Returns whether the input is known to have no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Returns all tokens; `None` if a chunk is not text.
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

    /// Estimates the bytes in a sampling request as the official SDK does: 10 per token, plus the size of images.
    pub fn sampling_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(10)).sum()
    }

    /// Estimates the bytes in a training request as the official SDK does: 4 per token, plus the size of images.
    pub fn training_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(4)).sum()
    }

    /// Checks that every chunk is of a kind that can be trained on.
    ///
    /// # Errors
    /// Names the field `chunks[i].type`.
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
    /// Names the invalid field of `chunks[i]`.
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
    /// Returns the length in tokens, if known.
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

    /// Returns whether the chunk is known to have no tokens.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_kind_matches_the_json_of_the_official_sdk() {
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
    fn out_of_range_tokens_and_empty_inputs_are_rejected() {
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
