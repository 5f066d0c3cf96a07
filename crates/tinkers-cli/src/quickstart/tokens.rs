//! Between text and token ids: bytes for the built-in model, a tokenizer.json for any other.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tokenizers::Tokenizer;

/// How a model reads text.
pub(crate) enum Tokens {
    /// A token is a byte; ids from 256 on stand for no text.
    Bytes,
    /// As a tokenizer.json says.
    File(Box<Tokenizer>),
}

impl Tokens {
    /// Of the built-in model, or from a file.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            return Ok(Self::Bytes);
        };
        // The library's error is a boxed one without a type; its text is kept.
        let tokenizer = Tokenizer::from_file(file)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("--tokenizer {} cannot be read", file.display()))?;
        Ok(Self::File(Box::new(tokenizer)))
    }

    /// How many tokens make a few lines.
    pub(crate) fn sample_length(&self) -> u32 {
        match self {
            Self::Bytes => 160,
            Self::File(_) => 40,
        }
    }

    /// The ids of a text, without markers at its ends.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::File(tokenizer) => {
                let encoding = tokenizer
                    .encode_fast(text, false)
                    .map_err(|error| anyhow!("{error}"))
                    .context("the tokenizer does not take the text")?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of ids. What is no text, as a cut character, becomes U+FFFD.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::File(tokenizer) => tokenizer
                .decode(ids, true)
                .map_err(|error| anyhow!("{error}"))
                .context("the tokenizer does not know what was sampled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_other_ids_stand_for_no_text() {
        let ids = Tokens::Bytes.encode("lüx").unwrap();
        assert_eq!(ids, [108, 195, 188, 120]);
        assert_eq!(Tokens::Bytes.decode(&ids).unwrap(), "lüx");
        assert_eq!(Tokens::Bytes.decode(&[108, 256, 195]).unwrap(), "l\u{fffd}");
    }

    #[test]
    fn a_tokenizer_from_a_file_is_used() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"light":0,"colour":1,"?":2},"unk_token":"?"}}"#;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokenizer.json");
        std::fs::write(&file, json).unwrap();
        let tokens = Tokens::open(Some(&file)).unwrap();
        assert_eq!(tokens.encode("colour light heat").unwrap(), [1, 0, 2]);
        assert_eq!(tokens.decode(&[0, 1]).unwrap(), "light colour");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Tokens::open(Some(Path::new("nowhere.json"))).err().unwrap();
        assert!(
            format!("{error:#}").contains("--tokenizer nowhere.json"),
            "{error:#}"
        );
    }
}
