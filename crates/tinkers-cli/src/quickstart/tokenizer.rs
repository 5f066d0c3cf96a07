//! Conversion between text and token ids.

use std::path::Path;

use anyhow::{Context, Result, anyhow};

/// The tokenizer of a model.
pub(crate) enum Tokenizer {
    /// The tokenizer of the built-in model. Each token is a byte. Token ids from 256 on have no text.
    Bytes,
    /// The tokenizer of a file `tokenizer.json`.
    File(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. If no file is given, returns the tokenizer of the built-in model.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            return Ok(Self::Bytes);
        };
        // The library returns a boxed error, which anyhow cannot wrap.
        let tokenizer = tokenizers::Tokenizer::from_file(file)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("cannot read --tokenizer {}", file.display()))?;
        Ok(Self::File(Box::new(tokenizer)))
    }

    /// Returns the number of tokens per sample. It is enough for a few lines of text.
    pub(crate) fn sample_length(&self) -> u32 {
        match self {
            Self::Bytes => 160,
            Self::File(_) => 40,
        }
    }

    /// Encodes a text, without special tokens.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::File(tokenizer) => {
                let encoding = tokenizer
                    .encode_fast(text, false)
                    .map_err(|error| anyhow!("{error}"))
                    .context("cannot tokenize the text")?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// Decodes token ids. Incomplete UTF-8 becomes U+FFFD.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::File(tokenizer) => tokenizer
                .decode(ids, true)
                .map_err(|error| anyhow!("{error}"))
                .context("cannot decode the sampled tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_round_trip_and_other_ids_have_no_text() {
        let ids = Tokenizer::Bytes.encode("lüx").unwrap();
        assert_eq!(ids, [108, 195, 188, 120]);
        assert_eq!(Tokenizer::Bytes.decode(&ids).unwrap(), "lüx");
        assert_eq!(
            Tokenizer::Bytes.decode(&[108, 256, 195]).unwrap(),
            "l\u{fffd}"
        );
    }

    #[test]
    fn tokenizer_is_read_from_a_file() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"light":0,"colour":1,"?":2},"unk_token":"?"}}"#;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokenizer.json");
        std::fs::write(&file, json).unwrap();
        let tokenizer = Tokenizer::open(Some(&file)).unwrap();
        assert_eq!(tokenizer.encode("colour light heat").unwrap(), [1, 0, 2]);
        assert_eq!(tokenizer.decode(&[0, 1]).unwrap(), "light colour");
    }

    #[test]
    fn error_names_the_missing_tokenizer_file() {
        let error = Tokenizer::open(Some(Path::new("nowhere.json")))
            .err()
            .unwrap();
        assert!(
            format!("{error:#}").contains("--tokenizer nowhere.json"),
            "{error:#}"
        );
    }
}
