//! Model inputs: sequences of chunks, usually a single chunk of text.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::InvalidInput;

/// The largest token id that the protocol can encode.
pub(crate) const MAX_TOKEN: u32 = i32::MAX as u32;

/// The input of a model: a prompt, or the tokens of a training example, as a sequence of chunks.
///
/// Vectors, slices and arrays of token ids (`u32`) convert to an input, and iterators of token ids can be collected into an input. Cheap to
/// clone: clones share the tokens and images.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{Chunk, ModelInput};
///
/// let tokens = vec![72, 101, 108];
/// let input = ModelInput::from(&tokens);
/// assert_eq!(input.tokens(), Some(tokens));
/// assert_eq!(input, ModelInput::from([72, 101, 108]));
///
/// // Text with an image in it.
/// let input = ModelInput::from([72, 101])
///     .with_chunk(Chunk::image(&b"the bytes of a file"[..], "png"))
///     .with_tokens([108]);
/// assert_eq!(input.chunks.len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ModelInput {
    /// The chunks of text and images, in the order of the input.
    pub chunks: Vec<Chunk>,
}

/// A part of a [`ModelInput`]: text or an image.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Chunk {
    /// A text, encoded as token ids.
    EncodedText(Arc<[u32]>),
    /// An encoded image.
    Image {
        /// The bytes of the image file.
        data: Bytes,
        /// `png` or `jpeg`.
        format: String,
        /// The number of tokens that the caller expects the image to take, if known. Servers may reject an image that takes another number
        /// of tokens.
        expected_tokens: Option<u32>,
    },
    /// An image that the server fetches from a URL. It can be part of a prompt, but not of a training example.
    ImageAssetPointer {
        /// The URL of the image.
        location: String,
        /// `png` or `jpeg`.
        format: String,
        /// The number of tokens that the caller expects the image to take, if known.
        expected_tokens: Option<u32>,
    },
    /// A serialised container of tensors in the format `dmel` of the protocol. The bytes are sent unchanged.
    Dmel(Bytes),
    /// A chunk of a kind that this version does not know, as its JSON object. The object is sent as it was decoded.
    Other(Value),
}

impl ModelInput {
    /// Creates an input of one text chunk.
    pub fn from_tokens(tokens: impl Into<Arc<[u32]>>) -> Self {
        Self {
            chunks: vec![Chunk::EncodedText(tokens.into())],
        }
    }

    /// Creates an input from chunks.
    pub fn from_chunks(chunks: impl IntoIterator<Item = Chunk>) -> Self {
        Self {
            chunks: Vec::from_iter(chunks),
        }
    }

    /// Appends a chunk to the input.
    #[must_use]
    pub fn with_chunk(mut self, chunk: Chunk) -> Self {
        self.chunks.push(chunk);
        self
    }

    /// Appends a chunk of token ids to the input.
    #[must_use]
    pub fn with_tokens(self, tokens: impl Into<Arc<[u32]>>) -> Self {
        self.with_chunk(Chunk::EncodedText(tokens.into()))
    }

    /// Returns the length of the input in tokens, or `None` if the length of a chunk is unknown.
    pub fn len(&self) -> Option<usize> {
        self.chunks.iter().map(Chunk::len).sum()
    }

    /// Returns whether the input is known to have no tokens. Returns `false` if the length of the input is unknown.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Returns all tokens of the input, or `None` if a chunk is not text.
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

    /// Estimates the size of the input in a sampling request in bytes, with the formula of the official SDK: 10 bytes per token, plus the
    /// size of images.
    pub fn sampling_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(10)).sum()
    }

    /// Estimates the size of the input in a training request in bytes, with the formula of the official SDK: 4 bytes per token, plus the
    /// size of images.
    pub fn training_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes(4)).sum()
    }

    /// Checks that every chunk can be part of a training example. Images from a URL and chunks of unknown kinds cannot.
    ///
    /// # Errors
    /// The error names the field `chunks[i].type`.
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

    /// Checks that there is at least one token, that token ids fit the protocol (up to `i32::MAX`), and that images are `png` or `jpeg`.
    ///
    /// # Errors
    /// The error names the field `chunks`, `chunks[i].tokens` or `chunks[i].format`.
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
    /// Creates an input of one text chunk.
    fn from(tokens: Vec<u32>) -> Self {
        Self::from_tokens(tokens)
    }
}

impl From<&Vec<u32>> for ModelInput {
    /// Creates an input of one text chunk.
    fn from(tokens: &Vec<u32>) -> Self {
        Self::from_tokens(tokens.as_slice())
    }
}

impl From<&[u32]> for ModelInput {
    /// Creates an input of one text chunk.
    fn from(tokens: &[u32]) -> Self {
        Self::from_tokens(tokens)
    }
}

impl<const N: usize> From<[u32; N]> for ModelInput {
    /// Creates an input of one text chunk.
    fn from(tokens: [u32; N]) -> Self {
        Self::from_tokens(tokens)
    }
}

impl<const N: usize> From<&[u32; N]> for ModelInput {
    /// Creates an input of one text chunk.
    fn from(tokens: &[u32; N]) -> Self {
        Self::from_tokens(*tokens)
    }
}

impl From<Arc<[u32]>> for ModelInput {
    /// Creates an input of one text chunk. The tokens are not copied.
    fn from(tokens: Arc<[u32]>) -> Self {
        Self::from_tokens(tokens)
    }
}

impl FromIterator<u32> for ModelInput {
    /// Creates an input of one text chunk.
    fn from_iter<I: IntoIterator<Item = u32>>(tokens: I) -> Self {
        Self::from_tokens(Vec::from_iter(tokens))
    }
}

impl Chunk {
    /// Creates an image chunk from the content of an image file. `format` is `png` or `jpeg`.
    pub fn image(data: impl Into<Bytes>, format: impl Into<String>) -> Self {
        Self::Image {
            data: data.into(),
            format: format.into(),
            expected_tokens: None,
        }
    }

    /// Returns the length of the chunk in tokens, or `None` if only the server knows it.
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

    /// Returns whether the chunk is known to have no tokens. Returns `false` if the length of the chunk is unknown.
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
    fn chunk_json_matches_the_official_sdk() {
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
    fn model_input_converts_from_each_container_of_tokens() {
        let (vec, array) = (vec![1, 2], [1, 2]);
        let input = ModelInput::from_tokens([1, 2]);
        for converted in [
            ModelInput::from(&vec),
            ModelInput::from(&vec[..]),
            ModelInput::from(vec.clone()),
            ModelInput::from(array),
            ModelInput::from(&array),
            ModelInput::from(Arc::from(array)),
            vec.iter().copied().collect(),
        ] {
            assert_eq!(converted, input);
        }
        let two = ModelInput::from_chunks(input.chunks.clone()).with_tokens([3]);
        assert_eq!(two.tokens(), Some(vec![1, 2, 3]));
    }

    #[test]
    fn invalid_tokens_and_empty_inputs_are_rejected() {
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
