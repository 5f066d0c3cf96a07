//! What can be said of `tinkers bench`: against which server, and how much of what.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};

use super::ConnectionArgs;
use super::numbers::{count, whole};

/// `tinkers bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tinkers bench sample --base-url http://127.0.0.1:8000
  tinkers bench sample --base-url http://127.0.0.1:8000 --requests 1000 --concurrency 64 --json
  tinkers bench train --base-url http://127.0.0.1:8000 --batch 16 --seq-len 512 --rounds 50")]
pub(crate) struct BenchArgs {
    /// What the server is asked for
    #[command(subcommand)]
    pub(crate) load: Load,
}

/// The kinds of load.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Samples from a base model: many prompts, each an own request
    Sample(SampleArgs),
    /// Training steps on a new LoRA adapter: forward_backward and optim_step, two rounds under way at once
    Train(TrainArgs),
}

impl Load {
    /// The server.
    pub(crate) fn server(&self) -> &ServerArgs {
        match self {
            Self::Sample(args) => &args.server,
            Self::Train(args) => &args.server,
        }
    }

    pub(super) fn command(&self) -> &'static str {
        match self {
            Self::Sample(_) => "bench sample",
            Self::Train(_) => "bench train",
        }
    }

    pub(super) fn connection_mut(&mut self) -> &mut ConnectionArgs {
        match self {
            Self::Sample(args) => &mut args.server.connection,
            Self::Train(args) => &mut args.server.connection,
        }
    }
}

/// Which server is put under load, and how the result is told.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// The base model [default: the first that the server names]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) model: Option<String>,
    /// Speak HTTP/2 from the first byte, also without TLS
    #[arg(long, help_heading = "Server")]
    pub(crate) http2: bool,
    /// Print one JSON object on stdout, and nothing else there
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// `tinkers bench sample`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
A latency runs from the call to the result, so with more requests under way than the server takes it
counts the waiting for a turn too."
)]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Requests in all
    #[arg(long, value_name = "N", default_value = "100", value_parser = count, help_heading = "Load")]
    pub(crate) requests: NonZeroU32,
    /// Requests under way at once; 0 for all of them, held back by the limiter alone
    #[arg(long, value_name = "C", default_value = "0", value_parser = whole::<u32>, help_heading = "Load")]
    pub(crate) concurrency: u32,
    /// Tokens in each prompt
    #[arg(long, value_name = "L", default_value = "256", value_parser = count, help_heading = "Load")]
    pub(crate) prompt_len: NonZeroU32,
    /// Samples of each prompt
    #[arg(long, value_name = "K", default_value = "1", value_parser = count, help_heading = "Load")]
    pub(crate) num_samples: NonZeroU32,
    /// The most tokens in each sample
    #[arg(long, value_name = "M", default_value = "256", value_parser = count, help_heading = "Load")]
    pub(crate) max_tokens: NonZeroU32,
}

impl SampleArgs {
    /// Requests under way at once.
    pub(crate) fn at_once(&self) -> u32 {
        match self.concurrency {
            0 => self.requests.get(),
            some => some.min(self.requests.get()),
        }
    }
}

/// `tinkers bench train`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
A round is one forward_backward with cross-entropy and one optim_step; its latency runs from the
submission of the first to both results."
)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Rounds in all
    #[arg(long, value_name = "R", default_value = "20", value_parser = count, help_heading = "Load")]
    pub(crate) rounds: NonZeroU32,
    /// Data in each round
    #[arg(long, value_name = "B", default_value = "8", value_parser = count, help_heading = "Load")]
    pub(crate) batch: NonZeroU32,
    /// Tokens in each datum
    #[arg(long, value_name = "L", default_value = "256", value_parser = count, help_heading = "Load")]
    pub(crate) seq_len: NonZeroU32,
    /// Rank of the LoRA adapter
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, help_heading = "Load")]
    pub(crate) rank: NonZeroU32,
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn read(line: &str) -> Result<Load, clap::Error> {
        let line = format!("tinkers bench {line}");
        match parse(line.split_whitespace())?.command {
            Command::Bench(args) => Ok(args.load),
            _ => unreachable!("asked for bench"),
        }
    }

    #[test]
    fn no_concurrency_is_all_at_once_and_never_more_than_there_are() {
        let at_once = |line: &str| {
            let line = format!("sample --base-url http://h --requests 7 {line}");
            match read(&line).unwrap() {
                Load::Sample(args) => args.at_once(),
                Load::Train(_) => unreachable!("asked for sample"),
            }
        };
        assert_eq!(at_once(""), 7);
        assert_eq!(at_once("--concurrency 0"), 7);
        assert_eq!(at_once("--concurrency 3"), 3);
        assert_eq!(at_once("--concurrency 9"), 7);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for line in [
            "",
            "sample --base-url http://h --requests 0",
            "sample --base-url http://h --concurrency -1",
            "sample --base-url http://h --prompt-len 0",
            "sample --base-url http://h --num-samples 0",
            "sample --base-url http://h --max-tokens 0",
            "sample --base-url http://h --batch 1",
            "train --base-url http://h --batch 0",
            "train --base-url http://h --seq-len 0",
            "train --base-url http://h --rounds 0",
            "train --base-url http://h --requests 1",
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let is_number = line.ends_with(" 0") || line.ends_with("-1");
            assert!(
                !is_number || error.to_string().contains("expected a whole"),
                "{error}"
            );
        }
    }
}
