//! Decoding of tokens to text, for the search of stop texts.

use std::collections::BTreeMap;
use std::path::Path;

#[cfg(feature = "tokenizers")]
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// The tokenizer of a model.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the engine handles each kind of text"
)]
pub enum Text {
    /// A tokenizer whose token ids below 256 are bytes. All other token ids decode to nothing.
    Bytes,
    /// A tokenizer from a file `tokenizer.json`.
    #[cfg(feature = "tokenizers")]
    Tokenizer(Box<Tokenizer>),
}

impl Text {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Returns [`Error::Tokenizer`] if the file cannot be read, or if the feature `tokenizers` of this crate is off.
    #[cfg(not(feature = "tokenizers"))]
    pub fn from_file(path: &Path) -> Result<Self> {
        Err(Error::Tokenizer(format!(
            "{}: reading tokenizers needs the feature `tokenizers` of tinkers-engine",
            path.display()
        )))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Returns [`Error::Tokenizer`] if the file cannot be read, or if the feature `tokenizers` of this crate is off.
    #[cfg(feature = "tokenizers")]
    pub fn from_file(path: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_file(path)
            .map_err(|e| Error::Tokenizer(format!("{}: {e}", path.display())))?;
        Ok(Self::Tokenizer(Box::new(tokenizer)))
    }

    /// Decodes `tokens`, including special tokens. They are included because a stop text may be a special token.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Tokenizer`] if the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match self {
            Self::Bytes => Ok(tokens
                .iter()
                .filter_map(|&t| u8::try_from(t).ok())
                .collect()),
            #[cfg(feature = "tokenizers")]
            Self::Tokenizer(tokenizer) => tokenizer
                .decode(tokens, false)
                .map(String::into_bytes)
                .map_err(|e| Error::Tokenizer(e.to_string())),
        }
    }

    /// Returns the id of the token with this text, if the tokenizer has one.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bytes => match token.as_bytes() {
                [byte] => Some(u32::from(*byte)),
                _ => None,
            },
            #[cfg(feature = "tokenizers")]
            Self::Tokenizer(tokenizer) => tokenizer.token_to_id(token),
        }
    }

    /// Returns all tokens by id. Empty for [`Self::Bytes`].
    pub(crate) fn vocabulary(&self) -> BTreeMap<u32, String> {
        match self {
            Self::Bytes => BTreeMap::new(),
            #[cfg(feature = "tokenizers")]
            Self::Tokenizer(tokenizer) => {
                let vocabulary = tokenizer.get_vocab(true).into_iter();
                vocabulary.map(|(token, id)| (id, token)).collect()
            }
        }
    }

    /// Encodes `text`.
    ///
    /// # Errors
    /// Returns [`Error::Tokenizer`] if the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            #[cfg(feature = "tokenizers")]
            Self::Tokenizer(tokenizer) => tokenizer
                .encode(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|e| Error::Tokenizer(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_decode_to_bytes_and_other_tokens_to_nothing() {
        let tokens = Text::Bytes.encode("hé").unwrap();
        assert_eq!(tokens, [104, 195, 169]);
        assert_eq!(
            Text::Bytes.decode(&[104, 256, 195, 169]).unwrap(),
            "hé".as_bytes()
        );
    }

    #[test]
    fn error_names_the_tokenizer_file_that_cannot_be_read() {
        let error = Text::from_file(Path::new("/nowhere/tokenizer.json")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/tokenizer.json"),
            "{error}"
        );
    }
}
