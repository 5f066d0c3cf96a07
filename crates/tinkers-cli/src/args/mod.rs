//! The command line arguments, and their validation.

mod account;
mod auth;
mod bench;
mod checkpoint;
mod connection;
mod dialect;
mod doctor;
mod known_server;
mod manage;
mod manage_command;
mod model;
mod numbers;
mod quickstart;
mod run;
mod scripted;
mod session;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use http::HeaderName;
use tinkers::Environment;

use clap_complete::Shell;

pub(crate) use self::account::{AuditArgs, BillingCommand, StorageArgs, UsageArgs};
pub(crate) use self::auth::{AuthArgs, AuthCommand};
pub(crate) use self::bench::{BenchArgs, Load, SampleArgs, ServerArgs, TrainArgs};
pub(crate) use self::checkpoint::{
    CheckpointArgs, CheckpointCommand, FilterArgs, is_checkpoint_path,
};
pub(crate) use self::connection::ConnectionArgs;
pub(crate) use self::dialect::DialectArgs;
pub(crate) use self::doctor::DoctorArgs;
use self::known_server::KnownServer;
pub(crate) use self::manage::{ListArgs, ManageArgs, OutputFormat, PAGED};
pub(crate) use self::manage_command::ManageCommand;
pub(crate) use self::model::{ModelArgs, ModelCommand};
use self::numbers::{integer, whole_seconds};
pub(crate) use self::quickstart::{QuickstartArgs, Target};
#[cfg(test)]
pub(crate) use self::run::COLUMNS;
pub(crate) use self::run::{RunArgs, RunCommand};
pub(crate) use self::scripted::ScriptedArgs;
pub(crate) use self::session::{SessionArgs, SessionCommand};
use tinkers::wire::check_api_key;

use crate::paths;

/// The name of the built-in model of the embedded server.
pub(crate) const BUILT_IN_MODEL: &str = "tinkers/tiny";

/// The maximum width of help texts.
const MAX_HELP_WIDTH: usize = 100;

/// Train and sample with the Tinker API, on a remote or an embedded server.
#[derive(Debug, Parser)]
#[command(
    name = "tinkers",
    version,
    arg_required_else_help = true,
    max_term_width = MAX_HELP_WIDTH,
    after_help = "\
Start with `tinkers quickstart`: it needs no key, no GPU and no network.

Exit codes: 0 success, 1 another failure, 2 invalid command line or setting, 3 not found, 4 no access (key,
permission or bill), 5 server unreachable or failing, 130 interrupted."
)]
pub(crate) struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log filter for stderr, such as `debug` or `tinkers_local=debug` [env: TINKER_LOG] [default: info for serve, else warn]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Output")]
    pub(crate) log: Option<String>,
    /// The format of the output, if the command has several [default: table]
    #[arg(
        id = "top_format",
        short = 'f',
        long = "format",
        value_enum,
        help_heading = "Output"
    )]
    format: Option<OutputFormat>,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sample, fine-tune on a text and sample again, in about a minute
    Quickstart(QuickstartArgs),
    /// Serve the Tinker API from this machine
    Serve(Box<ServeArgs>),
    /// Put load on a Tinker server and measure throughput, latency and the cost of the client
    Bench(BenchArgs),
    /// Examine a Tinker server: its dialect, missing features and limits, with advice
    Doctor(DoctorArgs),
    /// Log in to a Tinker server with an API key, and show whether the server accepts it
    Auth(AuthArgs),
    #[command(flatten)]
    Manage(ManageCommand),
    /// Print a script that completes command lines in a shell
    #[command(after_help = "\
Examples:
  tinkers completions bash > ~/.local/share/bash-completion/completions/tinkers
  tinkers completions zsh > ~/.zfunc/_tinkers
  tinkers completions fish > ~/.config/fish/completions/tinkers.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the version of the program
    Version,
}

/// The arguments of `tinkers serve`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Prints `listening on URL` on stdout once it accepts requests. Ctrl-C, SIGTERM or SIGHUP shut it down after saves in
progress have finished, for at most 30 s; a second signal ends it at once.
GET /openapi.json describes its routes and bodies.
With --engine scripted, GET /scripted/counts returns the number of accepted, rejected and in-flight samples.
With --faults, GET /faults/counts returns how often each rule was applied; the server also prints it at shutdown.

