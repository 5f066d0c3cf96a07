//! The management commands, against fixed responses and against `tinkers serve`.

mod cases;
mod commands;
mod delete;
mod formats;
mod kills;
mod reference;
mod responder;
mod served;
#[cfg(target_os = "linux")]
mod terminal;

use std::path::Path;

use self::responder::KEY;
use crate::program::{Outcome, Program};

/// Runs a command with an API key in the environment, and checks that it prints no key.
fn with_key(home: &Path, key: &str, arguments: &[&str]) -> Outcome {
    let variables = [("TINKER_API_KEY", key)];
    let outcome = Program::start_with(home, arguments, &variables).finish();
    assert!(!outcome.all().contains("hush"), "{outcome:#?}");
    outcome
}

/// Runs a command with the accepted key.
fn manage(home: &Path, url: &str, arguments: &[&str]) -> Outcome {
    with_key(home, KEY, &[arguments, &["--base-url", url]].concat())
}
