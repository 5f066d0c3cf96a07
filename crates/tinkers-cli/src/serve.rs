//! `tinkers serve`: the embedded server on a port of this machine, until it is asked to end.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tinkers_local::{Faults, LocalConfig, RuleCount, open_api};

use crate::args::{EngineName, ServeArgs};
use crate::aside::aside;
use crate::embedded::{self, Backend, Tools};
use crate::journal::JournalFile;
use crate::output;
use crate::paths;
use crate::signals::{Interrupted, Signals};

/// Serves until a signal comes, then finishes saves that have begun; a second signal ends it at once.
pub(crate) async fn run(args: &ServeArgs, signals: &mut Signals) -> Result<()> {
    if args.print_openapi {
        return print_openapi(&config(args)?);
    }
    let tools = tools(args)?;
    let faults = args.faults.is_some().then(|| tools.faults.clone());
    let backend = match args.engine {
        EngineName::Scripted => Backend::Scripted {
            latency: args.scripted.latency(),
            script: args.scripted.script(),
        },
        EngineName::Candle => {
            let data_dir = paths::data_dir(args.data_dir.as_deref())?;
            tracing::info!(data_dir = %data_dir.display(), "checkpoints are kept here");
            let seed = args.seed.unwrap_or_else(seed_of_the_system);
            tracing::info!(
                seed,
                "what has no seed of its own draws from this one; --seed repeats it"
            );
            Backend::Model {
                model: args
                    .model_dir
                    .clone()
                    .map(|dir| (dir, args.model_name.clone())),
                data_dir,
                seed,
            }
        }
    };
    let config = config(args)?;
    let address = SocketAddr::new(args.host.ip(), args.port);
    let server = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        // A large model takes its time to load.
        server = aside(move || embedded::start(address, backend, config, tools)) => server??,
    };
    output::announce(format_args!("listening on {}", server.url())).context("stdout is closed")?;
    signals.next().await;
    tracing::info!("ending");
    tokio::select! {
        biased;
        () = signals.next() => return Err(Interrupted.into()),
        ended = server.shutdown() => ended?,
    }
    for count in faults.iter().flat_map(Faults::counts) {
        let RuleCount {
            rule,
            matched,
            struck,
            ..
        } = count;
        output::announce(format_args!("{rule} struck {struck} of {matched}"))?;
    }
    Ok(())
}

/// A seed that no other start has: the standard library keys its hashers by the operating system's random numbers.
fn seed_of_the_system() -> u64 {
    RandomState::new().hash_one("seed")
}

fn config(args: &ServeArgs) -> Result<LocalConfig> {
    let mut config = LocalConfig::default();
    config.session_polls = !args.per_request_polls;
    args.dialect.apply(&mut config);
    if args.engine == EngineName::Scripted {
        config.window = Some(args.scripted.window()?);
    }
    if let Some(expiry) = args.session_expiry {
        config.session_expiry = expiry;
    }
    if let Some(key) = &args.api_key {
        config = config.with_api_key(key.expose());
    }
    Ok(config)
}

fn print_openapi(config: &LocalConfig) -> Result<()> {
    let document = open_api(config).context("a server of this dialect has no OpenAPI document")?;
    let text = serde_json::to_string_pretty(&document)?;
    output::announce(text).context("stdout is closed")
}

/// What is wrong with them is said before anything is started.
fn tools(args: &ServeArgs) -> Result<Tools> {
    let faults = match &args.faults {
        None => Faults::new(),
        Some(path) => {
            let wrong = || format!("the fault script {} cannot be used", path.display());
            let text = std::fs::read_to_string(path).with_context(wrong)?;
            Faults::from_script(&text).with_context(wrong)?
        }
    };
    let journal = args.journal.as_deref().map(JournalFile::create);
    Ok(Tools {
        faults,
        journal: journal.transpose()?,
    })
}
