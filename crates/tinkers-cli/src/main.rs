//! The `tinkers` program.

mod address;
mod args;
mod auth;
mod bench;
mod blocking;
mod close_session;
mod completions;
mod doctor;
mod embedded;
mod exit;
mod journal;
mod layout;
mod manage;
mod output;
mod paths;
mod quickstart;
mod remote;
mod serve;
mod signals;
mod stopwatch;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::args::{Cli, Command};
use crate::signals::Signals;

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Prints help to stdout and errors to stderr. A failure to print cannot be reported.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let error = match run(&cli) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    let code = exit::code(&error);
    match code {
        exit::ExitCode::Interrupted => output::print_interrupted(),
        _ => output::print_error(&error),
    }
    code.into()
}

fn run(cli: &Cli) -> Result<()> {
    let quiet = !matches!(cli.command, Command::Serve(_));
    output::init_log(
        cli.log
            .as_deref()
            .unwrap_or(if quiet { "warn" } else { "info" }),
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot install signal handlers")?;
        match &cli.command {
            Command::Quickstart(args) => quickstart::run(args, &mut signals).await,
            Command::Serve(args) => serve::run(args, &mut signals).await,
            Command::Bench(args) => Box::pin(bench::run(&args.load, &mut signals)).await,
            Command::Doctor(args) => doctor::run(args, &mut signals).await,
            Command::Auth(args) => auth::run(args, &mut signals).await,
            Command::Completions { shell } => completions::print(*shell),
            Command::Version => Ok(output::print_line(concat!(
                "tinkers ",
                env!("CARGO_PKG_VERSION")
            ))?),
            Command::Manage(command) => manage::execute(command, &mut signals).await,
        }
    })
}
