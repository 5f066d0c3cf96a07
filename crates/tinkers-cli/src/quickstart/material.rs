//! What the run works on: the text as tokens in two parts, the held-out pieces and the prompts. Checked before anything is
//! sent.

use anyhow::{Context, Result, bail};
use tinkers::prelude::Datum;

use super::batches::{self, Batches};
use super::text::{self, OPTICKS};
use super::tokens::Tokens;
use crate::args::QuickstartArgs;

/// At most so many pieces are held out for measuring: enough to tell losses apart, and done in seconds.
const MEASURED_PIECES: usize = 32;

/// In the words of the text that comes along.
const PROMPTS: [&str; 3] = [
    "The Rays of Light which",
    "Exper. 5. I took a Prism, and",
    "And the Colours of natural Bodies",
];

/// How many words of a text of the user's own make a prompt.
const PROMPT_WORDS: usize = 5;

/// Everything that is known before a server is.
pub(crate) struct Material {
    /// What the text is called on the screen.
    pub(crate) name: String,
    /// How the model reads text.
    pub(crate) tokens: Tokens,
    /// What is trained on.
    pub(crate) training: Vec<u32>,
    /// What is held out.
    pub(crate) held_out: Vec<u32>,
    /// The part of it that is measured.
    pub(crate) pieces: Vec<Datum>,
    /// What samples begin with.
    pub(crate) prompts: Vec<String>,
}

impl Material {
    /// Reads, splits and encodes the text.
    ///
    /// # Errors
    /// When it cannot be read, or is too short for pieces of the length that was asked for.
    pub(crate) fn prepare(args: &QuickstartArgs, tokens: Tokens) -> Result<Self> {
        let own;
        let (name, text) = match &args.text {
            None => ("Newton's Opticks".to_owned(), OPTICKS),
            Some(file) => {
                own = std::fs::read_to_string(file)
                    .with_context(|| format!("--text {} cannot be read", file.display()))?;
                (file.display().to_string(), own.as_str())
            }
        };
        let split = text::split(text);
        let training = tokens.encode(&split.training)?;
        let held_out = tokens.encode(&split.held_out)?;
        let length = args.seq_len.get() as usize;
        let pieces = batches::spread(&held_out, length, MEASURED_PIECES);
        if pieces.is_empty() || Batches::new(&training, length, 1, 0).is_none() {
            bail!(
                "{name} is too short: {} tokens to train on and {} held out, where pieces of {length} need {} and {}; \
                 take a longer --text or a smaller --seq-len",
                training.len(),
                held_out.len(),
                2 * length + 1,
                length + 1
            );
        }
        let prompts = match args.text {
            None => PROMPTS.map(str::to_owned).to_vec(),
            Some(_) => prompts(&split.held_out),
        };
        Ok(Self {
            name,
            tokens,
            training,
            held_out,
            pieces,
            prompts,
        })
    }
}

/// The first words of paragraphs of what is held out, spread over it.
fn prompts(held_out: &str) -> Vec<String> {
    let words = |paragraph: &str| {
        let words: Vec<&str> = paragraph.split_whitespace().take(PROMPT_WORDS).collect();
        words.join(" ")
    };
    let all: Vec<String> = held_out
        .split("\n\n")
        .map(words)
        .filter(|words| !words.is_empty())
        .collect();
    let taken = all.len().min(PROMPTS.len());
    (0..taken)
        .map(|i| all[i * all.len() / taken].clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_an_own_text_are_openings_of_its_paragraphs() {
        let text = "one two three four five six\n\nseven\n\n\n\neight nine\n\nten\n\n";
        assert_eq!(
            prompts(text),
            ["one two three four five", "seven", "eight nine"]
        );
        assert_eq!(prompts("alone"), ["alone"]);
    }
}
