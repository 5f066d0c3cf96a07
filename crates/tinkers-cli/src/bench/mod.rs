//! `tinkers bench`: puts load on a Tinker server and measures the server and the client.

mod exchanges;
mod process;
mod report;
mod sample;
mod stats;
mod train;

use std::sync::Arc;

use anyhow::{Context, Result};
use tinkers::HttpVersions;
use tinkers::prelude::ServiceClient;

use self::exchanges::ExchangeCounters;
use self::report::Report;
use crate::address::without_password;
use crate::args::{Load, ServerArgs};
use crate::close_session::close_session;
use crate::output::{self, Screen, TextStream};
use crate::remote;
use crate::signals::{Signals, interruptible};

/// Runs the bench load and prints the report.
///
/// # Errors
///
/// If the load cannot be run or a signal arrives. Also if requests failed, after the report is printed.
pub(crate) async fn run(load: &Load, signals: &mut Signals) -> Result<()> {
    let server = load.server();
    let screen = Screen::new(if server.json {
        TextStream::Stderr
    } else {
        TextStream::Stdout
    });
    let open_files_before = process::open_files();
    let exchanges = Arc::new(ExchangeCounters::default());
    let connecting = connect(server, Arc::clone(&exchanges));
    let service = interruptible(signals, connecting).await?;
    let bench = Bench {
        service: service.clone(),
        address: without_password(server.connection.base_url()),
        exchanges,
        screen,
        open_files_before,
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

async fn connect(server: &ServerArgs, exchanges: Arc<ExchangeCounters>) -> Result<ServiceClient> {
    let mut builder = ServiceClient::builder().layer_transport(move |inner| exchanges.layer(inner));
    if server.http2 {
        builder = builder.http_versions(HttpVersions::Http2PriorKnowledge);
    }
    remote::connect(builder, &server.connection).await
}

/// The server connection and the request counters of a bench run. The sampling load and the training load both use them.
struct Bench {
    service: ServiceClient,
    /// The URL of the server without credentials.
    address: String,
    exchanges: Arc<ExchangeCounters>,
    screen: Screen,
    /// The number of open files of this process before it connected to the server.
    open_files_before: Option<usize>,
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
            .context("the server lists no models: set --model NAME")
    }
}

/// Returns `length` token ids between 1 and 100. Every vocabulary contains these ids. The ids count up from an id that depends on
/// `start`, and continue with 1 after 100.
fn tokens(length: u32, start: u32) -> Vec<u32> {
    (0..length).map(|i| (start + i) % 100 + 1).collect()
}
