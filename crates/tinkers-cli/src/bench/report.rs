//! What a load came to, for programs as one JSON object and for people in lines.

use std::io;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::layout::labelled;
use crate::output::{Screen, count};

/// The result of a load.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `sample` or `train`.
    pub(crate) load: &'static str,
    /// The server's address.
    pub(crate) server: String,
    pub(crate) model: String,
    /// Requests of the API: samples, or passes and steps.
    pub(crate) requests: u64,
    /// Those among them that failed for good.
    pub(crate) failed: u64,
    /// From the first call to the last result; the session and the sampler or model were there already.
    pub(crate) seconds: f64,
    /// That did not fail.
    pub(crate) requests_per_second: f64,
    /// Sampled, or trained on.
    pub(crate) tokens_per_second: f64,
    /// Of this process, user and system, in the same time.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) cpu_us_per_request: Option<f64>,
    /// Of a sample, or of a round of training; those that failed left out; none when all did.
    pub(crate) latency_ms: Option<Latency>,
    /// HTTP requests, polls and repetitions among them, heartbeats left out.
    pub(crate) exchanges: u64,
    /// The 429s among their answers.
    pub(crate) rejections: u64,
    /// The most that were open at once.
    pub(crate) connections: Option<usize>,
    /// Resident memory before the load.
    pub(crate) resident_bytes_before: Option<u64>,
    /// The most resident memory in the life of the process (VmHWM).
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
    /// Of a histogram in microseconds; none of an empty one.
    pub(crate) fn of(micros: &Histogram<u64>) -> Option<Self> {
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
    /// Writes it in lines.
    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        screen.heading("Result")?;
        screen.line(labelled(&self.rows(), 2, screen.width()))
    }

    /// An error when requests failed, with the first of their errors.
    pub(crate) fn failure(self) -> Option<anyhow::Error> {
        let (failed, requests) = (self.failed, self.requests);
        let failure = self.failure?;
        let what = format!("{failed} of {requests} requests failed; the first of them");
        Some(anyhow::Error::new(failure).context(what))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let unknown = || "not known on this system".to_owned();
        let memory = self.peak_resident_bytes.zip(self.resident_bytes_before);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        vec![
            (
                "requests",
                format!(
                    "{} in {:.2} s, {} failed; {} HTTP requests, {} answered 429",
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
                "processor",
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
                        "{:.1} MiB at most, {:.1} MiB before",
                        mib(peak),
                        mib(before)
                    )
                }),
            ),
            (
                "connections",
                self.connections
                    .map_or_else(unknown, |most| format!("{most} at most")),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let mut micros = Histogram::new(3).unwrap();
        for value in 1..=1000 {
            micros.record(value * 1000).unwrap();
        }
        let latency = Latency::of(&micros).unwrap();
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
    fn a_load_that_failed_has_processor_time_and_no_latency() {
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
            latency_ms: Latency::of(&Histogram::new(3).unwrap()),
            exchanges: 3,
            rejections: 0,
            connections: None,
            resident_bytes_before: None,
            peak_resident_bytes: None,
            failure: None,
        };
        let rows = report.rows();
        let row = |name: &str| &rows.iter().find(|(label, _)| *label == name).unwrap().1;
        assert_eq!(row("processor"), "0.250 s of this process");
        assert_eq!(row("latency"), "none: all requests failed");
        assert!(serde_json::to_value(&report).unwrap()["latency_ms"].is_null());
    }
}
