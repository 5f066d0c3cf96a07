//! The dataset of a run: training tokens, held-out sequences and prompts.

use anyhow::{Context, Result, bail};
use tinkers::prelude::Datum;

use super::batches::{self, Batches};
use super::text::{self, OPTICKS};
use super::tokenizer::Tokenizer;
use crate::args::QuickstartArgs;

/// The maximum number of sequences on which the held-out loss is measured.
const MAX_HELD_OUT_SEQUENCES: usize = 32;

/// The prompts from which the quickstart command samples if it trains on the built-in text.
const PROMPTS: [&str; 3] = [
    "The Rays of Light which",
    "Exper. 5. I took a Prism, and",
    "And the Colours of natural Bodies",
];

/// The number of words in a prompt from the user's text.
const PROMPT_WORDS: usize = 5;

/// The text of a quickstart run, tokenised and split into training and held-out parts.
pub(crate) struct Dataset {
    /// The name of the text for display.
    pub(crate) name: String,
    /// The tokenizer of the model.
    pub(crate) tokenizer: Tokenizer,
    /// The tokens of the training text.
    pub(crate) training: Vec<u32>,
    /// The tokens of the held-out text.
    pub(crate) held_out: Vec<u32>,
    /// The held-out sequences on which the loss is measured.
    pub(crate) held_out_sequences: Vec<Datum>,
    /// The prompts that are sampled before and after training.
    pub(crate) prompts: Vec<String>,
}

impl Dataset {
    /// Reads, splits and tokenises the text.
    ///
    /// # Errors
    /// If the text cannot be read or is too short for `--seq-len`.
    pub(crate) fn prepare(args: &QuickstartArgs, tokenizer: Tokenizer) -> Result<Self> {
        let file_text;
        let (name, text) = match &args.text {
            None => ("Newton's Opticks".to_owned(), OPTICKS),
            Some(file) => {
                file_text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read --text {}", file.display()))?;
                (file.display().to_string(), file_text.as_str())
            }
        };
        let split = text::split(text);
        let training = tokenizer.encode(&split.training)?;
        let held_out = tokenizer.encode(&split.held_out)?;
        let length = args.seq_len.get() as usize;
        let held_out_sequences = batches::evenly_spaced(&held_out, length, MAX_HELD_OUT_SEQUENCES);
        if held_out_sequences.is_empty() || Batches::new(&training, length, 1, 0).is_none() {
            bail!(
                "{name} is too short: it has {} tokens to train on and {} held out, but sequences of {length} tokens need {} and {}: \
                 use a longer --text or a smaller --seq-len",
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
            tokenizer,
            training,
            held_out,
            held_out_sequences,
            prompts,
        })
    }
}

/// Returns the first words of evenly spaced paragraphs of the held-out text.
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
    let count = all.len().min(PROMPTS.len());
    (0..count)
        .map(|i| all[i * all.len() / count].clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quickstart_prompts_are_the_first_words_of_paragraphs() {
        let text = "one two three four five six\n\nseven\n\n\n\neight nine\n\nten\n\n";
        assert_eq!(
            prompts(text),
            ["one two three four five", "seven", "eight nine"]
        );
        assert_eq!(prompts("alone"), ["alone"]);
    }
}
