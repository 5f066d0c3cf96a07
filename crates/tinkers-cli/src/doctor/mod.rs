//! `tinkers doctor`: which dialect a server speaks, what it lacks, how far away it is, and what to do about it.

mod advice;
mod dates;
mod findings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tinkers::prelude::*;
use tinkers::{FinishReason, Time};

use self::dates::Dates;
use self::findings::Findings;
use crate::address::without_password;
use crate::args::DoctorArgs;
use crate::output::{self, Screen, Words};
use crate::remote;
use crate::signals::{Interrupted, Signals};

/// How often the way to the server is measured.
const ROUNDS: usize = 7;

/// Asks, measures and tells, unless a signal comes first.
pub(crate) async fn run(args: &DoctorArgs, signals: &mut Signals) -> Result<()> {
    let findings = tokio::select! {
        biased;
        () = signals.next() => return Err(Interrupted.into()),
        findings = examine(args) => findings?,
    };
    if args.json {
        return output::json(&findings);
    }
    findings.show(&Screen::new(Words::Stdout))?;
    Ok(())
}

async fn examine(args: &DoctorArgs) -> Result<Findings> {
    let dates = Arc::new(Dates::default());
    let layer = Arc::clone(&dates);
    let builder = ServiceClient::builder().layer_transport(move |below| layer.over(below));
    let service = remote::connect(builder, &args.connection).await?;
    let time = Arc::clone(&service.context().caller().time);
    let (latency, skew) = measure(&service, &*time, &dates).await?;
    let pass = match &args.model {
        None => None,
        Some(model) => Some(try_pass(&service, model).await),
    };
    let offered = service.capabilities().await;
    let context = service.context();
    let findings = Findings::new(
        without_password(&args.connection.base_url),
        &service.server_profile(),
        context.config(),
        offered,
        pass,
        latency,
        skew,
    );
    // A server that cannot be told finds out by itself.
    let _ = service.close(FinishReason::Success, None).await;
    Ok(findings)
}

/// The median of some round trips on a connection that is open, and how far the server's clock is ahead of this one, in seconds.
async fn measure(
    service: &ServiceClient,
    time: &dyn Time,
    dates: &Dates,
) -> Result<(Duration, Option<f64>)> {
    service.health().await?;
    let mut taken = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = time.now();
        service.health().await?;
        taken.push(time.now().since(began));
    }
    taken.sort_unstable();
    Ok((taken[ROUNDS / 2], dates.ahead_of(time.wall())))
}

/// One pass through an adapter of its own, with gradients: a forward pass in JSON has another route and tells less.
async fn try_pass(service: &ServiceClient, model: &str) -> Result<(), Error> {
    let client = service.lora_training(model).rank(1).create().await?;
    let data = Datum::next_token(&[1, 2, 3], vec![1.0; 2])?;
    let pass = client.forward_backward([data], LossFn::CrossEntropy).await;
    // One that cannot be freed goes with the session.
    let _ = client.unload().await;
    pass.map(|_| ())
}
