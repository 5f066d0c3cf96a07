//! The benchmark loop: submits a sample, polls until the protobuf result arrives, and repeats.
#![expect(
    clippy::disallowed_methods,
    reason = "the benchmark measures real time on real sockets"
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

/// The maximum number of streams per HTTP/2 connection. It is the limit that the client library
/// uses.
const STREAMS: u32 = 50;

/// The largest latency of a sample that the histogram can record: one hour, in microseconds.
const MAX_LATENCY: u64 = 3600 * 1_000_000;

/// The parameters of a benchmark run. The benchmark sends the same requests as the client library,
/// but directly with hyper.
#[derive(Clone)]
pub struct Load {
    /// The base URL of the server. TLS is not supported.
    pub base_url: String,
    /// The API key.
    pub api_key: String,
    /// The total number of samples to request.
    pub requests: u32,
    /// The maximum number of samples in flight at the same time.
    pub concurrency: u32,
    /// The number of tokens in each prompt.
    pub prompt_len: u32,
    /// The maximum number of tokens in each sample.
    pub max_tokens: u32,
    /// Whether to use HTTP/2.
    pub http2: bool,
}

/// Runs the benchmark and returns the measured throughput and latencies as JSON, with the same keys
/// as `tinkers bench sample --json`.
///
/// # Errors
/// Returns an error if the server cannot be reached or gives an unexpected response.
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
    let (cpu, start) = (cpu_time(), Instant::now());
    for pair in senders {
        running.spawn(worker(Arc::clone(&work), pair));
    }
    let mut micros = Histogram::<u64>::new_with_bounds(1, MAX_LATENCY, 3)?;
    let mut bytes = 0;
    while let Some(ended) = running.join_next().await {
        let (latencies, received) = ended??;
        bytes += received;
        for latency in latencies {
            micros.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = cpu_time()
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
    // If this request fails, the server ends the session after a timeout.
    let _ = recorded.service.close(FinishReason::Success, None).await;
}

/// The senders of one worker: one connection carries its submissions, and another one its polls.
struct Pair {
    submit: Sender,
    poll: Sender,
}

/// Opens the connections of all workers. With HTTP/2, several workers share a connection. Returns
/// the senders of each worker and the number of connections.
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
        Sender::http2(address).await
    } else {
        Sender::http1(address).await
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
        let start = Instant::now();
        bytes += sample(&work, &mut pair, number).await?;
        latencies.push(start.elapsed());
    }
}

/// Submits one sample, polls until its result arrives, and returns the size of the result in bytes.
/// `number` is the index of the sample, from which its sequence number is computed.
async fn sample(work: &Work, pair: &mut Pair, number: u32) -> Result<usize> {
    let number = (work.first_seq + u64::from(number)).to_string();
    let body = work.submit.body(&number);
    let (_, submission) = pair
        .submit
        .exchange(&work.address, &work.submit, body)
        .await?;
    let id = request_id(&submission)?;
    loop {
        let body = work.poll.body(&id);
        let (content_type, response) = pair.poll.exchange(&work.address, &work.poll, body).await?;
        let content_type = content_type.context("a poll response has no content-type")?;
        if content_type == "application/x-protobuf" {
            return Ok(response.len());
        }
        let response: Value = serde_json::from_slice(&response)?;
        ensure!(
            response["type"] == "try_again",
            "unexpected poll response: {response}"
        );
    }
}

#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}
