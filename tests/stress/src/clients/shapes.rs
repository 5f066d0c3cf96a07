//! What the clients do, by the profile's shape.

use std::time::Duration;

use tokio::task::JoinSet;

use super::in_use::InUse;
use super::load::Ground;
use crate::watch::Stopwatch;

const USUAL_BEAT: Duration = Duration::from_secs(10);
/// A client of the churn is made so often.
const EVERY: Duration = Duration::from_millis(10);

/// So many clients, each with one task that trains and `tasks` that sample.
pub(crate) async fn steady(ground: Ground, in_use: InUse, clients: usize, tasks: usize) {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let Some(service) = ground.connected(USUAL_BEAT).await else {
            continue;
        };
        in_use.show(&service);
        let (trainer, trained) = (ground.clone(), service.clone());
        all.spawn(async move { trainer.trains(trained).await });
        let Some(sampler) = ground.sampler(&service).await else {
            continue;
        };
        for _ in 0..tasks {
            let (ground, sampler) = (ground.clone(), sampler.clone());
            all.spawn(async move { ground.samples(sampler, 8).await });
        }
    }
    while all.join_next().await.is_some() {}
}

/// A client every so often, which samples once and goes; every other one while its sample is under way.
pub(crate) async fn churn(ground: Ground, in_use: InUse) {
    let mut all = JoinSet::new();
    // One stays, so that there is somebody to ask for the limits.
    let Some(service) = ground.connected(USUAL_BEAT).await else {
        return;
    };
    in_use.show(&service);
    let watch = Stopwatch::start();
    let mut made = 0;
    while (ground.goes_on)() {
        // Those that are late come at once.
        if EVERY * made > watch.elapsed() {
            pause(EVERY / 2).await;
            continue;
        }
        made += 1;
        let leaves = made % 2 == 0;
        let ground = ground.clone();
        all.spawn(async move {
            if let Ok(service) = ground.connect(USUAL_BEAT).await
                && let Some(sampler) = ground.sampler(&service).await
            {
                match leaves {
                    true => ground.sample_and_leave(&sampler).await,
                    false => ground.sample(&sampler).await,
                }
            }
        });
        while all.try_join_next().is_some() {}
    }
    while all.join_next().await.is_some() {}
}

/// Four waves over 32 sessions.
pub(crate) async fn waves(ground: Ground, in_use: InUse) {
    let mut all = Vec::new();
    for _ in 0..32 {
        let Some(service) = ground.connected(Duration::from_millis(250)).await else {
            return;
        };
        in_use.show(&service);
        let Some(training) = ground.model(&service).await else {
            return;
        };
        let Some(sampler) = ground.sampler(&service).await else {
            return;
        };
        all.push((service, training, sampler));
    }
    for _ in 0..4 {
        let mut wave = JoinSet::new();
        for i in 0..512 {
            let (_, training, sampler) = &all[i % all.len()];
            wave.spawn(ground.sample(sampler));
            let pass = ground.pass(training, 1, 16);
            wave.spawn(async move { drop(pass.await) });
        }
        while wave.join_next().await.is_some() {}
    }
}

/// One update of many large passes.
pub(crate) async fn large_update(ground: Ground, in_use: InUse) {
    let Some(service) = ground.connected(USUAL_BEAT).await else {
        return;
    };
    in_use.show(&service);
    let Some(training) = ground.model(&service).await else {
        return;
    };
    let mut all = JoinSet::new();
    for _ in 0..208 {
        // Tokens, targets and weights of 4000 positions, 4 bytes each or a little less, 68 times.
        let pass = ground.pass(&training, 68, 4000);
        all.spawn(async move { drop(pass.await) });
    }
    let step = ground.step(&training);
    while all.join_next().await.is_some() {}
    drop(step.await);
}

/// So many samples at once, and no more.
pub(crate) async fn at_once(ground: Ground, in_use: InUse, count: u32) {
    let Some(service) = ground.connected(USUAL_BEAT).await else {
        return;
    };
    in_use.show(&service);
    let Some(sampler) = ground.sampler(&service).await else {
        return;
    };
    ground.at_once(&sampler, count).await;
}

/// A thousand samples at a time, to the end.
pub(crate) async fn polls(ground: Ground, in_use: InUse) {
    let Some(service) = ground.connected(USUAL_BEAT).await else {
        return;
    };
    in_use.show(&service);
    let Some(sampler) = ground.sampler(&service).await else {
        return;
    };
    ground.samples(sampler, 1000).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "a load of so many clients in a second of real time"
)]
pub(crate) async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}
