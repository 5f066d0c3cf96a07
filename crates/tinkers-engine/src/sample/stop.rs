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

    /// Whether a sample ends with the last of its `tokens`.
    pub(crate) fn ends(&self, tokens: &[u32], text: &Text) -> Result<bool> {
        if tokens.last().is_some_and(|last| self.tokens.contains(last)) {
            return Ok(true);
        }
        let Some(longest) = self.texts.iter().map(Vec::len).max() else {
            return Ok(false);
        };
        let spelled = ending(tokens, longest, text)?;
        Ok(self.texts.iter().any(|stop| contains(&spelled, stop)))
    }
}

/// What the last of `tokens` spell: enough of them to hold any text of `longest` bytes that the very last one completes.
fn ending(tokens: &[u32], longest: usize, text: &Text) -> Result<Vec<u8>> {
    let last = text.decode(&tokens[tokens.len().saturating_sub(1)..])?;
    // Most tokens spell a byte or more.
    let mut window = longest + 8;
    loop {
        let spelled = text.decode(&tokens[tokens.len().saturating_sub(window)..])?;
        // Any number of them may spell nothing.
        if window >= tokens.len() || spelled.len() >= longest + last.len() {
            return Ok(spelled);
        }
        window *= 2;
    }
}

/// Whether a sample ends with the last of its `tokens`, for the tests that give foreign texts to whatever looks for them.
///
/// # Errors
/// Where the tokenizer fails.
#[cfg(feature = "fuzz")]
pub fn stop_ends(stop: &Stop, tokens: &[u32], text: &Text) -> Result<bool> {
    stop.ends(tokens, text)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(stop: &Stop, text: &str) -> bool {
        let tokens = Text::Bytes.encode(text).unwrap();
        stop.ends(&tokens, &Text::Bytes).unwrap()
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
            assert!(stop.ends(&tokens, &Text::Bytes).unwrap(), "{silent}");
            let without = &tokens[..tokens.len() - 1];
            assert!(!stop.ends(without, &Text::Bytes).unwrap(), "{silent}");
        }
    }

    #[test]
    fn a_token_ends_a_sample_only_where_it_is_the_last() {
        let stop = Stop::tokens(vec![256, 7]);
        assert!(stop.ends(&[1, 2, 256], &Text::Bytes).unwrap());
        assert!(!stop.ends(&[256, 1], &Text::Bytes).unwrap());
        assert!(!Stop::never().ends(&[256], &Text::Bytes).unwrap());
    }

    #[test]
    fn an_empty_text_stops_nothing() {
        assert_eq!(Stop::never().or_texts([String::new()]), Stop::never());
    }
}