Examples:
  tinkers serve
  tinkers serve --port 0 --data-dir ./checkpoints
  tinkers serve --host 0.0.0.0 --api-key tml-my-key
  tinkers serve --engine scripted --latency 200 --window 20 --hint-ms 500
  tinkers serve --print-openapi > openapi.json
  tinkers serve --engine scripted --dialect skyrl --long-poll 5
  tinkers serve --faults faults.toml --journal journal.jsonl"
)]
pub(crate) struct ServeArgs {
    /// The IP address to listen on; addresses other than loopback require --api-key
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "Server"
    )]
    pub(crate) host: Host,
    /// The port to listen on; 0 selects a free one
    #[arg(long, default_value = "8000", value_parser = integer::<u16>, help_heading = "Server")]
    pub(crate) port: u16,
    /// The API key that clients must send [default: accept any key, or none]
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub(crate) api_key: Option<Key>,
    /// A TOML file of API keys with separate owners and permissions, in place of --api-key
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "api_key",
        help_heading = "Server"
    )]
    pub(crate) keys: Option<PathBuf>,
    /// Make clients exchange their API key for a token that is valid for this time, in seconds
    #[arg(long, value_name = "SECS", value_parser = whole_seconds, help_heading = "Server")]
    pub(crate) token_exchange: Option<Duration>,
    /// Accept credentials only as `Authorization: Bearer`, not as X-API-Key
    #[arg(long, help_heading = "Server")]
    pub(crate) bearer: bool,
    /// Require a header of this name in each request, as a gateway does; can be repeated
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) require_header: Vec<HeaderName>,
    /// Time until a session without heartbeats expires, in seconds; clients send one about every 10 s [default: 300]
    #[arg(long, value_name = "SECS", value_parser = whole_seconds, help_heading = "Server")]
    pub(crate) session_expiry: Option<Duration>,
    /// Make clients poll for each sample separately, instead of with one poll for all samples (retrieve_futures)
    #[arg(long, help_heading = "Server")]
    pub(crate) per_request_polls: bool,
    /// Print the OpenAPI document that GET /openapi.json would return with the other options, and exit
    #[arg(long, help_heading = "Server")]
    pub(crate) print_openapi: bool,
    #[arg(
        long,
        value_name = "DIR",
        help = paths::data_dir_help("Where to store checkpoints"),
        help_heading = "Server"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// The engine: candle runs a model on the CPU; scripted returns canned results for load tests
    #[arg(long, value_enum, default_value_t = EngineName::Candle, help_heading = "Engine")]
    pub(crate) engine: EngineName,
    /// Directory of a Llama or Qwen3 model: config.json, *.safetensors, tokenizer.json [default: the built-in tinkers/tiny]
    #[arg(long, value_name = "DIR", help_heading = "Engine")]
    pub(crate) model_dir: Option<PathBuf>,
    /// The name of the model in --model-dir, such as Qwen/Qwen3-8B; names derived from its path are accepted too
    /// [default: the end of the path, as org/model or model]
    #[arg(long, value_name = "NAME", value_parser = model_name, requires = "model_dir", help_heading = "Engine")]
    pub(crate) model_name: Option<String>,
    /// Seed for samples and adapters that are requested without one [default: random, and logged]
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) seed: Option<u64>,
    /// A TOML script of faults to inject
    #[arg(long, value_name = "FILE", help_heading = "Tests")]
    pub(crate) faults: Option<PathBuf>,
    /// Write one JSON line per HTTP exchange to this file; an existing file is overwritten
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
            && let Err(error) = check_api_key(key.expose())
        {
            let message = format!("invalid --api-key: expected {}", error.expected());
            return Err(usage_error("serve", ErrorKind::InvalidValue, &message));
        }
        if !self.host.is_loopback() && self.api_key.is_none() && self.keys.is_none() {
            let message = format!(
                "--host {} is reachable from other machines: set --api-key KEY or --keys FILE to restrict access",
                self.host
            );
            return Err(usage_error(
                "serve",
                ErrorKind::MissingRequiredArgument,
                &message,
            ));
        }
        let is_scripted = self.engine == EngineName::Scripted;
        if is_scripted && self.data_dir.is_some() {
            let message = "--data-dir requires --engine candle: the scripted engine stores nothing";
            return Err(usage_error("serve", ErrorKind::ArgumentConflict, message));
        }
        if is_scripted && self.seed.is_some() {
            let message = "--seed requires --engine candle: the scripted engine is deterministic";
            return Err(usage_error("serve", ErrorKind::ArgumentConflict, message));
        }
        if is_scripted && self.model_dir.is_some() {
            let message = "--model-dir requires --engine candle";
            return Err(usage_error("serve", ErrorKind::ArgumentConflict, message));
        }
        if !is_scripted && self.scripted.is_set() {
            let message = "--latency, --window and the other options of the scripted engine require --engine scripted";
            return Err(usage_error("serve", ErrorKind::ArgumentConflict, message));
        }
        if let Err(message) = self.scripted.check() {
            return Err(usage_error("serve", ErrorKind::ArgumentConflict, &message));
        }
        Ok(())
    }
}

