//! Stop tokens and stop texts.

use crate::error::Result;
use crate::text::Text;

/// The tokens and texts that end a sample. The token that completes a stop token or a stop text is part of the sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopConditions {
    tokens: Vec<u32>,
    texts: Vec<Vec<u8>>,
}

impl StopConditions {
    /// Returns stop conditions without tokens and texts. Samples then end only at their maximum length.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// Creates stop conditions that end a sample after any of the given tokens.
    #[must_use]
    pub fn tokens(tokens: Vec<u32>) -> Self {
        Self {
            tokens,
            texts: Vec::new(),
        }
    }

    /// Adds stop texts. A sample ends when its text contains one of them. Empty stop texts are ignored.
    #[must_use]
    pub fn or_texts(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        let texts = texts.into_iter().map(String::into_bytes);
        self.texts.extend(texts.filter(|text| !text.is_empty()));
        self
    }

    /// Returns whether the last token of `tokens` ends the sample. `context` contains the last tokens of the prompt, which are
    /// decoded, but not searched for stop texts.
    pub(crate) fn ends(&self, context: &[u32], tokens: &[u32], text: &Text) -> Result<bool> {
        let Some(last) = tokens.last() else {
            return Ok(false);
        };
        if self.tokens.contains(last) {
            return Ok(true);
        }
        let Some(longest) = self.texts.iter().map(Vec::len).max() else {
            return Ok(false);
        };
        let tail = DecodedTail::new(context, tokens, longest, text)?;
        Ok(self.texts.iter().any(|stop| tail.completes(stop)))
    }
}

/// The number of extra tokens that are decoded before the tokens whose text is searched for stop texts. A decoder may drop the
/// space of the first token or replace an incomplete first character. Such a change then affects only the text of the extra tokens.
pub(crate) const LEAD_TOKENS: usize = 8;

/// The text that decoders write for invalid UTF-8, such as the rest of a truncated character. Some decoders write this text for
/// every byte up to the next token that is not a single byte.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Removes leading tokens until the decoded text does not begin in the middle of a character.
fn whole_characters<'a>(mut tokens: &'a [u32], text: &Text) -> Result<&'a [u32]> {
    while let [_, rest @ ..] = tokens
        && text.decode(tokens)?.starts_with(REPLACEMENT)
    {
        tokens = rest;
    }
    Ok(tokens)
}

/// The decoded text of the last tokens of a sample.
struct DecodedTail {
    text: Vec<u8>,
    /// The length in bytes of `text` without the text of the last token of the sample.
    before_last: usize,
}

impl DecodedTail {
    /// Decodes the last tokens of `tokens`. The decoded text is long enough for any stop text of up to `longest` bytes that ends in
    /// the last token.
    fn new(context: &[u32], tokens: &[u32], longest: usize, text: &Text) -> Result<Self> {
        // Most tokens decode to at least one byte.
        let (mut window, mut tries) = (longest + 2 * LEAD_TOKENS, 0);
        loop {
            let start = tokens.len().saturating_sub(window);
            // The decoded text of a token depends on the tokens before it. So the tokens before the searched ones are decoded too,
            // and their text is removed.
            let (lead, rest) = if start == 0 {
                (whole_characters(context, text)?, tokens)
            } else {
                tokens[start..].split_at(LEAD_TOKENS)
            };
            let all = [lead, rest].concat();
            let decoded = text.decode(&all)?;
            let lead_len = common_prefix(&decoded, &text.decode(lead)?);
            let before_last =
                common_prefix(&decoded, &text.decode(&all[..all.len() - 1])?).max(lead_len);
            let is_cut = decoded.starts_with(REPLACEMENT);
            // Some tokens decode to nothing, so the text may still be too short.
            if start == 0 || (before_last - lead_len >= longest && !is_cut) {
                return Ok(Self {
                    text: decoded[lead_len..].to_vec(),
                    before_last: before_last - lead_len,
                });
            }
            tries += 1;
            // The start of the cut character is at most a few tokens earlier.
            window = if is_cut && tries < LEAD_TOKENS {
                window + 1
            } else {
                2 * window
            };
        }
    }

    /// Returns whether the text contains the stop text `stop` at a place where `stop` ends in the last token.
    fn completes(&self, stop: &[u8]) -> bool {
        let from = (self.before_last + 1).saturating_sub(stop.len());
        let searched = self.text.get(from..).unwrap_or_default();
        searched.windows(stop.len()).any(|window| window == stop)
    }
}

/// Returns the length in bytes of the common prefix of two texts, without an incomplete last character.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    while a.get(same).is_some_and(|byte| byte & 0xc0 == 0x80) && same > 0 {
        same -= 1;
    }
    same
}

