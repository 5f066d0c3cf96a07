//! Some thousands of inputs for each target, and that a bad reader is found.

use std::panic::catch_unwind;

use proptest::prelude::*;
use tinkers_fuzz::TARGETS;
use tinkers_fuzz::mutate::Mutator;

#[test]
fn no_reader_breaks_on_what_the_corpus_has_or_what_is_made_of_it() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        for seed in &seeds {
            (target.run)(seed);
        }
        let mutator = Mutator::new(1);
        for _ in 0..1500 {
            (target.run)(&mutator.next(&seeds));
        }
    }
}

proptest! {
    #[test]
    fn no_reader_breaks_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for target in TARGETS {
            (target.run)(&bytes);
        }
    }

    #[test]
    fn no_reader_breaks_on_any_text(text in "\\PC{0,80}") {
        for target in TARGETS {
            (target.run)(text.as_bytes());
        }
    }
}

/// A reader that believes a length.
fn believes_lengths(bytes: &[u8]) {
    if let [length, rest @ ..] = bytes
        && *length > 0
    {
        std::hint::black_box(&rest[..usize::from(*length)]);
    }
}

#[test]
fn a_reader_that_believes_what_it_is_told_is_found() {
    let seeds = [vec![3, 1, 2, 3], vec![1, 9]];
    let mutator = Mutator::new(1);
    let is_found = (0..1500).any(|_| {
        let input = mutator.next(&seeds);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let broke = catch_unwind(|| believes_lengths(&input)).is_err();
        std::panic::set_hook(usual);
        broke
    });
    assert!(is_found);
}
