//! `tinkers serve`: runs the embedded server until a signal arrives.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use tinkers_local::{AccessControl, Faults, LocalConfig, RuleCount, open_api};

use crate::args::{EngineName, ServeArgs};
use crate::blocking::run_blocking;
use crate::embedded::{self, Backend, TestHooks};
use crate::journal::JournalFile;
use crate::output;
use crate::paths;
use crate::signals::{Interrupted, Signals};

/// Runs the embedded server until a signal arrives. Then completes the saves of checkpoints and shuts the server down. A second
/// signal ends the shutdown at once.
pub(crate) async fn run(args: &ServeArgs, signals: &mut Signals) -> Result<()> {
    if args.print_openapi {
        return print_openapi(&config(args)?);
    }
    let hooks = test_hooks(args)?;
    let faults = args.faults.is_some().then(|| hooks.faults.clone());
    let backend = match args.engine {
        EngineName::Scripted => Backend::Scripted {
            latency: args.scripted.latency(),
            script: args.scripted.script(),
        },
        EngineName::Candle => {
            let data_dir = paths::data_dir(args.data_dir.as_deref())?;
            tracing::info!(data_dir = %data_dir.display(), "storing checkpoints and records");
            let seed = args.seed.unwrap_or_else(random_seed);
            tracing::info!(
                seed,
                "seed for samples and adapters without one; repeat with --seed"
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
        server = run_blocking(move || embedded::start(address, backend, config, hooks)) => server??,
    };
    output::print_line(format_args!("listening on {}", server.url()))
        .context("cannot write to stdout")?;
    signals.next().await;
    tracing::info!("shutting down");
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
        output::print_line(format_args!(
            "{rule}: applied to {struck} of {matched} matching requests"
        ))?;
    }
    Ok(())
}

/// Returns a random seed. It comes from the hashers of the standard library. The operating system seeds these hashers.
fn random_seed() -> u64 {
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
    if let Some(path) = &args.keys {
        config.access = access(path)?;
    }
    if let Some(lifetime) = args.token_exchange {
        config.access = config.access.with_token_exchange(lifetime);
    }
    if args.bearer {
        config.access = config.access.with_bearer_only();
    }
    for name in &args.require_header {
        config.access = config.access.with_required_header(name.clone());
    }
    Ok(config)
}

/// Reads the file of API keys. No error contains a key.
#[expect(
    clippy::disallowed_methods,
    reason = "the file names the environment variables that contain keys"
)]
fn access(path: &Path) -> Result<AccessControl> {
    let context = || format!("cannot use the file of API keys {}", path.display());
    let text = std::fs::read_to_string(path).with_context(context)?;
    let variable = |name: &str| std::env::var(name).ok();
    AccessControl::from_keys(&text, variable).with_context(context)
}

fn print_openapi(config: &LocalConfig) -> Result<()> {
    let document =
        open_api(config).context("cannot print the OpenAPI document: this dialect has none")?;
    let text = serde_json::to_string_pretty(&document)?;
    output::print_line(text).context("cannot write to stdout")
}

/// Reads the fault script and creates the journal file, if the options name them.
fn test_hooks(args: &ServeArgs) -> Result<TestHooks> {
    let faults = match &args.faults {
        None => Faults::new(),
        Some(path) => {
            let context = || format!("cannot use the fault script {}", path.display());
            let text = std::fs::read_to_string(path).with_context(context)?;
            Faults::from_script(&text).with_context(context)?
        }
    };
    let journal = args.journal.as_deref().map(JournalFile::create);
    Ok(TestHooks {
        faults,
        journal: journal.transpose()?,
    })
}
