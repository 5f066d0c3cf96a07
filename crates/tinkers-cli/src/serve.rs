//! `tinkers serve`: the embedded server on a port of this machine, until it is asked to end.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tinkers_local::LocalConfig;

use crate::args::{EngineName, ServeArgs};
use crate::aside::aside;
use crate::embedded::{self, Backend};
use crate::output;
use crate::paths;
use crate::signals::Signals;

/// Serves until a signal comes, then lets what is under way finish; a second signal ends it at once.
pub(crate) async fn run(args: &ServeArgs, signals: &mut Signals) -> Result<()> {
    let backend = match args.engine {
        EngineName::Scripted => Backend::Scripted {
            latency: args.scripted.latency(),
            script: args.scripted.script(),
        },
        EngineName::Candle => {
            let data_dir = paths::data_dir(args.data_dir.as_deref())?;
            tracing::info!(data_dir = %data_dir.display(), "checkpoints are kept here");
            Backend::Model {
                model_dir: args.model_dir.clone(),
                data_dir,
            }
        }
    };
    let mut config = LocalConfig::default();
    config.session_polls = !args.per_request_polls;
    if args.engine == EngineName::Scripted {
        config.window = Some(args.scripted.window()?);
    }
    if let Some(key) = &args.api_key {
        config = config.with_api_key(key.expose());
    }
    let address = SocketAddr::new(args.host.ip(), args.port);
    let server = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        // A large model takes its time to load.
        server = aside(move || embedded::start(address, backend, config)) => server??,
    };
    output::announce(format_args!("listening on {}", server.url())).context("stdout is closed")?;
    signals.next().await;
    tracing::info!("ending");
    tokio::select! {
        biased;
        () = signals.next() => {}
        ended = aside(move || server.shutdown()) => ended?,
    }
    Ok(())
}
