//! The `tinkers` program.

mod address;
mod args;
mod aside;
mod bench;
mod close_session;
mod doctor;
mod embedded;
mod journal;
mod layout;
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
use crate::signals::{Interrupted, Signals};

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help goes to stdout and refusals to stderr; where neither can be written there is nobody to tell.
            let _ = refusal.print();
            return ExitCode::from(if refusal.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            output::interrupted();
            ExitCode::from(130)
        }
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let quiet = !matches!(cli.command, Command::Serve(_));
    output::log(
        cli.log
            .as_deref()
            .unwrap_or(if quiet { "warn" } else { "info" }),
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime could be started")?;
    runtime.block_on(async {
        let mut signals = Signals::listen().context("signals cannot be received")?;
        match &cli.command {
            Command::Quickstart(args) => quickstart::run(args, &mut signals).await,
            Command::Serve(args) => serve::run(args, &mut signals).await,
            Command::Bench(args) => Box::pin(bench::run(&args.load, &mut signals)).await,
            Command::Doctor(args) => doctor::run(args, &mut signals).await,
        }
    })
}
