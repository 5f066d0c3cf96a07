//! The command line: what can be said on it, and what is refused before anything is started.

mod bench;
mod connection;
mod dialect;
mod doctor;
mod numbers;
mod scripted;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tinkers::Environment;

pub(crate) use self::bench::{BenchArgs, Load, SampleArgs, ServerArgs, TrainArgs};
pub(crate) use self::connection::ConnectionArgs;
pub(crate) use self::dialect::DialectArgs;
pub(crate) use self::doctor::DoctorArgs;
use self::numbers::{count, learning_rate, whole, whole_seconds};
pub(crate) use self::scripted::ScriptedArgs;
use tinkers::wire::check_api_key;

use crate::paths;

/// The model that the embedded server carries inside itself.
pub(crate) const BUILT_IN_MODEL: &str = "tinkers/tiny";

/// Help is no wider than this, however wide the terminal.
const WIDEST_HELP: usize = 100;

/// Train and sample with the Tinker API, with or without a server of your own.
#[derive(Debug, Parser)]
#[command(
    name = "tinkers",
    version,
    arg_required_else_help = true,
    max_term_width = WIDEST_HELP,
    after_help = "Start with `tinkers quickstart`: it needs no key, no GPU and no network."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What is logged to stderr, such as `debug` or `tinkers_local=debug` [env: TINKER_LOG] [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Output")]
    pub(crate) log: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sample, fine-tune on a text, sample again: the whole way in about a minute
    Quickstart(QuickstartArgs),
    /// Serve the Tinker API from this machine
    Serve(ServeArgs),
    /// Put load on a Tinker server and tell how fast it is and what the client costs
    Bench(BenchArgs),
    /// Tell which dialect a Tinker server speaks, what it lacks, and what to do about it
    Doctor(DoctorArgs),
}

/// `tinkers quickstart`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Examples:
  tinkers quickstart
  tinkers quickstart --text notes.txt --steps 200
  tinkers quickstart --base-url http://127.0.0.1:8000 --json"
)]
pub(crate) struct QuickstartArgs {
    /// A server to use in place of the embedded one [env: TINKER_BASE_URL]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    base_url: Option<String>,
    /// The key for the server of --base-url; the embedded one needs none [env: TINKER_API_KEY]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    api_key: Option<Key>,
    /// Where the embedded server keeps checkpoints [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    data_dir: Option<PathBuf>,
    /// The base model
    #[arg(long, value_name = "NAME", default_value = BUILT_IN_MODEL, help_heading = "Model")]
    pub(crate) model: String,
    /// The model's tokenizer.json; needed for any model but the built-in one, which reads bytes
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Rank of the LoRA adapter
    #[arg(long, value_name = "N", default_value = "32", value_parser = count, help_heading = "Model")]
    pub(crate) rank: NonZeroU32,
    /// A text to train on, in UTF-8 [default: Newton's Opticks]
    #[arg(long, value_name = "FILE", help_heading = "Training")]
    pub(crate) text: Option<PathBuf>,
    /// Optimizer steps
    #[arg(
        long,
        value_name = "N",
        default_value = "100",
        value_parser = count,
        help_heading = "Training"
    )]
    pub(crate) steps: NonZeroU32,
    /// Pieces of text in each step
    #[arg(long, value_name = "N", default_value = "8", value_parser = count, help_heading = "Training")]
    pub(crate) batch: NonZeroU32,
    /// Tokens in each piece
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        value_parser = count,
        help_heading = "Training"
    )]
    pub(crate) seq_len: NonZeroU32,
    /// Learning rate of the first step; it falls to a tenth of it by the last
    #[arg(
        long,
        value_name = "RATE",
        default_value = "0.003",
        value_parser = learning_rate,
        help_heading = "Training"
    )]
    pub(crate) learning_rate: f64,
    /// Seed of the adapter, of the order of the text and of the samples
    #[arg(long, value_name = "N", default_value = "7", value_parser = whole::<u64>, help_heading = "Training")]
    pub(crate) seed: u64,
    /// Print one JSON object on stdout, and nothing else there; losses are in nats per token
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Which server `quickstart` talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// One inside this process, keeping its checkpoints here or in a temporary directory.
    Embedded(Option<PathBuf>),
    /// One elsewhere.
    Remote {
        /// Its address.
        base_url: String,
        /// The key, when one was given.
        api_key: Option<Key>,
    },
}

