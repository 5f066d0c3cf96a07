//! `tinkers completions`: scripts that complete command lines in a shell.

use std::io::{self, Write};

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;

/// Prints the script for a shell on stdout.
pub(crate) fn print(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tinkers", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}
