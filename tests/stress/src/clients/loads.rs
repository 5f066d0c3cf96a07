//! The loads of the profiles.

use std::time::Duration;

use tokio::task::JoinSet;

use super::calls::LoadContext;
use super::monitored_client::MonitoredClient;
use crate::stopwatch::Stopwatch;

const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);
/// The interval at which the load [`churn`] creates clients.
const INTERVAL: Duration = Duration::from_millis(10);

/// Runs a steady load until its time limit has passed: `clients` clients, each with one training
/// task and `tasks` sampling tasks.
pub(crate) async fn steady(
    context: LoadContext,
    monitored: MonitoredClient,
    clients: usize,
    tasks: usize,
) {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let Some(service) = context.connected(HEARTBEAT_PERIOD).await else {
            continue;
        };
        monitored.set(&service);
        let (trainer, training_service) = (context.clone(), service.clone());
        all.spawn(async move { trainer.train(training_service).await });
        let Some(sampler) = context.sampler(&service).await else {
            continue;
        };
        for _ in 0..tasks {
            let (context, sampler) = (context.clone(), sampler.clone());
            all.spawn(async move { context.samples(sampler, 8).await });
        }
    }
    while all.join_next().await.is_some() {}
}

/// Creates clients at a fixed rate until the time limit of the load has passed. Each client
/// requests one sample and closes. Every second client closes while its sample is in flight.
pub(crate) async fn churn(context: LoadContext, monitored: MonitoredClient) {
    let mut all = JoinSet::new();
    // One client is never closed, so that the limiter can be monitored.
    let Some(service) = context.connected(HEARTBEAT_PERIOD).await else {
        return;
    };
    monitored.set(&service);
    let watch = Stopwatch::start();
    let mut created = 0;
    while (context.is_running)() {
        // Late clients are created at once, to keep the rate.
        if INTERVAL * created > watch.elapsed() {
            pause(INTERVAL / 2).await;
            continue;
        }
        created += 1;
        let leaves = created % 2 == 0;
        let context = context.clone();
        all.spawn(async move {
            if let Ok(service) = context.connect(HEARTBEAT_PERIOD).await
                && let Some(sampler) = context.sampler(&service).await
            {
                match leaves {
                    true => context.sample_and_drop(&sampler).await,
                    false => context.sample(&sampler).await,
                }
            }
        });
        while all.try_join_next().is_some() {}
    }
    while all.join_next().await.is_some() {}
}

/// Runs four waves of samples and training passes, divided among 32 sessions.
pub(crate) async fn waves(context: LoadContext, monitored: MonitoredClient) {
    let mut all = Vec::new();
    for _ in 0..32 {
        let Some(service) = context.connected(Duration::from_millis(250)).await else {
            return;
        };
        monitored.set(&service);
        let Some(training) = context.model(&service).await else {
            return;
        };
        let Some(sampler) = context.sampler(&service).await else {
            return;
        };
        all.push((service, training, sampler));
    }
    for _ in 0..4 {
        let mut wave = JoinSet::new();
        for i in 0..512 {
            let (_, training, sampler) = &all[i % all.len()];
            wave.spawn(context.sample(sampler));
            let pass = context.pass(training, 1, 16);
            wave.spawn(async move { drop(pass.await) });
        }
        while wave.join_next().await.is_some() {}
    }
}

/// Makes many large `forward_backward` calls and one optimizer step with one client.
pub(crate) async fn large_update(context: LoadContext, monitored: MonitoredClient) {
    let Some(service) = context.connected(HEARTBEAT_PERIOD).await else {
        return;
    };
    monitored.set(&service);
    let Some(training) = context.model(&service).await else {
        return;
    };
    let mut all = JoinSet::new();
    for _ in 0..208 {
        // 68 data with tokens, targets and weights for 4000 positions, of up to 4 bytes each, take
        // about 3.3 MB.
        let pass = context.pass(&training, 68, 4000);
        all.spawn(async move { drop(pass.await) });
    }
    let step = context.step(&training);
    while all.join_next().await.is_some() {}
    drop(step.await);
}

/// Runs one batch of `count` concurrent samples with one client.
pub(crate) async fn at_once(context: LoadContext, monitored: MonitoredClient, count: u32) {
    let Some(service) = context.connected(HEARTBEAT_PERIOD).await else {
        return;
    };
    monitored.set(&service);
    let Some(sampler) = context.sampler(&service).await else {
        return;
    };
    context.at_once(&sampler, count).await;
}

/// Repeats batches of 1000 concurrent samples with one client until the time limit of the load has
/// passed.
pub(crate) async fn polls(context: LoadContext, monitored: MonitoredClient) {
    let Some(service) = context.connected(HEARTBEAT_PERIOD).await else {
        return;
    };
    monitored.set(&service);
    let Some(sampler) = context.sampler(&service).await else {
        return;
    };
    context.samples(sampler, 1000).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "the load has a rate in real time"
)]
pub(crate) async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}