impl QuickstartArgs {
    /// Which server is meant. An empty address is none, so that a variable of the environment can be overridden.
    pub(crate) fn target(&self) -> Target {
        match self.base_url.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => Target::Remote {
                base_url: url.to_owned(),
                api_key: self.api_key.clone(),
            },
            None => Target::Embedded(self.data_dir.clone()),
        }
    }

    fn check(&self) -> Result<(), clap::Error> {
        let is_built_in = self.model == BUILT_IN_MODEL;
        if !is_built_in && self.tokenizer.is_none() {
            let message = format!(
                "model {} needs --tokenizer FILE, its tokenizer.json; only {BUILT_IN_MODEL} does without",
                self.model
            );
            return Err(refusal(
                "quickstart",
                ErrorKind::MissingRequiredArgument,
                &message,
            ));
        }
        if is_built_in && self.tokenizer.is_some() {
            let message = format!("{BUILT_IN_MODEL} reads bytes and takes no --tokenizer");
            return Err(refusal("quickstart", ErrorKind::ArgumentConflict, &message));
        }
        match self.target() {
            Target::Embedded(_) if !is_built_in => {
                let message = format!(
                    "the embedded server of quickstart has {BUILT_IN_MODEL} alone; for model {} name its server with --base-url URL",
                    self.model
                );
                Err(refusal(
                    "quickstart",
                    ErrorKind::MissingRequiredArgument,
                    &message,
                ))
            }
            Target::Remote { .. } if self.data_dir.is_some() => {
                let message = "--data-dir is for the embedded server and does not go with --base-url (or TINKER_BASE_URL)";
                Err(refusal("quickstart", ErrorKind::ArgumentConflict, message))
            }
            _ => Ok(()),
        }
    }
}

/// `tinkers serve`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Prints `listening on URL` on stdout once it answers, and ends on Ctrl-C or SIGTERM or SIGHUP: saves that have begun
are finished, which takes 30 s at most; a second signal ends it at once.
GET /openapi.json describes its routes and bodies.
With --engine scripted, GET /scripted/counts tells what was accepted, refused and in flight.
With --faults, GET /faults/counts tells how often each rule struck, and so does the end.

Examples:
  tinkers serve
  tinkers serve --port 0 --data-dir ./checkpoints
  tinkers serve --host 0.0.0.0 --api-key tml-of-your-choice
  tinkers serve --engine scripted --latency 200 --window 20 --hint-ms 500
  tinkers serve --print-openapi > openapi.json
  tinkers serve --engine scripted --dialect skyrl --long-poll 5
  tinkers serve --faults bad-day.toml --journal journal.jsonl"
)]
pub(crate) struct ServeArgs {
    /// The IP address to listen on; one beyond this machine only together with --api-key
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "Server"
    )]
    pub(crate) host: Host,
    /// The port; 0 takes a free one
    #[arg(long, default_value = "8000", value_parser = whole::<u16>, help_heading = "Server")]
    pub(crate) port: u16,
    /// The one key that is taken [default: any key is, and none]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub(crate) api_key: Option<Key>,
    /// How long a session lives without a heartbeat, in whole seconds; clients send one every 10 seconds or so [default: 300]
    #[arg(long, value_name = "SECS", value_parser = whole_seconds, help_heading = "Server")]
    pub(crate) session_expiry: Option<Duration>,
    /// Have clients ask for each sample by itself, and not for all of them with one poll (retrieve_futures)
    #[arg(long, help_heading = "Server")]
    pub(crate) per_request_polls: bool,
    /// Print the OpenAPI document of the server as it would be with the other options, which GET /openapi.json gives, and end
    #[arg(long, help_heading = "Server")]
    pub(crate) print_openapi: bool,
    #[arg(
        long,
        value_name = "DIR",
        help = paths::data_dir_help("Where checkpoints are kept"),
        help_heading = "Server"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// candle is a real model on the CPU; scripted gives canned results, for load work
    #[arg(long, value_enum, default_value_t = EngineName::Candle, help_heading = "Engine")]
    pub(crate) engine: EngineName,
    /// A Llama or Qwen3 model: config.json, *.safetensors, tokenizer.json [default: the built-in one, tinkers/tiny]
    #[arg(long, value_name = "DIR", help_heading = "Engine")]
    pub(crate) model_dir: Option<PathBuf>,
    /// The name of the model of --model-dir, such as Qwen/Qwen3-8B; the names that its path gives are accepted too
    /// [default: as the path ends, org/model or model]
    #[arg(long, value_name = "NAME", value_parser = model_name, requires = "model_dir", help_heading = "Engine")]
    pub(crate) model_name: Option<String>,
    /// Seed of what has none of its own: samples and the start of adapters [default: another one at each start, which is logged]
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) seed: Option<u64>,
    /// A script of faults in TOML: what goes wrong with requests, and when
    #[arg(long, value_name = "FILE", help_heading = "Tests")]
    pub(crate) faults: Option<PathBuf>,
    /// Write one JSON line for each exchange to this file, which is made anew
    #[arg(long, value_name = "FILE", help_heading = "Tests")]
    pub(crate) journal: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dialect: DialectArgs,
    #[command(flatten)]
    pub(crate) scripted: ScriptedArgs,
}

