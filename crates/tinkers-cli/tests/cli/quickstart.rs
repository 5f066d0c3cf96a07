//! `tinkers quickstart` with the server that it carries.

use std::path::Path;

use serde_json::Value;

use crate::program::{Outcome, Program, run};

/// Little enough work for a test, and enough for the loss to fall.
const SMALL: [&str; 7] = [
    "quickstart",
    "--steps",
    "4",
    "--batch",
    "4",
    "--seq-len",
    "64",
];

/// The one object of a run with `--json`.
pub(crate) fn object(outcome: &Outcome) -> Value {
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:#?}");
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(value.is_object(), "{value}");
    value
}

fn small(home: &Path, more: &[&str]) -> Outcome {
    run(home, &[&SMALL, more].concat())
}

fn number(value: &Value, name: &str) -> f64 {
    let number = value[name].as_f64();
    number.unwrap_or_else(|| panic!("{name} is no number in {value}"))
}

fn strings<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    let list = value[name].as_array().unwrap();
    list.iter().map(|one| one.as_str().unwrap()).collect()
}

#[test]
fn json_is_one_object_that_says_what_was_learned() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("kept");
    let outcome = small(
        home.path(),
        &["--json", "--data-dir", data.to_str().unwrap()],
    );
    outcome.succeeded();
    let value = object(&outcome);
    let before = number(&value, "held_out_loss_before");
    let after = number(&value, "held_out_loss_after");
    // The base model knows English bytes: far from the ln 256 of guessing, and not yet this text.
    assert!((1.0..4.0).contains(&before), "{value}");
    assert!(after < before - 0.05, "{value}");
    let loss = value["loss"].as_array().unwrap();
    assert_eq!(loss.len(), 4);
    assert!(
        loss.iter()
            .all(|loss| (0.5..5.0).contains(&loss.as_f64().unwrap())),
        "{value}"
    );
    assert!(number(&value, "seconds") > 0.0);
    assert!(number(&value, "tokens_per_second") > 0.0);
    let prompts = strings(&value, "prompts");
    let (old, new) = (
        strings(&value, "samples_before"),
        strings(&value, "samples_after"),
    );
    assert!(prompts.len() >= 2, "{value}");
    assert_eq!((old.len(), new.len()), (prompts.len(), prompts.len()));
    assert!(old.iter().chain(&new).all(|text| text.len() > 20));
    assert_ne!(old, new);
    for name in ["checkpoint", "sampler_checkpoint"] {
        let path = value[name].as_str().unwrap();
        assert!(path.starts_with("tinker://"), "{value}");
    }
    // Where it says, there is one file to train on from and one to sample from.
    assert_eq!(value["data_dir"], data.to_str().unwrap());
    assert_eq!(weights(&data), 2);
    // The words for people went elsewhere, without anything that moves.
    assert!(outcome.stderr.contains("step 4/4"), "{outcome:#?}");
    assert!(!outcome.all().contains('\u{1b}'), "{outcome:#?}");
}

fn weights(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            if path.is_dir() {
                weights(&path)
            } else {
                usize::from(path.extension().is_some_and(|end| end == "safetensors"))
            }
        })
        .sum()
}

#[test]
fn without_a_learning_rate_nothing_is_learned() {
    let home = tempfile::tempdir().unwrap();
    let outcome = small(home.path(), &["--json", "--learning-rate", "0"]);
    let value = object(outcome.succeeded());
    let before = number(&value, "held_out_loss_before");
    let after = number(&value, "held_out_loss_after");
    assert!((before - after).abs() < 1e-6, "{value}");
    // The adapter starts as none and stays it: the same seed samples the same text.
    assert_eq!(value["samples_before"], value["samples_after"]);
}

#[test]
fn without_a_terminal_it_writes_plain_lines() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("kept");
    let outcome = small(home.path(), &["--data-dir", data.to_str().unwrap()]);
    let text = &outcome.succeeded().stdout;
    for needle in [
        "inside this program",
        "step 1/4",
        "step 4/4",
        "tokens/s",
        "Loss while training, in nats per token",
        "┤",
        "before  ",
        "after   ",
        "held-out loss  ",
        "tinker://",
    ] {
        assert!(text.contains(needle), "no {needle:?} in\n{text}");
    }
    assert_eq!(outcome.stderr, "");
    assert!(!text.contains(['\u{1b}', '\r']), "{text:?}");
    let wide: Vec<&str> = text.lines().filter(|l| l.chars().count() > 100).collect();
    // Only what is to be copied whole may be wider than the page.
    assert!(
        wide.iter().all(|line| !line.trim().contains(' ')),
        "{wide:?}"
    );
}

