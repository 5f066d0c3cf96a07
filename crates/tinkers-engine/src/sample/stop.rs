//! What ends a sample.

use crate::error::Result;
use crate::text::Text;

/// Tokens and texts that end a sample. The token that completes one stays part of the sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    tokens: Vec<u32>,
    texts: Vec<Vec<u8>>,
}

impl Stop {
    /// Nothing ends a sample but its length.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// Any of these tokens ends a sample.
    #[must_use]
    pub fn tokens(tokens: Vec<u32>) -> Self {
        Self {
            tokens,
            texts: Vec::new(),
        }
    }

    /// Any of these texts, once a sample contains it, ends it as well. Empty texts are left out.
    #[must_use]
    pub fn or_texts(mut self, texts: impl IntoIterator<Item = String>) -> Self {
        let texts = texts.into_iter().map(String::into_bytes);
        self.texts.extend(texts.filter(|text| !text.is_empty()));
        self
    }

    /// Whether a sample ends with the last of its `tokens`, which follow `context`, the end of the prompt.
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
        let ending = Ending::of(context, tokens, longest, text)?;
        Ok(self.texts.iter().any(|stop| ending.completes(stop)))
    }
}

/// Tokens that are decoded before those that matter. The first token of a text may be decoded without its space, and the first
/// bytes of a character as a replacement; none of that may touch the text that is searched.
pub(crate) const LEAD: usize = 8;

/// What a decoder writes for bytes that are no character, such as those after a cut. Some write it for all bytes up to the next
/// token that is none.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// The end of `tokens` that does not begin within a character.
fn whole_characters<'a>(mut tokens: &'a [u32], text: &Text) -> Result<&'a [u32]> {
    while let [_, rest @ ..] = tokens
        && text.decode(tokens)?.starts_with(REPLACEMENT)
    {
        tokens = rest;
    }
    Ok(tokens)
}

/// The end of a sample's text.
struct Ending {
    text: Vec<u8>,
    /// How much of it was there before the last token.
    before: usize,
}

impl Ending {
    /// So much of the text that any text of `longest` bytes that the last token completes is in it.
    fn of(context: &[u32], tokens: &[u32], longest: usize, text: &Text) -> Result<Self> {
        // Most tokens spell a byte or more.
        let (mut window, mut tries) = (longest + 2 * LEAD, 0);
        loop {
            let start = tokens.len().saturating_sub(window);
            // What a token spells depends on those before it, so both differ from the whole by what was left out.
            let (lead, rest) = if start == 0 {
                (whole_characters(context, text)?, tokens)
            } else {
                tokens[start..].split_at(LEAD)
            };
            let all = [lead, rest].concat();
            let spelled = text.decode(&all)?;
            let own = common(&spelled, &text.decode(lead)?);
            let before = common(&spelled, &text.decode(&all[..all.len() - 1])?).max(own);
            let is_cut = spelled.starts_with(REPLACEMENT);
            // Any number of tokens may spell nothing.
            if start == 0 || (before - own >= longest && !is_cut) {
                return Ok(Self {
                    text: spelled[own..].to_vec(),
                    before: before - own,
                });
            }
            tries += 1;
            // The start of a character is a few tokens away.
            window = if is_cut && tries < LEAD {
                window + 1
            } else {
                2 * window
            };
        }
    }

    /// Whether `stop` is in the text and ends in what the last token added.
    fn completes(&self, stop: &[u8]) -> bool {
        let from = (self.before + 1).saturating_sub(stop.len());
        let searched = self.text.get(from..).unwrap_or_default();
        searched.windows(stop.len()).any(|window| window == stop)
    }
}

/// The length of what both texts begin with, in whole characters.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    while a.get(same).is_some_and(|byte| byte & 0xc0 == 0x80) && same > 0 {
        same -= 1;
    }
    same
}

