//! The entry point of `cargo xtask`. The code is in the library, so that tidy can also run as a
//! test.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    xtask::run(&arguments)
}
