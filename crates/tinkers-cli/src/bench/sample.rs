//! The load of samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tinkers::SampleResponse;
use tinkers::prelude::SamplingClient;
use tokio::task::JoinSet;

use super::report::Report;
use super::tally::Tally;
use super::{Bench, tokens};
use crate::args::SampleArgs;
use crate::layout::labelled;
use crate::stopwatch::Stopwatch;

/// The same prompt for all tells more of the server's cache than of the server, so this many differ.
const PROMPTS: u32 = 97;

/// Samples as the arguments say.
pub(crate) async fn run(bench: &Bench, args: &SampleArgs, model: String) -> Result<Report> {
    let requests = args.requests.get();
    let sampler = bench.service.sampling(&model).create().await?;
    let rows = [
        ("server", bench.address.clone()),
        ("model", model.clone()),
        (
            "load",
            format!(
                "{requests} requests, {} at once, prompts of {} tokens, at most {} x {} tokens back",
                args.at_once(),
                args.prompt_len,
                args.num_samples,
                args.max_tokens
            ),
        ),
    ];
    let screen = &bench.screen;
    screen.line(labelled(&rows, 0, screen.width()))?;
    let _busy = screen.busy("sampling")?;
    let (tally, start) = Tally::start(bench)?;
    let load = all(sampler, args, &tally);
    let (done, connections) = start.watch(bench, load).await;
    done?;
    Ok(start.report(bench, "sample", model, requests.into(), connections))
}

/// As many workers as requests may be under way; each takes the next request when its own is done.
async fn all(sampler: SamplingClient, args: &SampleArgs, tally: &Tally) -> Result<()> {
    let next = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..args.at_once() {
        let worker = Worker {
            sampler: sampler.clone(),
            next: Arc::clone(&next),
            tally: tally.clone(),
            requests: args.requests.get(),
            prompt_len: args.prompt_len.get(),
            num_samples: args.num_samples.get(),
            max_tokens: args.max_tokens.get(),
        };
        workers.spawn(worker.work());
    }
    while let Some(ended) = workers.join_next().await {
        ended.context("a worker ended early")?;
    }
    Ok(())
}

struct Worker {
    sampler: SamplingClient,
    next: Arc<AtomicU32>,
    tally: Tally,
    requests: u32,
    prompt_len: u32,
    num_samples: u32,
    max_tokens: u32,
}

impl Worker {
    async fn work(self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return;
            }
            let watch = Stopwatch::start();
            let outcome = self
                .sampler
                .sample(tokens(self.prompt_len, number % PROMPTS))
                .num_samples(self.num_samples)
                .max_tokens(self.max_tokens)
                .await;
            let outcome = outcome.map(|response| sampled(&response));
            self.tally.ended(watch.seconds(), outcome);
        }
    }
}

fn sampled(response: &SampleResponse) -> u64 {
    let sequences = response.sequences.iter();
    sequences.map(|sequence| sequence.tokens.len() as u64).sum()
}
