//! `tinkers doctor`: reports a server's dialect, missing routes, latency and limits, with advice.

mod advice;
mod dates;
mod findings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tinkers::prelude::*;
use tinkers::{FinishReason, Time, TokioTime};
use tokio::runtime::Handle;

use self::dates::Dates;
use self::findings::Findings;
use crate::address::without_password;
use crate::args::DoctorArgs;
use crate::output::{self, Screen, Words};
use crate::remote;
use crate::signals::{Signals, interruptible};

/// The most measurements of the round trip, and the longest time that they take.
const ROUNDS: usize = 7;
const MEASURED: Duration = Duration::from_secs(2);

/// The timeout of each step.
const STEP: Duration = Duration::from_secs(5);
/// The timeout of a pass through a new adapter.
const PASS: Duration = Duration::from_secs(30);

/// Examines a server and shows the findings, unless a signal comes first.
///
/// # Errors
/// When the server cannot be asked, or a pass that was asked for fails; the findings are shown before that.
pub(crate) async fn run(args: &DoctorArgs, signals: &mut Signals) -> Result<()> {
    let findings = interruptible(signals, Box::pin(examine(args))).await?;
    if args.json {
        output::json(&findings)?;
    } else {
        findings.show(&Screen::new(Words::Stdout))?;
    }
    match (&args.model, findings.pass_error) {
        (Some(model), Some(error)) => bail!("the pass through {model} failed: {error}"),
        _ => Ok(()),
    }
}

async fn examine(args: &DoctorArgs) -> Result<Findings> {
    let dates = Arc::new(Dates::default());
    let layer = Arc::clone(&dates);
    let builder = ServiceClient::builder().layer_transport(move |below| layer.over(below));
    let steps = Steps::new(without_password(args.connection.base_url()));
    let connecting = remote::connect(builder, &args.connection);
    let service = steps
        .run("opening a session on", STEP, connecting)
        .await??;
    let measuring = measure(&service, &steps.time, &dates);
    let (latency, skew) = steps
        .run("measuring the round trip to", STEP, measuring)
        .await??;
    let pass = match &args.model {
        None => None,
        Some(model) => {
            let tried = steps
                .run("trying a pass on", PASS, try_pass(&service, model))
                .await;
            Some(tried.and_then(|pass| pass.map_err(anyhow::Error::from)))
        }
    };
    let asking = service.capabilities();
    let offered = steps.run("asking for the models of", STEP, asking).await;
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
    // If this fails, the session expires on the server.
    let closing = service.close(FinishReason::Success, None);
    let _ = steps.run("closing the session on", STEP, closing).await;
    findings.advice = advice::advice(&findings);
    Ok(findings)
}

/// Shows the current step and bounds its time.
struct Steps {
    address: String,
    screen: Screen,
    time: TokioTime,
}

impl Steps {
    fn new(address: String) -> Self {
        Self {
            address,
            screen: Screen::new(Words::Stderr),
            time: TokioTime::new(Handle::current()),
        }
    }

    /// Runs one step.
    ///
    /// # Errors
    /// When it takes longer than `bound`.
    async fn run<T>(
        &self,
        what: &str,
        bound: Duration,
        step: impl Future<Output = T>,
    ) -> Result<T> {
        let _busy = self.screen.busy(format!("{what} {}", self.address))?;
        let time: &dyn Time = &self.time;
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = time.sleep(bound) => bail!(
                "no answer within {} s while {what} {}; check the address, and that a Tinker server runs there",
                bound.as_secs(),
                self.address
            ),
        }
    }
}

/// The median of some round trips on a connection that is open, and how far the server's clock is ahead of this one, in seconds.
async fn measure(
    service: &ServiceClient,
    time: &dyn Time,
    dates: &Dates,
) -> Result<(Duration, Option<f64>)> {
    service.health().await?;
    let start = time.now();
    let mut taken = Vec::with_capacity(ROUNDS);
    // One at least, and fewer where the server is far away.
    while taken.is_empty() || (taken.len() < ROUNDS && time.now().since(start) < MEASURED) {
        let began = time.now();
        service.health().await?;
        taken.push(time.now().since(began));
    }
    taken.sort_unstable();
    Ok((taken[taken.len() / 2], dates.ahead_of(time.wall())))
}

/// One pass through an adapter of its own, with gradients: a forward pass in JSON has another route and tells less.
async fn try_pass(service: &ServiceClient, model: &str) -> Result<(), Error> {
    let client = service.lora_training(model).rank(1).create().await?;
    let data = Datum::next_token(&[1, 2, 3], vec![1.0; 2])?;
    let pass = client.forward_backward([data], LossFn::CrossEntropy).await;
    // If this fails, the model is unloaded with the session.
    let _ = client.unload().await;
    pass.map(|_| ())
}
