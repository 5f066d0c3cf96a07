//! `tinkers doctor`: reports the dialect, the missing features, the latency and the limits of a server, with advice.

mod advice;
mod clock;
mod findings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tinkers::prelude::*;
use tinkers::{Clock, FinishReason, TokioClock};
use tokio::runtime::Handle;

use self::clock::ServerClock;
use self::findings::Findings;
use crate::address::without_password;
use crate::args::DoctorArgs;
use crate::exit::{ExitCode, Failed};
use crate::output::{self, Screen, TextStream};
use crate::remote;
use crate::signals::{Signals, interruptible};

/// The maximum number of round trips that are measured.
const MAX_ROUND_TRIPS: usize = 7;
/// The time limit for measuring round trips. After this time, no further round trip is measured.
const MAX_MEASURING_TIME: Duration = Duration::from_secs(2);

/// The time limit of each step in which a server is examined, except the test pass.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit of the test pass (a forward-backward pass), including the creation of its adapter.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

/// Examines a server and prints the findings.
///
/// # Errors
///
/// If the server cannot be examined or a signal arrives. Also if the test with a forward-backward pass failed, after the findings
/// are printed.
pub(crate) async fn run(args: &DoctorArgs, signals: &mut Signals) -> Result<()> {
    let findings = interruptible(signals, Box::pin(examine(args))).await?;
    if args.json {
        output::json(&findings)?;
    } else {
        findings.show(&Screen::new(TextStream::Stdout))?;
    }
    match (&args.model, findings.pass_error) {
        (Some(model), Some(error)) => bail!("the test pass on {model} failed: {error}"),
        _ => Ok(()),
    }
}

async fn examine(args: &DoctorArgs) -> Result<Findings> {
    let clock = Arc::new(ServerClock::default());
    let layer = Arc::clone(&clock);
    let builder = ServiceClient::builder().layer_transport(move |inner| layer.layer(inner));
    let steps = Steps::new(without_password(args.connection.base_url()));
    let connecting = remote::connect(builder, &args.connection);
    let service = steps
        .run("opening a session on", STEP_TIMEOUT, connecting)
        .await??;
    let measuring = measure(&service, &steps.time, &clock);
    let (latency, skew) = steps
        .run("measuring the round trip time to", STEP_TIMEOUT, measuring)
        .await??;
    let pass = match &args.model {
        None => None,
        Some(model) => {
            let outcome = steps
                .run(
                    "running a test pass on",
                    PASS_TIMEOUT,
                    test_pass(&service, model),
                )
                .await;
            Some(outcome.and_then(|pass| pass.map_err(anyhow::Error::from)))
        }
    };
    let listing = service.capabilities();
    let offered = steps
        .run("listing the models of", STEP_TIMEOUT, listing)
        .await;
    let offered = offered.and_then(|offered| offered.map_err(anyhow::Error::from));
    let context = service.context();
    let mut findings = Findings::new(
        steps.address.clone(),
        &service.server_profile(),
        context.config(),
        offered,
        pass,
        latency,
        skew,
    );
    // A session that cannot be closed ends when it expires.
    let closing = service.close(FinishReason::Success, None);
    let _ = steps
        .run("closing the session on", STEP_TIMEOUT, closing)
        .await;
    findings.advice = advice::advice(&findings);
    Ok(findings)
}

/// A runner for the steps in which a server is examined. It limits the duration of each step and shows which step is running.
struct Steps {
    address: String,
    screen: Screen,
    time: TokioClock,
}

impl Steps {
    fn new(address: String) -> Self {
        Self {
            address,
            screen: Screen::new(TextStream::Stderr),
            time: TokioClock::new(Handle::current()),
        }
    }

    /// Runs one step of the examination of a server.
    ///
    /// # Errors
    ///
    /// If the step takes longer than `timeout`.
    async fn run<T>(
        &self,
        task: &str,
        timeout: Duration,
        step: impl Future<Output = T>,
    ) -> Result<T> {
        let _busy = self.screen.busy(format!("{task} {}", self.address))?;
        let time: &dyn Clock = &self.time;
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = time.sleep(timeout) => {
                let message = format!(
                    "no response within {} s while {task} {}; check that a Tinker server runs at this address",
                    timeout.as_secs(),
                    self.address
                );
                Err(Failed::new(ExitCode::Server, message).into())
            }
        }
    }
}

/// Measures the median round trip time on an open connection. Also returns how far the clock of the server is ahead of the local
/// clock, in seconds.
async fn measure(
    service: &ServiceClient,
    time: &dyn Clock,
    clock: &ServerClock,
) -> Result<(Duration, Option<f64>)> {
    service.health().await?;
    let start = time.now();
    let mut round_trips = Vec::with_capacity(MAX_ROUND_TRIPS);
    while round_trips.is_empty()
        || (round_trips.len() < MAX_ROUND_TRIPS && time.now().since(start) < MAX_MEASURING_TIME)
    {
        let sent = time.now();
        service.health().await?;
        round_trips.push(time.now().since(sent));
    }
    round_trips.sort_unstable();
    let median = round_trips[round_trips.len() / 2];
    Ok((median, clock.ahead_of(time.wall())))
}

/// Runs a forward-backward pass on a new adapter. A forward pass would not show which request bodies the server accepts, because a
/// forward pass in JSON is sent to another route.
async fn test_pass(service: &ServiceClient, model: &str) -> Result<(), Error> {
    let client = service.create_lora_training_client(model).rank(1).await?;
    let data = Datum::next_token(&[1, 2, 3], vec![1.0; 2])?;
    let pass = client.forward_backward([data], LossFn::CrossEntropy).await;
    // If the adapter cannot be unloaded, it is freed with the session.
    let _ = client.unload().await;
    pass.map(|_| ())
}