/// The engine with which `serve` computes results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    // Plain comments, since doc comments on values would switch --help to its long form.
    // A model on the CPU.
    Candle,
    // Canned results, for load tests.
    Scripted,
}

/// The IP address to listen on. `localhost` stands for 127.0.0.1.
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

/// An API key. Its `Debug` output does not contain the key.
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

/// Parses and validates the arguments of the process.
///
/// # Errors
///
/// If an argument is invalid. For `--help` and `--version`, the error contains the text to print.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    let mut cli = Cli::try_parse_from(arguments)?;
    cli.complete(&Environment::read())?;
    Ok(cli)
}

/// Parses the name of a base model. The empty name is invalid.
fn model_name(text: &str) -> Result<String, String> {
    const MAX_LEN: usize = 200;
    let is_allowed = |c: char| !c.is_whitespace() && !c.is_control();
    let is_valid = !text.is_empty() && text.len() <= MAX_LEN && text.chars().all(is_allowed);
    if is_valid && !text.contains("://") && !text.contains(":peft:") {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a name such as Qwen/Qwen3-8B, of at most {MAX_LEN} bytes, without spaces, :// or :peft:"
    ))
}

impl Cli {
    /// Sets missing arguments from the environment, and validates all arguments.
    fn complete(&mut self, environment: &Environment) -> Result<(), clap::Error> {
        if self.log.is_none() {
            self.log = environment.log().map(str::to_owned);
        }
        let format = self.format;
        let (command, connection) = match &mut self.command {
            Command::Quickstart(args) => {
                args.json |= json_only("quickstart", format)?;
                args.server.set_base_url(environment);
                return args.check();
            }
            Command::Serve(args) => return args.check(),
            // Its server is the hosted service by default.
            Command::Auth(args) => {
                args.set_format(format);
                let checked = args.check_server();
                return checked
                    .map_err(|message| usage_error("auth", ErrorKind::ArgumentConflict, message));
            }
            Command::Bench(args) => {
                let command = args.load.command();
                args.load.server_mut().json |= json_only(command, format)?;
                (command, &mut args.load.server_mut().connection)
            }
            Command::Doctor(args) => {
                args.json |= json_only("doctor", format)?;
                ("doctor", &mut args.connection)
            }
            Command::Completions { .. } | Command::Version => return Ok(()),
            Command::Manage(command) => return command.complete(format),
        };
        connection
            .complete(environment)
            .map_err(|message| usage_error(command, ErrorKind::MissingRequiredArgument, message))
    }
}

/// Returns whether the option `--format` before a command asks for JSON. The command prints lines or JSON, and no CSV.
fn json_only(command: &str, format: Option<OutputFormat>) -> Result<bool, clap::Error> {
    match format {
        None | Some(OutputFormat::Table) => Ok(false),
        Some(OutputFormat::Json) => Ok(true),
        Some(OutputFormat::Csv) => {
            let message = "--format csv cannot be used: the command prints no list";
            Err(usage_error(command, ErrorKind::ArgumentConflict, message))
        }
    }
}

