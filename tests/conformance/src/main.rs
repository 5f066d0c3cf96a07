//! The program behind `cargo xtask conformance`.
#![expect(clippy::print_stdout, reason = "the program prints its report")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use tinkers::BodyFormat;
use tinkers::prelude::*;
use tinkers_conformance::{Connect, Context, Limits, ModelKind, Profile, Recorder, Settings, run};

/// Run the conformance suite against a Tinker server
///
/// The exit status is 0 if no check failed, 1 if a check failed, and 2 if no session could be opened. A feature that the server
/// does not offer is not a failure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask conformance")]
struct Options {
    /// The base URL of the server, such as http://127.0.0.1:8000
    #[arg(long)]
    base_url: String,
    /// The API key [env: TINKER_API_KEY] [default: a dummy key]
    #[arg(long)]
    api_key: Option<String>,
    /// The base model to train and sample from
    #[arg(long)]
    model: String,
    /// The set of checks to run
    #[arg(long, value_enum, default_value_t = Which::Core)]
    profile: Which,
    /// Run only the checks whose name contains this; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// The id of a project of yours, for the checks of the profile rest that move a session to a project and copy a checkpoint to it
    #[arg(long)]
    project: Option<String>,
    /// The LoRA rank
    #[arg(long, default_value_t = 8)]
    rank: u32,
    /// Use token ids from 3 to below this number
    #[arg(long, default_value_t = 96)]
    vocabulary: u32,
    /// The body format of passes [default: found out by the client]
    #[arg(long, value_enum)]
    body_format: Option<Format>,
    /// A header that the server requires in each request, as `NAME: VALUE`; may be repeated
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The server has a mock instead of a model: skip comparisons of results
    #[arg(long)]
    mock: bool,
    /// The time limit of a check in seconds
    #[arg(long, default_value_t = 180)]
    limit: u64,
    /// Print one JSON object at the end instead of lines
    #[arg(long)]
    json: bool,
    /// Also write a Markdown table to this file
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Features that every training loop needs
    Core,
    /// All features of training and sampling
    Full,
    /// The management of sessions, runs and checkpoints, usage, storage and logs
    Rest,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// application/x-protobuf
    Protobuf,
    /// application/json
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    tinkers::block_on(suite(options))
}

async fn suite(options: Options) -> ExitCode {
    let mut settings = Settings::new(&options.model);
    settings.rank = options.rank;
    settings.vocabulary = options.vocabulary;
    settings.project.clone_from(&options.project);
    if options.mock {
        settings.model_kind = ModelKind::Mock;
    }
    let context = Context::new(connect(&options), settings, stamp());
    let service = match context.service().await {
        Ok(service) => service,
        Err(why) => {
            println!("cannot open a session: {why:?}");
            return ExitCode::from(2);
        }
    };
    let time = Arc::clone(&service.context().caller().time);
    let profile = match options.profile {
        Which::Core => Profile::Core,
        Which::Full => Profile::Full,
        Which::Rest => Profile::Rest,
    };
    let limits = Limits {
        check: Duration::from_secs(options.limit),
    };
    let on_row = |row: &tinkers_conformance::Row| {
        if !options.json {
            println!("{row}");
        }
    };
    let report = run(&context, &*time, profile, &options.only, limits, on_row).await;
    if options.json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.summary());
    }
    if let Some(path) = &options.markdown
        && let Err(error) = std::fs::write(path, report.to_markdown())
    {
        println!("cannot write {}: {error}", path.display());
        return ExitCode::from(2);
    }
    if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn connect(options: &Options) -> Connect {
    let environment = tinkers::Environment::read();
    let key = options.api_key.as_deref().or(environment.api_key());
    let key = key.unwrap_or("tml-conformance").to_owned();
    let url = options.base_url.clone();
    let format = options.body_format.map(|format| match format {
        Format::Protobuf => BodyFormat::Protobuf,
        Format::Json => BodyFormat::Json,
    });
    let headers = options.headers.clone();
    Arc::new(move |recorder: Recorder| {
        let mut builder = ServiceClient::builder()
            .without_environment()
            .base_url(&url)
            .api_key(&key)
            .default_headers(headers.clone())
            .layer_transport(move |below| recorder.wrap(below));
        if let Some(format) = format {
            builder = builder.body_format(format);
        }
        Box::pin(builder.connect())
    })
}

/// Parses a header in the form `NAME: VALUE`.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected a header such as `X-Request-Id: 1`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Returns a suffix that is different in each run, so that checkpoint names do not collide with
/// those of other runs.
#[expect(clippy::disallowed_methods, reason = "the suffix differs between runs")]
fn stamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    format!(
        "{:x}",
        since.map_or(0, |since| since.as_millis() & 0xffff_ffff)
    )
}
