//! The load of sample requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tinkers::SampleResponse;
use tinkers::prelude::SamplingClient;
use tokio::task::JoinSet;

use super::report::Report;
use super::stats::LoadStats;
use super::{Bench, tokens};
use crate::args::SampleArgs;
use crate::layout::labelled;
use crate::stopwatch::Stopwatch;

/// The number of different prompts. If all requests had the same prompt, the server could use its prefix cache.
const DISTINCT_PROMPTS: u32 = 97;

/// Runs the sampling load and returns its report.
pub(crate) async fn run(bench: &Bench, args: &SampleArgs, model: String) -> Result<Report> {
    let requests = args.requests.get();
    let sampler = bench.service.create_sampling_client(&model).await?;
    let rows = [
        ("server", bench.address.clone()),
        ("model", model.clone()),
        (
            "load",
            format!(
                "{requests} requests, {} concurrent, with prompts of {} tokens and {} samples of at most {} tokens",
                args.effective_concurrency(),
                args.prompt_len,
                args.num_samples,
                args.max_tokens
            ),
        ),
    ];
    let screen = &bench.screen;
    screen.line(labelled(&rows, 0, screen.width()))?;
    let _busy = screen.busy("sampling")?;
    let (stats, measurement) = LoadStats::start(bench)?;
    let load = sample_all(sampler, args, &stats);
    let (outcome, connections) = measurement.watch(bench, load).await;
    outcome?;
    Ok(measurement.report(bench, "sample", model, requests.into(), connections))
}

/// Sends all requests. One worker sends one request at a time, so there are as many workers as concurrent requests.
async fn sample_all(sampler: SamplingClient, args: &SampleArgs, stats: &LoadStats) -> Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..args.effective_concurrency() {
        let worker = Worker {
            sampler: sampler.clone(),
            next: Arc::clone(&next),
            stats: stats.clone(),
            requests: args.requests.get(),
            prompt_len: args.prompt_len.get(),
            num_samples: args.num_samples.get(),
            max_tokens: args.max_tokens.get(),
        };
        workers.spawn(worker.run());
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("a worker task failed")?;
    }
    Ok(())
}

struct Worker {
    sampler: SamplingClient,
    next: Arc<AtomicU32>,
    stats: LoadStats,
    requests: u32,
    prompt_len: u32,
    num_samples: u32,
    max_tokens: u32,
}

impl Worker {
    async fn run(self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return;
            }
            let watch = Stopwatch::start();
            let outcome = self
                .sampler
                .sample(tokens(self.prompt_len, number % DISTINCT_PROMPTS))
                .num_samples(self.num_samples)
                .max_tokens(self.max_tokens)
                .await;
            let outcome = outcome.map(|response| sampled_tokens(&response));
            self.stats.record(watch.seconds(), outcome);
        }
    }
}

fn sampled_tokens(response: &SampleResponse) -> u64 {
    let sequences = response.sequences.iter();
    sequences.map(|sequence| sequence.tokens.len() as u64).sum()
}