/// Creates an error that shows the usage of a command such as `bench sample`.
fn usage_error(command: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut cli = Cli::command();
    // `build` sets the full names of the subcommands, which the usage shows.
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

    fn parse_line(line: &str) -> Result<Cli, clap::Error> {
        parse(std::iter::once("tinkers").chain(line.split_whitespace()))
    }

    fn quickstart(line: &str) -> QuickstartArgs {
        match parse_line(line).unwrap().command {
            Command::Quickstart(args) => args,
            _ => unreachable!("the command is quickstart"),
        }
    }

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_has_headings_and_examples() {
        for (line, heading) in [
            ("quickstart --help", "Training:"),
            ("serve --help", "Engine:"),
        ] {
            let help = parse_line(line).unwrap_err().to_string();
            assert!(
                help.contains(heading) && help.contains("Examples:"),
                "{help}"
            );
        }
    }

    #[test]
    fn usage_error_shows_the_usage_of_its_command() {
        for (line, usage) in [
            ("quickstart --model m", "Usage: tinkers quickstart"),
            ("serve --host 0.0.0.0", "Usage: tinkers serve"),
        ] {
            let error = parse_line(line).unwrap_err().to_string();
            assert!(error.contains(usage), "{error}");
        }
    }

    #[test]
    fn quickstart_with_another_model_requires_tokenizer_and_server() {
        let error = parse_line("quickstart --model Qwen/Qwen3-8B").unwrap_err();
        assert!(error.to_string().contains("--tokenizer FILE"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let with = "quickstart --model Qwen/Qwen3-8B --tokenizer tokenizer.json --base-url";
        let error = parse_line(&format!("{with}=")).unwrap_err();
        assert!(error.to_string().contains("--base-url URL"), "{error}");
        assert!(parse_line(&format!("{with}=http://127.0.0.1:9")).is_ok());
    }

    #[test]
    fn base_url_selects_the_remote_or_embedded_server() {
        let remote = quickstart("quickstart --base-url http://h --api-key tml-x").target();
        let Target::Remote(server) = remote else {
            unreachable!("--base-url is set")
        };
        assert_eq!(server.base_url(), "http://h");
        assert_eq!(server.api_key.as_ref().map(Key::expose), Some("tml-x"));
        assert_eq!(
            quickstart("quickstart --base-url= --data-dir d").target(),
            Target::Embedded(Some(PathBuf::from("d")))
        );
        assert!(parse_line("quickstart --base-url http://h --data-dir d").is_err());
        let json = quickstart("quickstart --base-url http://h --body-format json").target();
        let Target::Remote(server) = json else {
            unreachable!("--base-url is set")
        };
        assert_eq!(server.body_format, Some(connection::BodyFormatName::Json));
    }

    #[test]
    fn hosted_and_local_servers_are_named_by_options() {
        for (option, url) in [
            ("--hosted", tinkers::HOSTED_SERVICE),
            ("--local", "http://127.0.0.1:8000"),
        ] {
            let Target::Remote(server) = quickstart(&format!("quickstart {option}")).target()
            else {
                unreachable!("{option} names a server")
            };
            assert_eq!(server.base_url(), url);
            for command in ["doctor", "bench sample", "auth whoami", "run list"] {
                assert!(parse_line(&format!("{command} {option}")).is_ok());
                let both = format!("{command} {option} --base-url http://h");
                assert_eq!(parse_line(&both).unwrap_err().exit_code(), 2, "{both}");
            }
            let split = format!("auth {option} whoami --base-url http://h");
            assert_eq!(parse_line(&split).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn debug_output_has_no_api_key() {
        let args = quickstart("quickstart --base-url http://h --api-key tml-secret");
        assert!(!format!("{args:?} {:?}", args.target()).contains("secret"));
    }

    #[test]
    fn invalid_quickstart_numbers_are_usage_errors() {
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
            let error = parse_line(&format!("quickstart --base-url= {bad}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            let text = error.to_string();
            let (option, _) = bad.split_once(' ').unwrap();
            assert!(text.contains(option), "{bad}: {text}");
            let names_expected = option == "--tokenizer" || text.contains(": expected a");
            assert!(names_expected, "{bad}: {text}");
        }
        assert_eq!(
            quickstart("quickstart --learning-rate 0").learning_rate,
            0.0
        );
    }

    #[test]
    fn serve_options_are_validated() {
        let error = parse_line("serve --host 0.0.0.0").unwrap_err();
        assert!(error.to_string().contains("--api-key KEY"), "{error}");
        for good in [
            "serve --host 0.0.0.0 --api-key tml-x",
            "serve --host ::1",
            "serve --host localhost",
            "serve",
        ] {
            assert!(parse_line(good).is_ok(), "{good}");
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
            assert_eq!(parse_line(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn negative_number_error_names_option_and_range() {
        for (line, range) in [
            ("serve --port -1", "from 0 to 65535"),
            ("serve --session-expiry -1", "at least 1"),
            ("serve --engine scripted --latency -1", "from 0 to"),
            ("serve --engine scripted --window -1", "from 0 to"),
            ("serve --long-poll -1", "above 0"),
            ("serve --long-poll -1e-3", "above 0"),
            ("quickstart --learning-rate -1e-3", "0 or more"),
            ("quickstart --steps -1", "from 1 to 4294967295"),
            ("quickstart --steps 0", "from 1 to 4294967295"),
            ("bench train --rounds -1", "from 1 to 4294967295"),
        ] {
            let text = parse_line(line).unwrap_err().to_string();
            let option = line.split(' ').rev().nth(1).unwrap();
            assert!(text.contains(option), "{line}: {text}");
            assert!(text.contains(range), "{line}: {text}");
        }
    }
}
