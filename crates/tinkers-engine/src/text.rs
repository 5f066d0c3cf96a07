//! From tokens to bytes: what stop texts are looked for in.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// How a model's tokens spell text.
#[derive(Debug)]
pub enum Text {
    /// A token below 256 is a byte, all others are silent.
    Bytes,
    /// As a `tokenizer.json` says.
    Tokenizer(Box<Tokenizer>),
}

impl Text {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_file(path)
            .map_err(|e| Error::Tokenizer(format!("{}: {e}", path.display())))?;
        Ok(Self::Tokenizer(Box::new(tokenizer)))
    }

    /// The bytes that `tokens` spell; special tokens included, since a stop text may be one.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match self {
            Self::Bytes => Ok(tokens
                .iter()
                .filter_map(|&t| u8::try_from(t).ok())
                .collect()),
            Self::Tokenizer(tokenizer) => tokenizer
                .decode(tokens, false)
                .map(String::into_bytes)
                .map_err(|e| Error::Tokenizer(e.to_string())),
        }
    }

    /// The id of the token that is spelled `token`.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bytes => None,
            Self::Tokenizer(tokenizer) => tokenizer.token_to_id(token),
        }
    }

    /// All tokens by id; none where a token is a byte.
    pub(crate) fn vocabulary(&self) -> BTreeMap<u32, String> {
        match self {
            Self::Bytes => BTreeMap::new(),
            Self::Tokenizer(tokenizer) => {
                let vocabulary = tokenizer.get_vocab(true).into_iter();
                vocabulary.map(|(token, id)| (id, token)).collect()
            }
        }
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
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
    fn bytes_spell_themselves_and_special_tokens_nothing() {
        let tokens = Text::Bytes.encode("hé").unwrap();
        assert_eq!(tokens, [104, 195, 169]);
        assert_eq!(
            Text::Bytes.decode(&[104, 256, 195, 169]).unwrap(),
            "hé".as_bytes()
        );
    }

    #[test]
    fn an_unreadable_tokenizer_is_named() {
        let error = Text::from_file(Path::new("/nowhere/tokenizer.json")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/tokenizer.json"),
            "{error}"
        );
    }
}
