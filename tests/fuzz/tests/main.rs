//! Some thousands of inputs for each target, and that a bad reader is found.

use std::panic::catch_unwind;
use std::path::PathBuf;

use proptest::prelude::*;
use tinkers_fuzz::files::{self, Kept};
use tinkers_fuzz::mutate::Mutator;
use tinkers_fuzz::{TARGETS, Target};

/// What breaks a target, by the names of its files.
fn broken(target: Target, files: &[Kept]) -> Vec<String> {
    let broken = files.iter().filter_map(|file| {
        let panic = catch_unwind(|| (target.run)(&file.input)).err()?;
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("a panic without words");
        Some(format!("{}/{}: {said:.300}", target.name, file.name))
    });
    broken.collect()
}

#[test]
fn no_file_of_the_corpus_breaks_its_reader() {
    let mut all = Vec::new();
    for target in TARGETS {
        all.extend(broken(target, &files::of(target.name).expect("its files")));
    }
    assert!(all.is_empty(), "in tests/fuzz/corpus:\n{}", all.join("\n"));
}

#[test]
fn a_file_that_breaks_its_reader_is_named() {
    let file = |name: &str, input: &[u8]| Kept {
        name: name.to_owned(),
        path: PathBuf::new(),
        input: input.to_vec(),
    };
    let naive = Target {
        name: "naive",
        run: believes_lengths,
        seeds: Vec::new,
        draw: Mutator::next,
    };
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let found = broken(
        naive,
        &[file("fine", &[1, 1]), file("a-length-that-lies", &[9, 1])],
    );
    std::panic::set_hook(usual);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("naive/a-length-that-lies: range end"),
        "{found:?}"
    );
}

#[test]
fn each_target_has_files_and_all_of_them_are_small() {
    let mut targets = TARGETS.map(|target| target.name.to_owned());
    targets.sort();
    assert_eq!(files::targets().expect("a corpus"), targets);
    let mut bytes = 0;
    for target in TARGETS {
        let files = files::of(target.name).expect("its files");
        assert!(!files.is_empty(), "{}", target.name);
        for file in files {
            // Whoever reads that it failed learns what it is.
            let says = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                file.name.len() > 8 && file.name.chars().all(says),
                "{}",
                file.name
            );
            bytes += file.input.len();
        }
    }
    assert!(bytes < 200_000, "{bytes} bytes; make what is long in code");
}

#[test]
fn no_reader_breaks_on_what_is_made_in_code_or_of_the_corpus() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        let inputs = target.inputs().expect("its files");
        let mutator = Mutator::new(1);
        for _ in 0..1500 {
            (target.run)(&(target.draw)(&mutator, &inputs));
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
