//! Help and version output.

use crate::program::{Program, run};

#[test]
fn help_states_defaults_and_units_within_100_columns() {
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("tinkers").display().to_string();
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["--help"],
            &["quickstart", "serve", "bench", "doctor", "--version"],
        ),
        (
            &["quickstart", "--help"],
            &["[default: 0.003]", "nats per token", "TINKER_API_KEY"],
        ),
        (
            &["serve", "--help"],
            &[
                "[default: 127.0.0.1]",
                "milliseconds",
                "bytes",
                "429",
                "json-strict:",
            ],
        ),
        (
            &["bench", "sample", "--help"],
            &["[default: 256]", "concurrent", "TINKER_API_KEY"],
        ),
        (
            &["bench", "train", "--help"],
            &["[default: 8]", "optim_step"],
        ),
    ];
    for (arguments, needles) in cases {
        let outcome = run(home.path(), arguments);
        let help = &outcome.succeeded().stdout;
        assert_eq!(outcome.stderr, "");
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for needle in needles {
            assert!(words.contains(needle), "no {needle:?} in\n{help}");
        }
        let width = |line: &str| line.chars().count();
        assert!(
            help.lines()
                .all(|line| width(line) <= 100 || line.contains(&data_dir)),
            "{help}"
        );
    }
}

#[test]
fn help_does_not_show_environment_variables() {
    let home = tempfile::tempdir().unwrap();
    let variables = [
        ("TINKER_API_KEY", "tml-secret"),
        ("TINKER_BASE_URL", "http://me:secret@h"),
    ];
    let outcome = Program::start_with(home.path(), &["quickstart", "--help"], &variables).finish();
    outcome.succeeded();
    assert!(!outcome.all().contains("secret"), "{outcome:#?}");
}

#[test]
fn missing_command_shows_help_and_fails() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &[]).failed(2, &["Usage: tinkers", "quickstart"]);
    let outcome = run(home.path(), &["--version"]);
    let version = format!("tinkers {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome.succeeded().stdout, version);
}
