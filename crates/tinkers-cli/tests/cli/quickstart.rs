//! `tinkers quickstart` with the embedded server.

use std::path::Path;

use serde_json::Value;

use crate::program::{Outcome, Program, run};

/// The options of a quickstart run that is short, but long enough for the loss to decrease.
const SMALL: [&str; 7] = [
    "quickstart",
    "--steps",
    "4",
    "--batch",
    "4",
    "--seq-len",
    "64",
];

/// Parses the only line on stdout as a JSON object.
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
    number.unwrap_or_else(|| panic!("{name} is not a number in {value}"))
}

fn strings<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    let list = value[name].as_array().unwrap();
    list.iter().map(|one| one.as_str().unwrap()).collect()
}

#[test]
fn quickstart_json_reports_the_result_of_training() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let outcome = small(
        home.path(),
        &["--json", "--data-dir", data.to_str().unwrap()],
    );
    outcome.succeeded();
    let value = object(&outcome);
    let before = number(&value, "held_out_loss_before");
    let after = number(&value, "held_out_loss_after");
    // The base model predicts English, so its loss is far below ln 256, the loss of a uniform guess.
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
    // The data directory has a training checkpoint and a sampler checkpoint.
    assert_eq!(value["data_dir"], data.to_str().unwrap());
    assert_eq!(count_checkpoints(&data), 2);
    // Text is written to stderr, without progress bars.
    assert!(outcome.stderr.contains("step 4/4"), "{outcome:#?}");
    assert!(!outcome.all().contains('\u{1b}'), "{outcome:#?}");
}

fn count_checkpoints(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            if path.is_dir() {
                count_checkpoints(&path)
            } else {
                usize::from(path.extension().is_some_and(|end| end == "safetensors"))
            }
        })
        .sum()
}

#[test]
fn zero_learning_rate_leaves_loss_and_samples_unchanged() {
    let home = tempfile::tempdir().unwrap();
    let outcome = small(home.path(), &["--json", "--learning-rate", "0"]);
    let value = object(outcome.succeeded());
    let before = number(&value, "held_out_loss_before");
    let after = number(&value, "held_out_loss_after");
    assert!((before - after).abs() < 1e-6, "{value}");
    // A new adapter does not change the model, and the seed is the same.
    assert_eq!(value["samples_before"], value["samples_after"]);
}

#[test]
fn quickstart_output_without_a_terminal_is_plain_lines() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let outcome = small(home.path(), &["--data-dir", data.to_str().unwrap()]);
    let text = &outcome.succeeded().stdout;
    for needle in [
        "embedded in this process",
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
    // Only lines with paths may be wider, since paths must not be wrapped.
    assert!(
        wide.iter().all(|line| !line.trim().contains(' ')),
        "{wide:?}"
    );
}

#[test]
fn text_option_trains_on_the_users_text() {
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
    small(home.path(), &["--text", "nowhere.txt"]).failed(1, &["cannot read --text nowhere.txt"]);
}

#[cfg(unix)]
#[test]
fn interrupted_quickstart_exits_with_status_130() {
    let home = tempfile::tempdir().unwrap();
    let mut arguments = SMALL;
    arguments[2] = "1000000";
    let mut program = Program::start(home.path(), &arguments);
    program.line("step 1/1000000");
    program.signal("INT");
    let outcome = program.finish_promptly();
    assert_eq!(outcome.code, Some(130), "{outcome:#?}");
    assert_eq!(outcome.stderr, "interrupted\n");
    assert_eq!(list(home.path()), [""; 0]);
}

/// Returns the names of the entries in a directory.
fn list(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[cfg(unix)]
#[test]
fn quickstart_runs_beside_serve_and_leaves_no_files() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Program::start(home.path(), &["serve", "--port", "0"]);
    server.line("listening on ");
    let temporary_dir = tempfile::tempdir().unwrap();
    let temporary = [("TMPDIR", temporary_dir.path().to_str().unwrap())];
    let outcome =
        Program::start_with(home.path(), &[&SMALL[..], &["--json"]].concat(), &temporary).finish();
    let value = object(outcome.succeeded());
    assert!(value["data_dir"].is_null(), "{value}");
    let outcome = Program::start_with(home.path(), &SMALL, &temporary).finish();
    let text = &outcome.succeeded().stdout;
    assert!(
        text.contains("--data-dir DIR") && !text.contains("tinker://"),
        "{text}"
    );
    assert_eq!(list(temporary_dir.path()), [""; 0]);
    // The data directory of the server is unchanged.
    assert_eq!(list(home.path()), ["tinkers"]);
    assert_eq!(count_checkpoints(&home.path().join("tinkers")), 0);
}

#[cfg(unix)]
#[test]
fn error_names_the_locked_data_directory_and_the_locking_process() {
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
fn unwritable_home_fails_serve_but_not_quickstart() {
    let home = tempfile::tempdir().unwrap();
    // A file in place of a directory is an error for every user, even root.
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    small(&file, &["--json"]).succeeded();
    run(&file, &["serve", "--port", "0"]).failed(1, &["--data-dir DIR", "file"]);
    let temporary = [("TMPDIR", file.to_str().unwrap())];
    let outcome = Program::start_with(home.path(), &SMALL, &temporary).finish();
    outcome.failed(1, &["--data-dir DIR", "file"]);
}

#[test]
fn error_of_the_server_is_reported_on_one_line() {
    let home = tempfile::tempdir().unwrap();
    let outcome = small(home.path(), &["--json", "--rank", "100000"]);
    outcome.failed(1, &["rank", "100000"]);
    let errors = outcome.stderr.lines().filter(|l| l.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{outcome:#?}");
}
