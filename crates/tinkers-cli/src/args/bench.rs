//! Arguments of `tinkers bench`.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};

use super::ConnectionArgs;
use super::numbers::{integer, positive};

/// The arguments of `tinkers bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tinkers bench sample --base-url http://127.0.0.1:8000
  tinkers bench sample --base-url http://127.0.0.1:8000 --requests 1000 --concurrency 64 --json
  tinkers bench train --base-url http://127.0.0.1:8000 --batch 16 --seq-len 512 --rounds 50")]
pub(crate) struct BenchArgs {
    /// The kind of load
    #[command(subcommand)]
    pub(crate) load: Load,
}

/// The kinds of load.
#[derive(Debug, Subcommand)]
pub(crate) enum Load {
    /// Sample from a base model, with one request per prompt
    Sample(SampleArgs),
    /// Train a new LoRA adapter: rounds of forward_backward and optim_step, two of them in flight
    Train(TrainArgs),
}

impl Load {
    /// Returns the server and output options.
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

    pub(super) fn server_mut(&mut self) -> &mut ServerArgs {
        match self {
            Self::Sample(args) => &mut args.server,
            Self::Train(args) => &mut args.server,
        }
    }
}

/// The server and output options of both kinds of load.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// The base model [default: the first one that the server lists]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) model: Option<String>,
    /// Use HTTP/2 with prior knowledge, also without TLS
    #[arg(long, help_heading = "Server")]
    pub(crate) http2: bool,
    /// Print only one JSON object on stdout
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// The arguments of `tinkers bench sample`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Latency is measured from the call to the result. It includes the time that a request waits for
admission when more requests are in flight than the server accepts."
)]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Total number of requests
    #[arg(long, value_name = "N", default_value = "100", value_parser = positive, help_heading = "Load")]
    pub(crate) requests: NonZeroU32,
    /// Maximum number of concurrent requests; with 0, only the client's limiter restricts them
    #[arg(long, value_name = "C", default_value = "0", value_parser = integer::<u32>, help_heading = "Load")]
    pub(crate) concurrency: u32,
    /// Tokens per prompt
    #[arg(long, value_name = "L", default_value = "256", value_parser = positive, help_heading = "Load")]
    pub(crate) prompt_len: NonZeroU32,
    /// Samples per prompt
    #[arg(long, value_name = "K", default_value = "1", value_parser = positive, help_heading = "Load")]
    pub(crate) num_samples: NonZeroU32,
    /// Maximum tokens per sample
    #[arg(long, value_name = "M", default_value = "256", value_parser = positive, help_heading = "Load")]
    pub(crate) max_tokens: NonZeroU32,
}

impl SampleArgs {
    /// Returns the maximum number of concurrent requests that the client may send.
    pub(crate) fn effective_concurrency(&self) -> u32 {
        match self.concurrency {
            0 => self.requests.get(),
            limit => limit.min(self.requests.get()),
        }
    }
}

/// The arguments of `tinkers bench train`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
A round is one forward_backward with cross-entropy and one optim_step. Its latency is measured from
the submission of the forward_backward until both results are there."
)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Total number of rounds
    #[arg(long, value_name = "R", default_value = "20", value_parser = positive, help_heading = "Load")]
    pub(crate) rounds: NonZeroU32,
    /// Training examples per round
    #[arg(long, value_name = "B", default_value = "8", value_parser = positive, help_heading = "Load")]
    pub(crate) batch: NonZeroU32,
    /// Tokens per training example
    #[arg(long, value_name = "L", default_value = "256", value_parser = positive, help_heading = "Load")]
    pub(crate) seq_len: NonZeroU32,
    /// Rank of the LoRA adapter
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive, help_heading = "Load")]
    pub(crate) rank: NonZeroU32,
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn parse_load(line: &str) -> Result<Load, clap::Error> {
        let line = format!("tinkers bench {line}");
        match parse(line.split_whitespace())?.command {
            Command::Bench(args) => Ok(args.load),
            _ => unreachable!("the command is bench"),
        }
    }

    #[test]
    fn bench_concurrency_is_at_most_the_number_of_requests() {
        let concurrency = |line: &str| {
            let line = format!("sample --base-url http://h --requests 7 {line}");
            match parse_load(&line).unwrap() {
                Load::Sample(args) => args.effective_concurrency(),
                Load::Train(_) => unreachable!("the load is sample"),
            }
        };
        assert_eq!(concurrency(""), 7);
        assert_eq!(concurrency("--concurrency 0"), 7);
        assert_eq!(concurrency("--concurrency 3"), 3);
        assert_eq!(concurrency("--concurrency 9"), 7);
    }

    #[test]
    fn invalid_bench_arguments_are_usage_errors() {
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
            let error = parse_load(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let is_number = line.ends_with(" 0") || line.ends_with("-1");
            assert!(
                !is_number || error.to_string().contains("expected an integer"),
                "{error}"
            );
        }
    }
}
