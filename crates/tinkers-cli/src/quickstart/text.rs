//! The text to train on, cut into a part for training and a part held out that have no block in common.

use sha2::{Digest, Sha256};

/// Newton's Opticks, fourth edition (1730); in the public domain.
pub(crate) const OPTICKS: &str = include_str!("../../../../data/newton-opticks.txt");

/// Longer paragraphs are cut, so that a text without blank lines can be split too. In bytes.
const LONGEST_BLOCK: usize = 2048;

/// One block in so many is held out.
const HELD_OUT_ONE_IN: u64 = 8;

/// A text in two parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// What is trained on.
    pub(crate) training: String,
    /// What is not, and tells how well other text of the kind is predicted.
    pub(crate) held_out: String,
}

/// Which part a block belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Training,
    HeldOut,
}

/// Puts each block where the hash of its words says, so that what is repeated never lands in both parts.
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

/// Paragraphs, without the blank lines around them; long ones in pieces.
fn blocks(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (mut paragraph, after) = next_paragraph(rest);
        rest = after;
        while paragraph.len() > LONGEST_BLOCK {
            let (piece, more) = paragraph.split_at(cut(paragraph));
            blocks.push(piece.trim());
            paragraph = more;
        }
        blocks.push(paragraph.trim());
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Up to the next line without words, and what follows it.
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

/// Where a paragraph above the longest length is cut: behind the last white space that leaves a block, else anywhere.
fn cut(paragraph: &str) -> usize {
    let longest = paragraph.floor_char_boundary(LONGEST_BLOCK);
    match paragraph[..longest].rfind(char::is_whitespace) {
        Some(at) if !paragraph[..at].trim().is_empty() => at,
        _ => longest,
    }
}

/// By the words alone: the same paragraph with its lines broken elsewhere is the same paragraph.
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

    /// The hashes of a part's blocks, with their words alone.
    fn hashes(text: &str) -> BTreeSet<Vec<u8>> {
        let words = |block: &str| block.split_whitespace().collect::<Vec<_>>().join(" ");
        blocks(text)
            .into_iter()
            .map(|block| Sha256::digest(words(block)).to_vec())
            .collect()
    }

    #[test]
    fn no_block_of_the_text_that_comes_along_is_in_both_parts() {
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
    fn identical_blocks_land_in_the_same_part() {
        let once: String = (0..64).map(|i| format!("block number {i}\n\n")).collect();
        let again = once.replace("block number", "block\n  number");
        let alone = split(&once);
        let both = split(&(once + &again));
        assert!(!alone.training.is_empty() && !alone.held_out.is_empty());
        assert_eq!(hashes(&both.training), hashes(&alone.training));
        assert_eq!(hashes(&both.held_out), hashes(&alone.held_out));
        assert!(both.held_out.len() > alone.held_out.len());
    }

    #[test]
    fn a_text_in_one_paragraph_is_cut_and_nothing_is_lost() {
        let text: String = (0..4000).map(|i| format!("wörd{i} ")).collect();
        assert!(blocks(&text).len() > 10);
        assert!(
            blocks(&text)
                .iter()
                .all(|block| block.len() <= LONGEST_BLOCK)
        );
        assert_eq!(blocks(&text).join(" "), text.trim());
        let solid = "ü".repeat(3000);
        assert_eq!(blocks(&solid).concat(), solid);
    }

    #[test]
    fn an_empty_text_has_no_parts() {
        assert_eq!(split(" \n\n \n"), Split::default());
    }
}
