//! `tinkers bench`: load on a Tinker server, and what came of it.

mod count;
mod process;
mod report;
mod sample;
mod tally;
mod train;

use std::sync::Arc;

use anyhow::{Context, Result};
use tinkers::prelude::ServiceClient;

use self::count::Exchanges;
use self::report::Report;
use crate::address::without_password;
use crate::args::{Load, ServerArgs};
use crate::close_session::close_session;
use crate::output::{self, Screen, Words};
use crate::remote;
use crate::signals::{Signals, interruptible};

/// Puts the load on and tells, unless a signal comes first. Requests that fail are counted, and make it fail in the end.
pub(crate) async fn run(load: &Load, signals: &mut Signals) -> Result<()> {
    let server = load.server();
    let words = if server.json {
        Words::Stderr
    } else {
        Words::Stdout
    };
    let screen = Screen::new(words);
    let before = process::connections();
    let exchanges = Arc::new(Exchanges::default());
    let connecting = connect(server, Arc::clone(&exchanges));
    let service = interruptible(signals, connecting).await?;
    let bench = Bench {
        service: service.clone(),
        address: without_password(server.connection.base_url()),
        exchanges,
        screen,
        sockets_before: before,
    };
    let outcome = interruptible(signals, bench.work(load)).await;
    close_session(&service, &outcome, signals).await;
    let report = outcome?;
    if server.json {
        output::json(&report)?;
    } else {
        report.show(&screen)?;
    }
    match report.failure() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

async fn connect(server: &ServerArgs, exchanges: Arc<Exchanges>) -> Result<ServiceClient> {
    let mut builder = ServiceClient::builder().layer_transport(move |below| exchanges.over(below));
    if server.http2 {
        builder = builder.http2_prior_knowledge();
    }
    remote::connect(builder, &server.connection).await
}

/// What a load is run with.
struct Bench {
    service: ServiceClient,
    /// The server's, as it may be shown.
    address: String,
    exchanges: Arc<Exchanges>,
    screen: Screen,
    /// Files and sockets of the process before it connected.
    sockets_before: Option<usize>,
}

impl Bench {
    async fn work(&self, load: &Load) -> Result<Report> {
        let model = self.model(load.server()).await?;
        match load {
            Load::Sample(args) => sample::run(self, args, model).await,
            Load::Train(args) => train::run(self, args, model).await,
        }
    }

    async fn model(&self, server: &ServerArgs) -> Result<String> {
        if let Some(model) = &server.model {
            return Ok(model.clone());
        }
        let offered = self.service.capabilities().await?.supported_models;
        let mut names = offered.into_iter().filter_map(|model| model.model_name);
        names
            .next()
            .context("the server names no model; give one with --model NAME")
    }
}

/// Token ids that every vocabulary has.
fn tokens(length: u32, start: u32) -> Vec<u32> {
    (0..length).map(|i| (start + i) % 100 + 1).collect()
}
