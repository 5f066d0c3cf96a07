//! The measuring of a load: its time, processor time, latencies and failures.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tinkers::{Time, TokioTime};

use super::Bench;
use super::process;
use super::report::{Latency, Report};
use crate::stopwatch::Stopwatch;

/// Three digits are enough for people, and cheap.
const DIGITS: u8 = 3;
/// A day in microseconds: what takes longer counts as that long.
const LONGEST: u64 = 24 * 3600 * 1_000_000;

/// Connections are counted so often at first, and less often later.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Counts for one load. Clones are the same.
#[derive(Clone)]
pub(crate) struct Tally(Arc<Mutex<Inner>>);

struct Inner {
    /// In microseconds.
    latencies: Histogram<u64>,
    tokens: u64,
    failed: u64,
    failure: Option<tinkers::Error>,
}

/// The state of things when a load began.
pub(crate) struct Start {
    tally: Tally,
    watch: Stopwatch,
    cpu: Option<Duration>,
    memory: Option<process::Memory>,
    exchanges: (u64, u64),
}

impl Tally {
    /// Begins a load on `bench`.
    pub(crate) fn start(bench: &Bench) -> Result<(Self, Start)> {
        let tally = Self(Arc::new(Mutex::new(Inner {
            latencies: Histogram::new_with_bounds(1, LONGEST, DIGITS).context("no histogram")?,
            tokens: 0,
            failed: 0,
            failure: None,
        })));
        let start = Start {
            tally: tally.clone(),
            memory: process::memory(),
            exchanges: bench.exchanges.counts(),
            cpu: process::cpu(),
            watch: Stopwatch::start(),
        };
        Ok((tally, start))
    }

    /// Something ended after so many seconds and gave so many tokens.
    pub(crate) fn ended(&self, seconds: f64, outcome: tinkers::Result<u64>) {
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

impl Start {
    /// Waits for `load` and looks at the connections meanwhile; the most there were.
    pub(crate) async fn watch<T>(
        &self,
        bench: &Bench,
        load: impl Future<Output = T>,
    ) -> (T, Option<usize>) {
        let time = TokioTime::new(tokio::runtime::Handle::current());
        let time: &dyn Time = &time;
        let mut load = std::pin::pin!(load);
        let (mut most, mut pause) = (None, FIRST_LOOK);
        loop {
            let done = tokio::select! {
                biased;
                done = load.as_mut() => Some(done),
                () = time.sleep(pause) => None,
            };
            let open = process::connections().zip(bench.sockets_before);
            most = most.max(open.map(|(now, before)| now.saturating_sub(before)));
            if let Some(done) = done {
                return (done, most);
            }
            pause = pause.mul_f64(1.25).min(LAST_LOOK);
        }
    }

    /// What came of it. `requests` are those of the API that the load is counted in.
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
        let mut inner = self.tally.lock();
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
            latency_ms: Latency::of(&inner.latencies),
            exchanges: sent - self.exchanges.0,
            rejections: rejected - self.exchanges.1,
            connections,
            resident_bytes_before: self.memory.map(|memory| memory.now),
            peak_resident_bytes: memory.map(|memory| memory.peak),
            failure: inner.failure.take(),
        }
    }
}