impl ServeArgs {
    fn check(&self) -> Result<(), clap::Error> {
        if let Some(key) = &self.api_key
            && let Err(wrong) = check_api_key(key.expose())
        {
            let message = format!("--api-key: expected {}", wrong.expected());
            return Err(refusal("serve", ErrorKind::InvalidValue, &message));
        }
        if !self.host.is_loopback() && self.api_key.is_none() {
            let message = format!(
                "--host {} is beyond this machine: give --api-key KEY too, so that not everybody can use the server",
                self.host
            );
            return Err(refusal(
                "serve",
                ErrorKind::MissingRequiredArgument,
                &message,
            ));
        }
        let is_scripted = self.engine == EngineName::Scripted;
        if is_scripted && self.data_dir.is_some() {
            let message = "--data-dir goes with --engine candle; the scripted one keeps nothing";
            return Err(refusal("serve", ErrorKind::ArgumentConflict, message));
        }
        if is_scripted && self.seed.is_some() {
            let message =
                "--seed goes with --engine candle; the scripted one leaves nothing to chance";
            return Err(refusal("serve", ErrorKind::ArgumentConflict, message));
        }
        if is_scripted && self.model_dir.is_some() {
            let message = "--model-dir goes with --engine candle, not with the scripted one";
            return Err(refusal("serve", ErrorKind::ArgumentConflict, message));
        }
        if !is_scripted && self.scripted.is_given() {
            let message = "--latency, --window and the other options of the scripted engine go with --engine scripted";
            return Err(refusal("serve", ErrorKind::ArgumentConflict, message));
        }
        if let Err(message) = self.scripted.check() {
            return Err(refusal("serve", ErrorKind::ArgumentConflict, &message));
        }
        Ok(())
    }
}

/// What answers the requests of `serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    // Plain comments, since help for a value turns the whole of --help into its long form.
    // A real model on the CPU.
    Candle,
    // Canned results, for load work.
    Scripted,
}

/// An address to listen on; `localhost` is 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host(IpAddr);

impl Host {
    pub(crate) fn ip(self) -> IpAddr {
        self.0
    }

    fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "localhost" {
            return Ok(Self(IpAddr::from([127, 0, 0, 1])));
        }
        text.parse()
            .map(Self)
            .map_err(|_| "expected an IP address, such as 127.0.0.1 or 0.0.0.0".to_owned())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An API key, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Reads and checks the arguments of the process.
///
/// # Errors
/// In clap's form, which also carries `--help` and `--version`.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let mut cli = Cli::try_parse_from(arguments)?;
    cli.complete(&Environment::read())?;
    Ok(cli)
}

/// A name that requests can use for a base model.
fn model_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 200;
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control();
    let is_name = !text.is_empty() && text.len() <= LONGEST && text.chars().all(is_plain);
    if is_name && !text.contains("://") && !text.contains(":peft:") {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a name such as Qwen/Qwen3-8B, of at most {LONGEST} bytes, without spaces, :// and :peft:"
    ))
}

impl Cli {
    /// Takes from the environment what was not given, and checks the whole.
    fn complete(&mut self, environment: &Environment) -> Result<(), clap::Error> {
        if self.log.is_none() {
            self.log = environment.log().map(str::to_owned);
        }
        let (command, connection) = match &mut self.command {
            Command::Quickstart(args) => {
                if args.base_url.is_none() {
                    args.base_url = environment.base_url().map(str::to_owned);
                }
                return args.check();
            }
            Command::Serve(args) => return args.check(),
            Command::Bench(args) => (args.load.command(), args.load.connection_mut()),
            Command::Doctor(args) => ("doctor", &mut args.connection),
        };
        connection
            .complete(environment)
            .map_err(|message| refusal(command, ErrorKind::MissingRequiredArgument, message))
    }
}