/// Whether a sample ends with the last of its `tokens`, for the tests that give foreign texts to whatever looks for them.
///
/// # Errors
/// Where the tokenizer fails.
#[cfg(feature = "fuzz")]
pub fn stop_ends(stop: &Stop, tokens: &[u32], text: &Text) -> Result<bool> {
    stop.ends(&[], tokens, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(stop: &Stop, text: &str) -> bool {
        let tokens = Text::Bytes.encode(text).unwrap();
        stop.ends(&[], &tokens, &Text::Bytes).unwrap()
    }

    #[test]
    fn a_text_ends_a_sample_with_the_token_that_completes_it() {
        let stop = Stop::tokens(vec![256]).or_texts(["\n\n".to_owned(), "end".to_owned()]);
        assert!(!ends(&stop, "the en"));
        assert!(ends(&stop, "the end"));
        assert!(!ends(&stop, "one\n"));
        assert!(ends(&stop, "a long text before it, and then\n\n"));
    }

    #[test]
    fn tokens_that_spell_nothing_do_not_hide_a_text() {
        let stop = Stop::never().or_texts(["ab".to_owned()]);
        for silent in [0, 8, 9, 100] {
            let tokens = [vec![120; 30], vec![97], vec![300; silent], vec![98]].concat();
            assert!(stop.ends(&[], &tokens, &Text::Bytes).unwrap(), "{silent}");
            let without = &tokens[..tokens.len() - 1];
            assert!(!stop.ends(&[], without, &Text::Bytes).unwrap(), "{silent}");
        }
    }

    #[test]
    fn a_token_ends_a_sample_only_where_it_is_the_last() {
        let stop = Stop::tokens(vec![256, 7]);
        assert!(stop.ends(&[], &[1, 2, 256], &Text::Bytes).unwrap());
        assert!(!stop.ends(&[], &[256, 1], &Text::Bytes).unwrap());
        assert!(!Stop::never().ends(&[], &[256], &Text::Bytes).unwrap());
    }

    #[test]
    fn an_empty_text_stops_nothing() {
        assert_eq!(Stop::never().or_texts([String::new()]), Stop::never());
    }

    /// A tokenizer of these words with this decoder.
    fn words(words: &[&str], decoder: &str) -> Text {
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

    /// How many of the tokens a sample has before `stop` ends it, behind the prompt `context`.
    fn length(stop: &str, context: &[u32], tokens: &[u32], text: &Text) -> Option<usize> {
        let stop = Stop::never().or_texts([stop.to_owned()]);
        (1..=tokens.len()).find(|&n| stop.ends(context, &tokens[..n], text).unwrap())
    }

    const METASPACE: &str =
        r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#;

    #[test]
    fn the_space_before_the_first_token_is_part_of_the_text() {
        let metaspace = words(&["▁a", "▁b", "c"], METASPACE);
        let plain = words(&["a", "b", "c"], "null");
        for text in [&metaspace, &plain] {
            assert_eq!(length(" b", &[0], &[1, 2], text), Some(1));
            assert_eq!(length(" b", &[0], &[0, 0, 1], text), Some(3));
            // The prompt itself is no part of the sample.
            assert_eq!(length("a b", &[0], &[1, 2], text), None);
            assert_eq!(length("b", &[1], &[0, 0], text), None);
        }
    }

    #[test]
    fn a_character_of_several_tokens_ends_a_sample_when_it_is_whole() {
        let decoder = r#"{"type":"ByteFallback"}"#;
        let spell = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|b| format!("<0x{b:02X}>"))
                .collect::<Vec<_>>()
        };
        // The fullwidth colon and the replacement character begin with the same byte.
        let tokens = spell("：é".as_bytes());
        let mut all: Vec<&str> = tokens.iter().map(String::as_str).collect();
        all.push("x");
        let decoder = format!(r#"{{"type":"Sequence","decoders":[{decoder},{{"type":"Fuse"}}]}}"#);
        let text = words(&all, &decoder);
        assert_eq!(length("：", &[5], &[0, 1, 2], &text), Some(3));
        assert_eq!(length("é", &[5], &[3, 4], &text), Some(2));
        assert_eq!(length("xé", &[5], &[5, 3, 4], &text), Some(3));
        let long: Vec<u32> = std::iter::repeat_n([0, 1, 2], 40)
            .flatten()
            .chain([3, 4])
            .collect();
        assert_eq!(length("：é", &[5], &long, &text), Some(long.len()));
    }

    #[test]
    fn the_start_of_a_window_is_no_text_of_its_own() {
        // Alone, a piece of a word keeps the marks that it loses behind another.
        let decoder = r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###;
        let text = words(&["un", "##do", "##ing"], decoder);
        let tokens: Vec<u32> = std::iter::once(0)
            .chain(std::iter::repeat_n(1, 60))
            .chain([2])
            .collect();
        assert_eq!(length("##", &[], &tokens, &text), None);
        assert_eq!(length("doing", &[], &tokens, &text), Some(tokens.len()));
    }
}