/// Returns whether the last token of `tokens` ends the sample. Fuzz targets call this function.
///
/// # Errors
///
/// Returns the error of the tokenizer.
#[cfg(feature = "fuzz")]
pub fn stop_ends(stop: &StopConditions, tokens: &[u32], text: &Text) -> Result<bool> {
    stop.ends(&[], tokens, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(stop: &StopConditions, text: &str) -> bool {
        let tokens = Text::Bytes.encode(text).unwrap();
        stop.ends(&[], &tokens, &Text::Bytes).unwrap()
    }

    #[test]
    fn stop_text_ends_a_sample_at_the_completing_token() {
        let stop =
            StopConditions::tokens(vec![256]).or_texts(["\n\n".to_owned(), "end".to_owned()]);
        assert!(!ends(&stop, "the en"));
        assert!(ends(&stop, "the end"));
        assert!(!ends(&stop, "one\n"));
        assert!(ends(&stop, "a long text before it, and then\n\n"));
    }

    #[test]
    fn stop_text_is_found_across_tokens_without_text() {
        let stop = StopConditions::never().or_texts(["ab".to_owned()]);
        for empty in [0, 8, 9, 100] {
            let tokens = [vec![120; 30], vec![97], vec![300; empty], vec![98]].concat();
            assert!(stop.ends(&[], &tokens, &Text::Bytes).unwrap(), "{empty}");
            let without = &tokens[..tokens.len() - 1];
            assert!(!stop.ends(&[], without, &Text::Bytes).unwrap(), "{empty}");
        }
    }

    #[test]
    fn stop_token_ends_a_sample_only_if_it_is_the_last_token() {
        let stop = StopConditions::tokens(vec![256, 7]);
        assert!(stop.ends(&[], &[1, 2, 256], &Text::Bytes).unwrap());
        assert!(!stop.ends(&[], &[256, 1], &Text::Bytes).unwrap());
        assert!(
            !StopConditions::never()
                .ends(&[], &[256], &Text::Bytes)
                .unwrap()
        );
    }

    #[test]
    fn empty_stop_text_is_ignored() {
        assert_eq!(
            StopConditions::never().or_texts([String::new()]),
            StopConditions::never()
        );
    }

    #[cfg(feature = "tokenizers")]
    mod tokenizers {
        use super::*;

        /// Creates a word-level tokenizer with the given vocabulary and decoder.
        fn tokenizer(words: &[&str], decoder: &str) -> Text {
            let vocabulary: serde_json::Map<String, serde_json::Value> = words
                .iter()
                .zip(0..)
                .map(|(word, id)| ((*word).to_owned(), id.into()))
                .collect();
            let json = format!(
                r#"{{"version":"1.0","added_tokens":[],"pre_tokenizer":null,"decoder":{decoder},
                "model":{{"type":"WordLevel","vocab":{},"unk_token":"{}"}}}}"#,
                serde_json::Value::Object(vocabulary),
                words[0]
            );
            Text::Tokenizer(Box::new(json.parse().unwrap()))
        }

        /// Returns the number of tokens after which `stop` ends a sample of `tokens`. `context` is the prompt.
        fn stopped_length(
            stop: &str,
            context: &[u32],
            tokens: &[u32],
            text: &Text,
        ) -> Option<usize> {
            let stop = StopConditions::never().or_texts([stop.to_owned()]);
            (1..=tokens.len()).find(|&n| stop.ends(context, &tokens[..n], text).unwrap())
        }

        const METASPACE: &str =
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#;

        #[test]
        fn stop_text_may_start_with_the_space_of_the_first_token() {
            let metaspace = tokenizer(&["▁a", "▁b", "c"], METASPACE);
            let without_decoder = tokenizer(&["a", "b", "c"], "null");
            for text in [&metaspace, &without_decoder] {
                assert_eq!(stopped_length(" b", &[0], &[1, 2], text), Some(1));
                assert_eq!(stopped_length(" b", &[0], &[0, 0, 1], text), Some(3));
                // The prompt is not searched.
                assert_eq!(stopped_length("a b", &[0], &[1, 2], text), None);
                assert_eq!(stopped_length("b", &[1], &[0, 0], text), None);
            }
        }

        #[test]
        fn stop_text_is_found_if_its_characters_span_several_tokens() {
            let decoder = r#"{"type":"ByteFallback"}"#;
            let byte_tokens = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|b| format!("<0x{b:02X}>"))
                    .collect::<Vec<_>>()
            };
            // The fullwidth colon and the replacement character start with the same byte.
            let tokens = byte_tokens("：é".as_bytes());
            let mut all: Vec<&str> = tokens.iter().map(String::as_str).collect();
            all.push("x");
            let decoder =
                format!(r#"{{"type":"Sequence","decoders":[{decoder},{{"type":"Fuse"}}]}}"#);
            let text = tokenizer(&all, &decoder);
            assert_eq!(stopped_length("：", &[5], &[0, 1, 2], &text), Some(3));
            assert_eq!(stopped_length("é", &[5], &[3, 4], &text), Some(2));
            assert_eq!(stopped_length("xé", &[5], &[5, 3, 4], &text), Some(3));
            let long: Vec<u32> = std::iter::repeat_n([0, 1, 2], 40)
                .flatten()
                .chain([3, 4])
                .collect();
            assert_eq!(stopped_length("：é", &[5], &long, &text), Some(long.len()));
        }

        #[test]
        fn decoding_a_suffix_creates_no_false_stop_matches() {
            // A word piece keeps its prefix if it is decoded first, and loses the prefix after another token.
            let decoder = r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###;
            let text = tokenizer(&["un", "##do", "##ing"], decoder);
            let tokens: Vec<u32> = std::iter::once(0)
                .chain(std::iter::repeat_n(1, 60))
                .chain([2])
                .collect();
            assert_eq!(stopped_length("##", &[], &tokens, &text), None);
            assert_eq!(
                stopped_length("doing", &[], &tokens, &text),
                Some(tokens.len())
            );
        }
    }
}
