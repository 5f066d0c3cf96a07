//! The loop: submit, poll until the protobuf result is there, again.
#![expect(
    clippy::disallowed_methods,
    reason = "a measure of real time on real sockets, which decides nothing"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tinkers::FinishReason;
use tokio::task::JoinSet;

use crate::record::{Recorded, Template, record, request_id};
use crate::wire::{Address, Sender};

/// Streams on one HTTP/2 connection, as the client has it.
const STREAMS: u32 = 50;

/// An hour in microseconds: what takes longer counts as that long.
const LONGEST: u64 = 3600 * 1_000_000;

/// How much of what.
#[derive(Clone)]
pub struct Load {
    /// The server, without TLS.
    pub base_url: String,
    /// The key that is sent.
    pub api_key: String,
    /// Samples in all.
    pub requests: u32,
    /// Samples under way at once.
    pub concurrency: u32,
    /// Tokens in each prompt.
    pub prompt_len: u32,
    /// The most tokens in each sample.
    pub max_tokens: u32,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
}

/// Runs it; what it came to, under the names that `tinkers bench sample --json` uses.
///
/// # Errors
/// When the server cannot be reached, or answers anything but a result.
pub async fn run(load: Load) -> Result<Value> {
    ensure!(load.requests > 0, "--requests: expected at least 1");
    ensure!(load.concurrency > 0, "--concurrency: expected at least 1");
    let recorded = record(&load).await?;
    let workers = load.concurrency.min(load.requests);
    let address = Address::parse(&load.base_url)?;
    let (senders, connections) = connect(&address, &load, workers).await?;
    let work = Arc::new(Work {
        address,
        submit: recorded.submit.clone(),
        poll: recorded.poll.clone(),
        first_seq: recorded.next_seq,
        next: AtomicU32::new(0),
        requests: load.requests,
    });
    let mut running = JoinSet::new();
    let (cpu, watch) = (cpu(), Instant::now());
    for pair in senders {
        running.spawn(worker(Arc::clone(&work), pair));
    }
    let mut micros = Histogram::<u64>::new_with_bounds(1, LONGEST, 3)?;
    let mut bytes = 0;
    while let Some(ended) = running.join_next().await {
        let (latencies, received) = ended??;
        bytes += received;
        for latency in latencies {
            micros.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }
    let seconds = watch.elapsed().as_secs_f64();
    let used = self::cpu()
        .zip(cpu)
        .map(|(now, before)| (now - before).as_secs_f64());
    close(recorded).await;
    let ms = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(json!({
        "load": "bare",
        "requests": load.requests,
        "seconds": seconds,
        "requests_per_second": f64::from(load.requests) / seconds,
        "cpu_seconds": used,
        "cpu_us_per_request": used.map(|used| used * 1e6 / f64::from(load.requests)),
        "latency_ms": {
            "mean": micros.mean() / 1000.0,
            "p50": ms(0.5),
            "p90": ms(0.9),
            "p99": ms(0.99),
            "max": micros.max() as f64 / 1000.0,
        },
        "connections": connections,
        "result_bytes": bytes,
    }))
}

async fn close(recorded: Recorded) {
    // A server that cannot be told finds out by itself.
    let _ = recorded.service.close(FinishReason::Success, None).await;
}

/// A sender to submit on and one to poll on.
struct Pair {
    submit: Sender,
    poll: Sender,
}

/// A pair for each worker, and how many connections that makes.
async fn connect(address: &Address, load: &Load, workers: u32) -> Result<(Vec<Pair>, usize)> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut connections = 0;
    for worker in 0..workers {
        let shared = match pairs.last() {
            Some(last) if !worker.is_multiple_of(STREAMS) => {
                last.submit.share().zip(last.poll.share())
            }
            _ => None,
        };
        let (submit, poll) = match shared {
            Some(shared) => shared,
            None => {
                connections += 2;
                (open(address, load).await?, open(address, load).await?)
            }
        };
        pairs.push(Pair { submit, poll });
    }
    Ok((pairs, connections))
}

async fn open(address: &Address, load: &Load) -> Result<Sender> {
    if load.http2 {
        Sender::shared(address).await
    } else {
        Sender::single(address).await
    }
}

struct Work {
    address: Address,
    submit: Template,
    poll: Template,
    first_seq: u64,
    next: AtomicU32,
    requests: u32,
}

async fn worker(work: Arc<Work>, mut pair: Pair) -> Result<(Vec<Duration>, usize)> {
    let (mut latencies, mut bytes) = (Vec::new(), 0);
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.requests {
            return Ok((latencies, bytes));
        }
        let watch = Instant::now();
        bytes += sample(&work, &mut pair, number).await?;
        latencies.push(watch.elapsed());
    }
}

/// One sample; the length of its result in bytes.
async fn sample(work: &Work, pair: &mut Pair, number: u32) -> Result<usize> {
    let number = (work.first_seq + u64::from(number)).to_string();
    let body = work.submit.body(&number);
    let (_, promise) = pair
        .submit
        .exchange(&work.address, &work.submit, body)
        .await?;
    let id = request_id(&promise)?;
    loop {
        let body = work.poll.body(&id);
        let (kind, answer) = pair.poll.exchange(&work.address, &work.poll, body).await?;
        let kind = kind.context("an answer without a type")?;
        if kind == "application/x-protobuf" {
            return Ok(answer.len());
        }
        let told: Value = serde_json::from_slice(&answer)?;
        ensure!(told["type"] == "try_again", "a poll was answered {told}");
    }
}

#[cfg(unix)]
fn cpu() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

#[cfg(not(unix))]
fn cpu() -> Option<Duration> {
    None
}
