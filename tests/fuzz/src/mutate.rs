//! Mutation of inputs with a seeded random number generator.

use tinkers_core::{Jitter, SplitMix};

/// Byte sequences that have a special meaning in one of the fuzzed formats. Mutations insert them
/// into inputs.
const TOKENS: [&[u8]; 36] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b"\\ud800",
    b"\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\x0a",
    b"\x0b",
    b"\x80",
    b"..",
    b"/",
    b"%2f",
    b"://",
    b"GMT",
    b"\n[[rule]]\n",
    b"\r\n",
    b"\r\n\r\n",
    b" HTTP/1.1\r\n",
    b"\r\ncontent-length: 5\r\n",
    b"\r\ntransfer-encoding: chunked\r\n",
    b"\r\ncontent-encoding: zstd\r\n",
    b"0\r\n\r\n",
    b"//",
    b"?",
    b"&",
    b"$ref",
    b"#/",
];

/// The maximum length of a mutated input in bytes.
const MAX_LEN: usize = 1 << 18;

/// A generator of mutated inputs.
#[derive(Debug)]
pub struct Mutator {
    numbers: SplitMix,
}

impl Mutator {
    /// Creates a generator whose mutations depend only on `seed`.
    pub const fn new(seed: u64) -> Self {
        Self {
            numbers: SplitMix::new(seed),
        }
    }

    /// Draws a random number below `n`. Returns 0 if `n` is 0.
    pub(crate) fn below(&self, n: usize) -> usize {
        (self.numbers.bits() % n.max(1) as u64) as usize
    }

    /// Draws a random element of `all`, which must not be empty.
    pub(crate) fn pick<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Returns a mutation of a random element of `seeds`. The mutation may insert parts of other
    /// seeds. `seeds` must not be empty.
    pub fn next(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(seeds).clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input, seeds);
        }
        input.truncate(MAX_LEN);
        input
    }

    /// Applies one random mutation to `input`.
    pub(crate) fn change(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.numbers.bits() as u8;
                }
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                let times = 1 + self.below(4);
                input.splice(at..at, piece.repeat(times));
            }
            4 => {
                let token = *self.pick(&TOKENS);
                let times = if self.below(16) == 0 { 2000 } else { 1 };
                input.splice(at..at, token.repeat(times));
            }
            5 => {
                let other = self.pick(seeds);
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => input.truncate(at),
            _ => {
                let token = *self.pick(&TOKENS);
                input.splice(at..end, token.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_input_mutations_depend_only_on_the_seed() {
        let seeds = [b"abc".to_vec(), b"".to_vec()];
        let inputs = |seed| {
            let mutator = Mutator::new(seed);
            (0..50).map(|_| mutator.next(&seeds)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
