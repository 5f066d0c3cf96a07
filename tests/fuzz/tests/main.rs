//! Runs all targets over the corpus, the seeds and some thousands of generated inputs. Also checks
//! that faulty parsers are detected.

use std::panic::catch_unwind;
use std::path::PathBuf;

use proptest::prelude::*;
use tinkers_fuzz::corpus::{self, CorpusFile};
use tinkers_fuzz::mutate::Mutator;
use tinkers_fuzz::{TARGETS, Target};

/// Runs a fuzz target on corpus files. Returns the names of the files on which it panicked, with
/// the panic messages.
fn failures(target: Target, files: &[CorpusFile]) -> Vec<String> {
    let failures = files.iter().filter_map(|file| {
        let panic = catch_unwind(|| (target.run)(&file.input)).err()?;
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("a panic without a message");
        Some(format!("{}/{}: {message:.300}", target.name, file.name))
    });
    failures.collect()
}

#[test]
fn fuzz_targets_pass_on_their_corpus_files() {
    let mut all = Vec::new();
    for target in TARGETS {
        all.extend(failures(
            target,
            &corpus::files(target.name).expect("the corpus can be read"),
        ));
    }
    assert!(all.is_empty(), "in tests/fuzz/corpus:\n{}", all.join("\n"));
}

#[test]
fn failing_corpus_file_is_reported_by_name() {
    let file = |name: &str, input: &[u8]| CorpusFile {
        name: name.to_owned(),
        path: PathBuf::new(),
        input: input.to_vec(),
    };
    let faulty = Target {
        name: "faulty",
        run: trusts_lengths,
        seeds: Vec::new,
        generate: Mutator::next,
    };
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let found = failures(
        faulty,
        &[file("valid", &[1, 1]), file("length-too-large", &[9, 1])],
    );
    std::panic::set_hook(default_hook);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("faulty/length-too-large: range end"),
        "{found:?}"
    );
}

#[test]
fn every_fuzz_target_has_small_corpus_files_with_descriptive_names() {
    let mut targets = TARGETS.map(|target| target.name.to_owned());
    targets.sort();
    assert_eq!(corpus::targets().expect("the corpus can be read"), targets);
    let mut bytes = 0;
    for target in TARGETS {
        let files = corpus::files(target.name).expect("the corpus can be read");
        assert!(!files.is_empty(), "{}", target.name);
        for file in files {
            // A failure report contains only the name of the file, so the name must describe the
            // input.
            let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                file.name.len() > 8 && file.name.chars().all(is_allowed),
                "{}",
                file.name
            );
            bytes += file.input.len();
        }
    }
    assert!(bytes < 200_000, "{bytes} bytes; make large inputs in code");
}

#[test]
fn fuzz_targets_pass_on_seeds_and_generated_inputs() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            (target.run)(&seed);
        }
        let inputs = target.inputs().expect("the corpus can be read");
        let mutator = Mutator::new(1);
        for _ in 0..1500 {
            (target.run)(&(target.generate)(&mutator, &inputs));
        }
    }
}

proptest! {
    #[test]
    fn fuzz_targets_pass_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for target in TARGETS {
            (target.run)(&bytes);
        }
    }

    #[test]
    fn fuzz_targets_pass_on_arbitrary_text(text in "\\PC{0,80}") {
        for target in TARGETS {
            (target.run)(text.as_bytes());
        }
    }
}

/// A parser with a bug that fuzzing must find (a negative control): it trusts a length field, and
/// panics if the input is shorter than the field declares.
fn trusts_lengths(bytes: &[u8]) {
    if let [length, rest @ ..] = bytes
        && *length > 0
    {
        std::hint::black_box(&rest[..usize::from(*length)]);
    }
}

#[test]
fn negative_control_parser_that_trusts_a_length_field_is_detected() {
    let seeds = [vec![3, 1, 2, 3], vec![1, 9]];
    let mutator = Mutator::new(1);
    let is_found = (0..1500).any(|_| {
        let input = mutator.next(&seeds);
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let panicked = catch_unwind(|| trusts_lengths(&input)).is_err();
        std::panic::set_hook(default_hook);
        panicked
    });
    assert!(is_found);
}
