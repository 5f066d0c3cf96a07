//! `cargo xtask conformance`: the suite over a server, as a matrix.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use tinkers::prelude::*;
use tinkers_conformance::{Connect, Context, Engine, Limits, Profile, Recorder, Setting, run};

/// Runs the conformance suite over a Tinker server.
///
/// The exit status is 0 when nothing failed, 1 when something did, and 2 when the server could not be asked. What a server does not
/// offer is no failure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask conformance")]
struct Options {
    /// The server, such as http://127.0.0.1:8000.
    #[arg(long)]
    base_url: String,
    /// Its key [env: TINKER_API_KEY]; a server that takes any gets a dummy.
    #[arg(long)]
    api_key: Option<String>,
    /// The base model to train and to sample from.
    #[arg(long)]
    model: String,
    /// What is checked.
    #[arg(long, value_enum, default_value_t = Which::Core)]
    profile: Which,
    /// Only the checks whose name has this in it.
    #[arg(long)]
    only: Vec<String>,
    /// The rank of adapters.
    #[arg(long, default_value_t = 8)]
    rank: u32,
    /// Tokens from 3 up to here are used.
    #[arg(long, default_value_t = 96)]
    vocabulary: u32,
    /// There is a mock in place of a model: what was learnt is not compared, and what needs it is not on offer.
    #[arg(long)]
    mock: bool,
    /// Seconds that one check may take.
    #[arg(long, default_value_t = 180)]
    limit: u64,
    /// Prints one JSON object at the end in place of lines.
    #[arg(long)]
    json: bool,
    /// Also writes a table in Markdown here.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// What every training loop needs.
    Core,
    /// The rest of the API too.
    Full,
}

fn main() -> ExitCode {
    let options = Options::parse();
    tinkers::block_on(suite(options))
}

async fn suite(options: Options) -> ExitCode {
    let mut setting = Setting::of(&options.model);
    setting.rank = options.rank;
    setting.vocabulary = options.vocabulary;
    if options.mock {
        setting.engine = Engine::Mock;
    }
    let context = Context::new(connect(&options), setting, stamp());
    let service = match context.service().await {
        Ok(service) => service,
        Err(why) => {
            println!("no session can be opened: {why:?}");
            return ExitCode::from(2);
        }
    };
    let time = Arc::clone(&service.context().caller().time);
    let profile = match options.profile {
        Which::Core => Profile::Core,
        Which::Full => Profile::Full,
    };
    let limits = Limits {
        check: Duration::from_secs(options.limit),
    };
    let told = |row: &tinkers_conformance::Row| {
        if !options.json {
            println!("{row}");
        }
    };
    let report = run(&context, &*time, profile, &options.only, limits, told).await;
    if options.json {
        println!("{}", report.to_json());
    } else {
        println!("{}", report.summary());
    }
    if let Some(path) = &options.markdown
        && let Err(error) = std::fs::write(path, report.to_markdown())
    {
        println!("{} cannot be written: {error}", path.display());
        return ExitCode::from(2);
    }
    if report.holds() {
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
    Arc::new(move |recorder: Recorder| {
        let builder = ServiceClient::builder()
            .without_environment()
            .base_url(&url)
            .api_key(&key)
            .layer_transport(move |below| recorder.over(below));
        Box::pin(builder.connect())
    })
}

/// Tells the names of this run from those of others.
#[expect(clippy::disallowed_methods, reason = "a name that no other run had")]
fn stamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    format!(
        "{:x}",
        since.map_or(0, |since| since.as_millis() & 0xffff_ffff)
    )
}
