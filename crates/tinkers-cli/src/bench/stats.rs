//! Measurement of a load: time, CPU time, latencies, connections and failures.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tinkers::{Clock, TokioClock};

use super::Bench;
use super::process;
use super::report::{Latency, Report};
use crate::stopwatch::Stopwatch;

/// The number of significant digits with which latencies are recorded.
const DIGITS: u8 = 3;
/// The maximum latency that can be recorded: one day, in microseconds.
const MAX_LATENCY: u64 = 24 * 3600 * 1_000_000;

/// How long after the start of a bench load the open connections are counted for the first time. The intervals between later counts are
/// longer, up to a maximum.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// The statistics of the requests of a bench load. Clones share the statistics.
#[derive(Clone)]
pub(crate) struct LoadStats(Arc<Mutex<Inner>>);

struct Inner {
    /// The latencies in microseconds.
    latencies: Histogram<u64>,
    tokens: u64,
    failed: u64,
    failure: Option<tinkers::Error>,
}

/// The CPU time, the memory and the counters at the start of a bench load.
pub(crate) struct Measurement {
    stats: LoadStats,
    watch: Stopwatch,
    cpu: Option<Duration>,
    memory: Option<process::Memory>,
    exchanges: (u64, u64),
}

impl LoadStats {
    /// Starts the measurement of a bench load.
    pub(crate) fn start(bench: &Bench) -> Result<(Self, Measurement)> {
        let stats = Self(Arc::new(Mutex::new(Inner {
            latencies: Histogram::new_with_bounds(1, MAX_LATENCY, DIGITS)
                .context("cannot create a histogram")?,
            tokens: 0,
            failed: 0,
            failure: None,
        })));
        let measurement = Measurement {
            stats: stats.clone(),
            memory: process::memory(),
            exchanges: bench.exchanges.counts(),
            cpu: process::cpu(),
            watch: Stopwatch::start(),
        };
        Ok((stats, measurement))
    }

    /// Records the latency and the outcome of a finished sampling request or training round. `outcome` is the number of its tokens,
    /// or its error.
    pub(crate) fn record(&self, seconds: f64, outcome: tinkers::Result<u64>) {
        let mut inner = self.lock();
        match outcome {
            Ok(tokens) => {
                inner.tokens += tokens;
                inner.latencies.saturating_record((seconds * 1e6) as u64);
            }
            Err(error) => {
                inner.failed += 1;
                inner.failure.get_or_insert(error);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measurement {
    /// Waits for the future `load`. Returns its result, and the maximum number of connections that were open at the same time.
    pub(crate) async fn watch<T>(
        &self,
        bench: &Bench,
        load: impl Future<Output = T>,
    ) -> (T, Option<usize>) {
        let time = TokioClock::new(tokio::runtime::Handle::current());
        let time: &dyn Clock = &time;
        let mut load = std::pin::pin!(load);
        let (mut max, mut interval) = (None, MIN_INTERVAL);
        loop {
            let done = tokio::select! {
                biased;
                done = load.as_mut() => Some(done),
                () = time.sleep(interval) => None,
            };
            let open = process::open_files().zip(bench.open_files_before);
            max = max.max(open.map(|(now, before)| now.saturating_sub(before)));
            if let Some(done) = done {
                return (done, max);
            }
            interval = interval.mul_f64(1.25).min(MAX_INTERVAL);
        }
    }

    /// Returns the report of a bench load that made `requests` API requests.
    pub(crate) fn report(
        self,
        bench: &Bench,
        load: &'static str,
        model: String,
        requests: u64,
        connections: Option<usize>,
    ) -> Report {
        let seconds = self.watch.seconds();
        let cpu = process::cpu().zip(self.cpu);
        let cpu = cpu.map(|(now, before)| now.saturating_sub(before).as_secs_f64());
        let (sent, rejected) = bench.exchanges.counts();
        let mut inner = self.stats.lock();
        let served = requests.saturating_sub(inner.failed) as f64;
        let memory = process::memory();
        Report {
            load,
            server: bench.address.clone(),
            model,
            requests,
            failed: inner.failed,
            seconds,
            requests_per_second: served / seconds.max(1e-9),
            tokens_per_second: inner.tokens as f64 / seconds.max(1e-9),
            cpu_seconds: cpu,
            cpu_us_per_request: cpu.filter(|_| served > 0.0).map(|cpu| cpu * 1e6 / served),
            latency_ms: Latency::from_micros(&inner.latencies),
            exchanges: sent - self.exchanges.0,
            rejections: rejected - self.exchanges.1,
            connections,
            resident_bytes_before: self.memory.map(|memory| memory.now),
            peak_resident_bytes: memory.map(|memory| memory.peak),
            failure: inner.failure.take(),
        }
    }
}
