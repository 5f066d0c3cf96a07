//! The report of a load, as a JSON object or as text.

use std::io;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::layout::labelled;
use crate::output::{Screen, count};

/// The report of a bench load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The kind of load, `sample` or `train`.
    pub(crate) load: &'static str,
    /// The URL of the server.
    pub(crate) server: String,
    pub(crate) model: String,
    /// The number of API requests. For a sampling load, these are the samples; for a training load, the passes and optimizer steps.
    pub(crate) requests: u64,
    /// The number of API requests that failed.
    pub(crate) failed: u64,
    /// The time from the first request to the last result. It does not include the creation of the session and of the sampler or
    /// model.
    pub(crate) seconds: f64,
    /// The number of successful API requests per second.
    pub(crate) requests_per_second: f64,
    /// The number of tokens per second that were sampled or trained on.
    pub(crate) tokens_per_second: f64,
    /// The user and system CPU time of this process.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) cpu_us_per_request: Option<f64>,
    /// The latency of successful samples or training rounds. `None` if all of them failed.
    pub(crate) latency_ms: Option<Latency>,
    /// The number of HTTP requests. It includes polls and retries, but not heartbeats.
    pub(crate) exchanges: u64,
    /// The number of 429 responses.
    pub(crate) rejections: u64,
    /// The maximum number of connections that were open at the same time.
    pub(crate) connections: Option<usize>,
    /// The resident memory before the load.
    pub(crate) resident_bytes_before: Option<u64>,
    /// The maximum resident memory of the process (VmHWM).
    pub(crate) peak_resident_bytes: Option<u64>,
    #[serde(skip)]
    pub(crate) failure: Option<tinkers::Error>,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Summarises a histogram of latencies in microseconds. Returns `None` if the histogram is empty.
    pub(crate) fn from_micros(micros: &Histogram<u64>) -> Option<Self> {
        if micros.is_empty() {
            return None;
        }
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1000.0;
        Some(Self {
            mean: micros.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: micros.max() as f64 / 1000.0,
        })
    }
}

impl Report {
    /// Prints the report as text.
    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        screen.heading("Result")?;
        screen.line(labelled(&self.rows(), 2, screen.width()))
    }

    /// Returns the error of the first failed request, or `None` if no request failed.
    pub(crate) fn failure(self) -> Option<anyhow::Error> {
        let (failed, requests) = (self.failed, self.requests);
        let failure = self.failure?;
        let message = format!("{failed} of {requests} requests failed; the first error follows");
        Some(anyhow::Error::new(failure).context(message))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let unknown = || "not reported on this system".to_owned();
        let memory = self.peak_resident_bytes.zip(self.resident_bytes_before);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        vec![
            (
                "requests",
                format!(
                    "{} in {:.2} s, {} failed; {} HTTP requests, {} rejected with 429",
                    count(self.requests as f64),
                    self.seconds,
                    count(self.failed as f64),
                    count(self.exchanges as f64),
                    count(self.rejections as f64)
                ),
            ),
            (
                "speed",
                format!(
                    "{:.1} requests/s, {} tokens/s",
                    self.requests_per_second,
                    count(self.tokens_per_second)
                ),
            ),
            (
                "latency",
                self.latency_ms.as_ref().map_or_else(
                    || "none: all requests failed".to_owned(),
                    |latency| {
                        format!(
                            "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms, mean {:.2} ms",
                            latency.p50, latency.p90, latency.p99, latency.max, latency.mean
                        )
                    },
                ),
            ),
            (
                "CPU time",
                self.cpu_seconds.map_or_else(unknown, |seconds| {
                    let each = self.cpu_us_per_request;
                    let each = each.map(|each| format!(", {each:.0} us per request"));
                    format!("{seconds:.3} s of this process{}", each.unwrap_or_default())
                }),
            ),
            (
                "memory",
                memory.map_or_else(unknown, |(peak, before)| {
                    format!(
                        "{:.1} MiB maximum, {:.1} MiB before",
                        mib(peak),
                        mib(before)
                    )
                }),
            ),
            (
                "connections",
                self.connections
                    .map_or_else(unknown, |max| format!("{max} maximum")),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bench_latencies_are_reported_in_milliseconds() {
        let mut micros = Histogram::new(3).unwrap();
        for value in 1..=1000 {
            micros.record(value * 1000).unwrap();
        }
        let latency = Latency::from_micros(&micros).unwrap();
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(
            near(latency.p50, 500.0) && near(latency.p90, 900.0),
            "{latency:?}"
        );
        assert!(
            near(latency.p99, 990.0) && near(latency.max, 1000.0),
            "{latency:?}"
        );
        assert!(near(latency.mean, 500.5), "{latency:?}");
    }

    #[test]
    fn report_of_a_failed_bench_load_has_cpu_time_but_no_latency() {
        let report = Report {
            load: "sample",
            server: "http://h".to_owned(),
            model: "m".to_owned(),
            requests: 3,
            failed: 3,
            seconds: 1.0,
            requests_per_second: 0.0,
            tokens_per_second: 0.0,
            cpu_seconds: Some(0.25),
            cpu_us_per_request: None,
            latency_ms: Latency::from_micros(&Histogram::new(3).unwrap()),
            exchanges: 3,
            rejections: 0,
            connections: None,
            resident_bytes_before: None,
            peak_resident_bytes: None,
            failure: None,
        };
        let rows = report.rows();
        let row = |name: &str| &rows.iter().find(|(label, _)| *label == name).unwrap().1;
        assert_eq!(row("CPU time"), "0.250 s of this process");
        assert_eq!(row("latency"), "none: all requests failed");
        assert!(serde_json::to_value(&report).unwrap()["latency_ms"].is_null());
    }
}