#[test]
fn a_text_of_the_users_own_is_trained_on() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("own.txt");
    let text: String = (0..200)
        .map(|i| format!("Verse {i} of the song of the kettle: it boils.\n\n"))
        .collect();
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let outcome = small(home.path(), &["--json", "--text", file]);
    let value = object(outcome.succeeded());
    let prompts = strings(&value, "prompts");
    assert!(
        prompts.iter().all(|prompt| prompt.starts_with("Verse ")),
        "{value}"
    );

    std::fs::write(file, "Too short.").unwrap();
    small(home.path(), &["--text", file]).failed(1, &["own.txt is too short", "--seq-len"]);
    small(home.path(), &["--text", "nowhere.txt"])
        .failed(1, &["--text nowhere.txt cannot be read"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_with_130() {
    let home = tempfile::tempdir().unwrap();
    let mut arguments = SMALL;
    arguments[2] = "1000000";
    let mut program = Program::start(home.path(), &arguments);
    program.line("step 1/1000000");
    program.signal("INT");
    let outcome = program.finish_promptly();
    assert_eq!(outcome.code, Some(130), "{outcome:#?}");
    assert_eq!(outcome.stderr, "interrupted\n");
    assert_eq!(left(home.path()), [""; 0]);
}

/// What is in a directory.
fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[cfg(unix)]
#[test]
fn it_runs_beside_a_server_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Program::start(home.path(), &["serve", "--port", "0"]);
    server.line("listening on ");
    let other = tempfile::tempdir().unwrap();
    let temporary = [("TMPDIR", other.path().to_str().unwrap())];
    let outcome =
        Program::start_with(home.path(), &[&SMALL[..], &["--json"]].concat(), &temporary).finish();
    let value = object(outcome.succeeded());
    assert!(value["data_dir"].is_null(), "{value}");
    let words = Program::start_with(home.path(), &SMALL, &temporary).finish();
    let text = &words.succeeded().stdout;
    assert!(
        text.contains("--data-dir DIR") && !text.contains("tinker://"),
        "{text}"
    );
    assert_eq!(left(other.path()), [""; 0]);
    // The server's directory is as the server made it.
    assert_eq!(left(home.path()), ["tinkers"]);
    assert_eq!(weights(&home.path().join("tinkers")), 0);
}

#[cfg(unix)]
#[test]
fn a_data_directory_in_use_is_named_with_its_holder() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Program::start(home.path(), &["serve", "--port", "0"]);
    server.line("listening on ");
    let data = home.path().join("tinkers");
    let data = data.to_str().unwrap();
    let holder = format!("process {}", server.id());
    for command in [&["serve", "--port", "0"][..], &["quickstart"]] {
        let arguments = [command, &["--data-dir", data]].concat();
        run(home.path(), &arguments).failed(1, &["--data-dir DIR", data, &holder]);
    }
}

#[cfg(unix)]
#[test]
fn a_home_that_cannot_be_written_matters_to_serve_alone() {
    let home = tempfile::tempdir().unwrap();
    // A file is no directory, to the superuser either.
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    small(&file, &["--json"]).succeeded();
    run(&file, &["serve", "--port", "0"]).failed(1, &["--data-dir DIR", "file"]);
    let temporary = [("TMPDIR", file.to_str().unwrap())];
    let outcome = Program::start_with(home.path(), &SMALL, &temporary).finish();
    outcome.failed(1, &["--data-dir DIR", "file"]);
}

#[test]
fn what_the_server_refuses_is_an_error_of_one_line() {
    let home = tempfile::tempdir().unwrap();
    let outcome = small(home.path(), &["--json", "--rank", "100000"]);
    outcome.failed(1, &["rank", "100000"]);
    let errors = outcome.stderr.lines().filter(|l| l.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{outcome:#?}");
}
