//! The text to train on, split into a training part and a held-out part without common blocks.

use sha2::{Digest, Sha256};

/// Newton's Opticks, fourth edition (1730). The text is in the public domain.
pub(crate) const OPTICKS: &str = include_str!("../../data/newton-opticks.txt");

/// The maximum size of a text block in bytes. Longer paragraphs are divided into blocks, so that a text without blank lines can be
/// split too.
const MAX_BLOCK_LEN: usize = 2048;

/// The ratio of all blocks to held-out blocks: on average, one of this many blocks is held out.
const HELD_OUT_ONE_IN: u64 = 8;

/// A text that is split into a training part and a held-out part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// The part on which the model is trained.
    pub(crate) training: String,
    /// The part on which the held-out loss is measured.
    pub(crate) held_out: String,
}

/// The part of the text to which a block belongs: the training text or the held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Training,
    HeldOut,
}

/// Splits a text into a training part and a held-out part, by the hashes of its blocks. Equal blocks are always in the same part.
pub(crate) fn split(text: &str) -> Split {
    let mut split = Split::default();
    for block in blocks(text) {
        let part = match part(block) {
            Part::Training => &mut split.training,
            Part::HeldOut => &mut split.held_out,
        };
        part.push_str(block);
        part.push_str("\n\n");
    }
    split
}

/// Returns the trimmed paragraphs of a text. Long paragraphs are divided into several blocks.
fn blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (mut paragraph, after) = next_paragraph(rest);
        rest = after;
        while paragraph.len() > MAX_BLOCK_LEN {
            let (block, more) = paragraph.split_at(split_point(paragraph));
            blocks.push(block.trim());
            paragraph = more;
        }
        blocks.push(paragraph.trim());
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Returns the text before the next blank line, and the text after it.
fn next_paragraph(text: &str) -> (&str, &str) {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        if line.trim().is_empty() {
            return (&text[..at], &text[end..]);
        }
        at = end;
    }
    (text, "")
}

/// Returns the position at which to divide a paragraph that is longer than a block. This is the position of the last white space
/// within the maximum block size. Without white space, it is the maximum block size.
fn split_point(paragraph: &str) -> usize {
    let mut max = MAX_BLOCK_LEN.min(paragraph.len());
    while !paragraph.is_char_boundary(max) {
        max -= 1;
    }
    match paragraph[..max].rfind(char::is_whitespace) {
        Some(at) if !paragraph[..at].trim().is_empty() => at,
        _ => max,
    }
}

/// Returns the part of the text, training or held-out, to which a block belongs. The hash of the block determines the part. Only
/// the words of the block are hashed, so different line breaks give the same part.
fn part(block: &str) -> Part {
    let mut hash = Sha256::new();
    for word in block.split_whitespace() {
        hash.update(word);
        hash.update(b" ");
    }
    let digest = hash.finalize();
    let number = digest[..8]
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    if number.is_multiple_of(HELD_OUT_ONE_IN) {
        Part::HeldOut
    } else {
        Part::Training
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Returns the hashes of all blocks of a text. Only the words of a block are hashed.
    fn hashes(text: &str) -> BTreeSet<Vec<u8>> {
        let words = |block: &str| block.split_whitespace().collect::<Vec<_>>().join(" ");
        blocks(text)
            .into_iter()
            .map(|block| Sha256::digest(words(block)).to_vec())
            .collect()
    }

    #[test]
    fn training_and_held_out_text_have_no_common_block() {
        let split = split(OPTICKS);
        assert!(OPTICKS.len() >= 200_000);
        let (training, held_out) = (hashes(&split.training), hashes(&split.held_out));
        assert!(training.len() > 500 && held_out.len() > 50);
        assert_eq!(training.intersection(&held_out).count(), 0);
        let all = hashes(OPTICKS);
        assert_eq!(
            training.union(&held_out).cloned().collect::<BTreeSet<_>>(),
            all
        );
        let share = split.held_out.len() as f64 / OPTICKS.len() as f64;
        assert!((0.05..0.25).contains(&share), "{share}");
    }

    #[test]
    fn identical_text_blocks_are_all_training_or_all_held_out() {
        let once: String = (0..64).map(|i| format!("block number {i}\n\n")).collect();
        let again = once.replace("block number", "block\n  number");
        let single = split(&once);
        let both = split(&(once + &again));
        assert!(!single.training.is_empty() && !single.held_out.is_empty());
        assert_eq!(hashes(&both.training), hashes(&single.training));
        assert_eq!(hashes(&both.held_out), hashes(&single.held_out));
        assert!(both.held_out.len() > single.held_out.len());
    }

    #[test]
    fn long_paragraph_is_divided_without_loss() {
        let text: String = (0..4000).map(|i| format!("wörd{i} ")).collect();
        assert!(blocks(&text).len() > 10);
        assert!(
            blocks(&text)
                .iter()
                .all(|block| block.len() <= MAX_BLOCK_LEN)
        );
        assert_eq!(blocks(&text).join(" "), text.trim());
        let solid = "ü".repeat(3000);
        assert_eq!(blocks(&solid).concat(), solid);
    }

    #[test]
    fn blank_text_gives_empty_training_and_held_out_parts() {
        assert_eq!(split(" \n\n \n"), Split::default());
    }
}
