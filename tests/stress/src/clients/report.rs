//! The report of a run, as an HTML page without external resources.

use std::path::Path;

use super::counts::Operation;
use super::histogram::{self, Part};
use super::measurement::Measurement;
use super::plot::{Bands, Bars, Chart, Line};
use super::verdict::{Observations, Verdict};

/// The data of a stress run that the HTML report shows.
pub(crate) struct Report<'a> {
    pub(crate) observed: &'a Observations<'a>,
    pub(crate) verdict: Verdict,
    pub(crate) seed: u64,
    /// The violations that the checks have found. If there are none, the reasons why the run is
    /// inconclusive.
    pub(crate) notes: Vec<String>,
}

/// The number of measurement intervals over which each rate in the charts (such as samples per
/// second) is averaged.
const SPAN: usize = 5;

const STYLE: &str = include_str!("report.css");

impl Report<'_> {
    /// Writes the report as an HTML page to `path`.
    ///
    /// # Errors
    /// Fails if the file or its directory cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let failed =
            |error: std::io::Error| format!("cannot write the report {}: {error}", path.display());
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, self.html()).map_err(failed)
    }

    fn html(&self) -> String {
        let observed = self.observed;
        let (class, word) = match self.verdict {
            Verdict::Passed => ("passed", "Passed: all counts are exact"),
            Verdict::Failed => ("failed", "Failed"),
            Verdict::Inconclusive => (
                "inconclusive",
                "Inconclusive: the conditions of this profile did not occur",
            ),
        };
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("<li>{}</li>", escaped(note)))
            .collect();
        let charts = [
            self.throughput().html(),
            self.in_flight().html(),
            self.latencies(),
            self.refusals(),
            self.wakes(),
            self.cost().html(),
            self.memory().html(),
            self.held().html(),
        ];
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>tinkers stress: {name}</title><style>{STYLE}</style>\
             <header><h1>{name}</h1><p>{about}</p><p class=\"verdict {class}\">{word}</p><ul>{notes}</ul></header>\
             <section class=\"figures\">{figures}</section><section class=\"tables\">{tables}</section><main>{charts}</main>\
             <footer>seed {seed}; repeat with <code>cargo xtask stress --profile {name} --secs {secs} --seed {seed}</code></footer></html>\n",
            name = observed.profile.name,
            about = observed.profile.about,
            figures = self.figures(),
            tables = self.tables(),
            charts = charts.concat(),
            seed = self.seed,
            secs = observed.length.as_secs(),
        )
    }

    fn figures(&self) -> String {
        let observed = self.observed;
        let last = observed.measurements.last().copied().unwrap_or_default();
        let mut figures = Vec::new();
        for operation in Operation::ALL {
            let ended = observed.counts.of(operation);
            if ended.called > 0 {
                figures.push((
                    operation.name(),
                    format!("{} of {} succeeded", ended.ok, ended.called),
                ));
            }
        }
        let done = last.done.max(1) as f64;
        figures.push((
            "throughput",
            format!("{:.0} calls/s", last.done as f64 / last.at.max(0.1)),
        ));
        figures.push((
            "CPU time",
            format!("{:.0} µs per call", last.cpu * 1e6 / done),
        ));
        figures.push((
            "refusals",
            format!("{} in {} congestion events", last.refusals, last.events),
        ));
        if let Some(share) = observed.throughput_fraction() {
            figures.push((
                "share of the maximum throughput",
                format!("{:.0} %", share * 100.0),
            ));
        }
        if last.waits > 0 {
            let wakes = last.wakes as f64 / last.waits as f64;
            figures.push(("wake-ups", format!("{wakes:.3} per wait")));
        }
        if let Some(recovery) = observed.recovery() {
            figures.push((
                "throughput before and after the faults",
                format!("{:.0} and {:.0} calls/s", recovery.clean, recovery.after),
            ));
            let took = recovery
                .took
                .map(|took| format!("{took:.1} s after the faults"));
            figures.push((
                "recovery",
                took.unwrap_or_else(|| "not before the end of the run".to_owned()),
            ));
        }
        if let Some(bytes) = observed.per_sample {
            figures.push(("memory per sample in flight", format!("{bytes:.0} bytes")));
        }
        figures
            .into_iter()
            .map(|(name, value)| format!("<div><span>{name}</span><b>{value}</b></div>"))
            .collect()
    }

    /// Returns the HTML tables of the resources that the clients leaked and of the faults that the
    /// server injected.
    fn tables(&self) -> String {
        let (before, after) = (self.observed.before, self.observed.after);
        let mut left = String::new();
        for (name, before, after) in [
            ("tasks", before.tasks, after.tasks),
            ("sockets", before.sockets, after.sockets),
            ("threads", before.threads, after.threads),
            ("registry entries", before.entries, after.entries),
        ] {
            left.push_str(&row(&[name, &before.to_string(), &after.to_string()]));
        }
        let parts = [
            "waiters",
            "uncollected grants",
            "slots",
            "bytes",
            "requests in flight",
        ];
        for (name, held) in parts.iter().zip(after.held) {
            left.push_str(&row(&[&format!("limiter: {name}"), "0", &held.to_string()]));
        }
        let faults = self.observed.server["faults"].as_array();
        let faults: String = faults
            .into_iter()
            .flatten()
            .map(|rule| {
                let name = escaped(rule["rule"].as_str().unwrap_or_default());
                row(&[&name, &rule["struck"].to_string()])
            })
            .collect();
        let mut tables = format!(
            "<table><caption>Resources</caption><tr><th></th><th>before the run</th><th>after the run</th></tr>{left}</table>"
        );
        if !faults.is_empty() {
            tables.push_str(&format!(
                "<table><caption>Faults</caption><tr><th></th><th>affected requests</th></tr>{faults}</table>"
            ));
        }
        tables
    }

    fn end(&self) -> f64 {
        self.observed
            .measurements
            .last()
            .map_or(1.0, |measurement| measurement.at)
    }

    fn fault_period(&self) -> Bands {
        let fault_period = self.observed.profile.fault_period(self.observed.length);
        let interval = fault_period.map(|(from, lasts)| {
            let from = from.as_secs_f64();
            (from, (from + lasts.as_secs_f64()).min(self.end()))
        });
        Bands {
            name: "faults",
            class: "fault_period",
            is_strip: false,
            intervals: interval.into_iter().collect(),
        }
    }

    fn closed(&self) -> Bands {
        let mut intervals: Vec<(f64, f64)> = Vec::new();
        for (from, to) in self.observed.pauses {
            let to = to.min(self.end());
            match intervals.last_mut() {
                Some((_, end)) if *end >= *from => *end = end.max(to),
                _ if to > *from => intervals.push((*from, to)),
                _ => {}
            }
        }
        Bands {
            name: "backoff",
            class: "closed",
            is_strip: true,
            intervals,
        }
    }

    fn chart(&self, title: &'static str, unit: &'static str, lines: Vec<Line>) -> Chart {
        Chart {
            title,
            unit,
            end: self.end(),
            lines,
            bands: vec![self.fault_period(), self.closed()],
        }
    }

    fn throughput(&self) -> Chart {
        let mut lines = vec![
            line(
                "successful samples",
                self.rates(|measurement| measurement.samples as f64),
            ),
            line(
                "successful passes and steps",
                self.rates(|measurement| {
                    measurement.done.saturating_sub(measurement.samples) as f64
                }),
            ),
        ];
        let profile = self.observed.profile;
        if let Some(window) = profile.window {
            let allowed = profile.allowed(window);
            lines.push(Line {
                is_bound: true,
                ..line(
                    "maximum that the server allows",
                    vec![(0.0, allowed), (self.end(), allowed)],
                )
            });
        }
        self.chart("Throughput", "calls per second", lines)
    }

    fn in_flight(&self) -> Chart {
        let most = self
            .observed
            .measurements
            .iter()
            .map(|measurement| measurement.in_flight)
            .max();
        // Without refusals, the in-flight limit grows very high and would flatten the other line.
        let most = f64::from(most.unwrap_or(0)).max(1.0) * 2.0;
        let bound = self.values(|measurement| f64::from(measurement.limit).min(most));
        let lines = vec![
            line(
                "in flight",
                self.values(|measurement| f64::from(measurement.in_flight)),
            ),
            Line {
                is_bound: true,
                ..line("in-flight limit (clipped)", bound)
            },
        ];
        self.chart("Samples in flight", "samples", lines)
    }

    fn cost(&self) -> Chart {
        let per_call = self.over_span(|from, to| {
            let calls = to.done - from.done;
            (calls > 0).then(|| (to.cpu - from.cpu) * 1e6 / calls as f64)
        });
        self.chart(
            "CPU time of the clients",
            "µs per call",
            vec![line("CPU time", per_call)],
        )
    }

    fn memory(&self) -> Chart {
        let resident = self.values(|measurement| measurement.resident as f64 / f64::from(1 << 20));
        self.chart(
            "Resident memory of the clients",
            "MiB",
            vec![line("resident", resident)],
        )
    }

    fn held(&self) -> Chart {
        let lines = vec![
            line("tasks", self.values(|measurement| measurement.tasks as f64)),
            line(
                "sockets",
                self.values(|measurement| measurement.sockets as f64),
            ),
        ];
        self.chart("Tasks and sockets of the clients", "count", lines)
    }

    fn latencies(&self) -> String {
        let times = self.observed.counts.times();
        let part = |title, times| Part { title, times };
        histogram::html(&[
            part(
                "Queueing: from the call to its first request",
                &times.queueing,
            ),
            part(
                "Submission: from a request to its response",
                &times.submission,
            ),
            part("Completion: from the call to its result", &times.completion),
        ])
    }

    fn refusals(&self) -> String {
        let events = self.observed.server["events"].as_array();
        let by_event: Vec<(String, f64)> = events
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(i, event)| ((i + 1).to_string(), event[0].as_f64().unwrap_or(0.0)))
            .collect();
        if !by_event.is_empty() {
            return Bars {
                title: "Refusals per congestion event, counted by the server".to_owned(),
                unit: "refusals (429)",
                below: "congestion event",
                bars: by_event,
            }
            .html();
        }
        if self
            .observed
            .measurements
            .last()
            .is_none_or(|last| last.refusals == 0)
        {
            return String::new();
        }
        let rates = vec![line(
            "refusals",
            self.rates(|measurement| measurement.refusals as f64),
        )];
        let of_each = self.over_span(|from, to| {
            let events = to.events - from.events;
            (events > 0).then(|| (to.refusals - from.refusals) as f64 / events as f64)
        });
        let of_each = vec![line("refusals per event", of_each)];
        let charts = [
            self.chart("Refusals", "429s per second", rates),
            self.chart("Refusals per congestion event", "429s per event", of_each),
        ];
        charts.iter().map(Chart::html).collect()
    }

    fn wakes(&self) -> String {
        if self
            .observed
            .measurements
            .last()
            .is_none_or(|last| last.waits == 0)
        {
            return String::new();
        }
        let ratio = self.over_span(|from, to| {
            let waits = to.waits - from.waits;
            (waits > 0).then(|| (to.wakes - from.wakes) as f64 / waits as f64)
        });
        if ratio.len() < 2 {
            return String::new();
        }
        let lines = vec![line("wake-ups", ratio)];
        self.chart("Wake-ups per admission after a wait", "wake-ups", lines)
            .html()
    }

    fn values(&self, of: impl Fn(&Measurement) -> f64) -> Vec<(f64, f64)> {
        let measurements = self.observed.measurements.iter();
        measurements
            .map(|measurement| (measurement.at, of(measurement)))
            .collect()
    }

    fn rates(&self, of: fn(&Measurement) -> f64) -> Vec<(f64, f64)> {
        self.over_span(|from, to| {
            let seconds = to.at - from.at;
            (seconds > 0.0).then(|| (of(to) - of(from)) / seconds)
        })
    }

    fn over_span(&self, of: impl Fn(&Measurement, &Measurement) -> Option<f64>) -> Vec<(f64, f64)> {
        let spans = self.observed.measurements.windows(SPAN + 1);
        spans
            .filter_map(|span| {
                let (from, to) = (span.first()?, span.last()?);
                Some((to.at, of(from, to)?))
            })
            .collect()
    }
}

fn line(name: &'static str, points: Vec<(f64, f64)>) -> Line {
    Line {
        name,
        points,
        is_bound: false,
    }
}

fn row(cells: &[&str]) -> String {
    let cells = cells.iter().map(|cell| format!("<td>{cell}</td>"));
    format!("<tr>{}</tr>", cells.collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
