//! What the program says of itself.

use crate::program::{Program, run};

#[test]
fn help_states_defaults_and_units_within_the_page() {
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("tinkers").display().to_string();
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
                "json-strict reads",
            ],
        ),
        (
            &["bench", "sample", "--help"],
            &["[default: 256]", "at once", "TINKER_API_KEY"],
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
                .all(|line| width(line) <= 100 || line.contains(&kept)),
            "{help}"
        );
    }
}

#[test]
fn help_does_not_show_the_key_of_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let variables = [
        ("TINKER_API_KEY", "tml-hush"),
        ("TINKER_BASE_URL", "http://me:hush@h"),
    ];
    let outcome = Program::start_with(home.path(), &["quickstart", "--help"], &variables).finish();
    outcome.succeeded();
    assert!(!outcome.all().contains("hush"), "{outcome:#?}");
}

#[test]
fn without_a_command_it_shows_help_and_fails() {
    let home = tempfile::tempdir().unwrap();
    run(home.path(), &[]).failed(2, &["Usage: tinkers", "quickstart"]);
    let outcome = run(home.path(), &["--version"]);
    let version = format!("tinkers {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome.succeeded().stdout, version);
}