/// With the usage of the command that it is about, such as `bench sample`.
fn refusal(command: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut cli = Cli::command();
    // Gives the subcommands their full names.
    cli.build();
    let found = command
        .split(' ')
        .try_fold(&mut cli, |found, name| found.find_subcommand_mut(name));
    match found {
        Some(command) => command.error(kind, message),
        None => Cli::command().error(kind, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        parse(std::iter::once("tinkers").chain(line.split_whitespace()))
    }

    fn quickstart(line: &str) -> QuickstartArgs {
        match read(line).unwrap().command {
            Command::Quickstart(args) => args,
            _ => unreachable!("asked for quickstart"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_grouped_and_has_examples() {
        for (line, heading) in [
            ("quickstart --help", "Training:"),
            ("serve --help", "Engine:"),
        ] {
            let help = read(line).unwrap_err().to_string();
            assert!(
                help.contains(heading) && help.contains("Examples:"),
                "{help}"
            );
        }
    }

    #[test]
    fn a_refusal_shows_the_usage_of_its_command() {
        for (line, usage) in [
            ("quickstart --model m", "Usage: tinkers quickstart"),
            ("serve --host 0.0.0.0", "Usage: tinkers serve"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(usage), "{error}");
        }
    }

    #[test]
    fn another_model_needs_its_tokenizer_and_a_server() {
        let error = read("quickstart --model Qwen/Qwen3-8B").unwrap_err();
        assert!(error.to_string().contains("--tokenizer FILE"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let with = "quickstart --model Qwen/Qwen3-8B --tokenizer tokenizer.json --base-url";
        let error = read(&format!("{with}=")).unwrap_err();
        assert!(error.to_string().contains("--base-url URL"), "{error}");
        assert!(read(&format!("{with}=http://127.0.0.1:9")).is_ok());
    }

    #[test]
    fn the_target_follows_from_the_address() {
        let remote = quickstart("quickstart --base-url http://h --api-key tml-x").target();
        let Target::Remote { base_url, api_key } = remote else {
            unreachable!("an address was given")
        };
        assert_eq!(base_url, "http://h");
        assert_eq!(api_key.as_ref().map(Key::expose), Some("tml-x"));
        assert_eq!(
            quickstart("quickstart --base-url= --data-dir d").target(),
            Target::Embedded(Some(PathBuf::from("d")))
        );
        assert!(read("quickstart --base-url http://h --data-dir d").is_err());
    }

    #[test]
    fn keys_are_never_shown() {
        let args = quickstart("quickstart --base-url http://h --api-key tml-secret");
        assert!(!format!("{args:?} {:?}", args.target()).contains("secret"));
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        for bad in [
            "--steps 0",
            "--batch 0",
            "--seq-len 0",
            "--rank 0",
            "--steps -1",
            "--steps 1.5",
            "--steps 4294967296",
            "--batch many",
            "--seq-len -3",
            "--rank -2",
            "--learning-rate -1",
            "--learning-rate -1e-3",
            "--learning-rate NaN",
            "--seed -1",
            "--learning-rate much",
            "--tokenizer t.json",
        ] {
            let error = read(&format!("quickstart --base-url= {bad}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            let expects =
                bad.starts_with("--tokenizer") || error.to_string().contains("expected a");
            assert!(expects, "{bad}: {error}");
        }
        assert_eq!(
            quickstart("quickstart --learning-rate 0").learning_rate,
            0.0
        );
    }

    #[test]
    fn beyond_this_machine_a_key_is_needed() {
        let error = read("serve --host 0.0.0.0").unwrap_err();
        assert!(error.to_string().contains("--api-key KEY"), "{error}");
        for good in [
            "serve --host 0.0.0.0 --api-key tml-x",
            "serve --host ::1",
            "serve --host localhost",
            "serve",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in [
            "serve --host 0.0.0.0 --api-key=",
            "serve --host example.com",
            "serve --scripted-bytes 9",
            "serve --engine scripted --model-dir d",
            "serve --engine scripted --data-dir d",
            "serve --model-name m",
            "serve --model-dir d --model-name=",
            "serve --model-dir d --model-name a:peft:1",
            "serve --session-expiry 0",
            "serve --session-expiry 1.5",
            "serve --port -1",
            "serve --port 70000",
        ] {
            assert_eq!(read(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
