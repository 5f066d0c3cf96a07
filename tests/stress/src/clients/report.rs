//! The report of a run: one page that needs nothing else.

use std::path::Path;

use super::count::Verb;
use super::histogram::{self, Part};
use super::plot::{Bands, Bars, Chart, Line};
use super::probe::Look;
use super::verdict::{Seen, Verdict};

/// What a report is made of.
pub(crate) struct Report<'a> {
    pub(crate) seen: &'a Seen<'a>,
    pub(crate) verdict: Verdict,
    pub(crate) seed: u64,
    /// What does not hold, or why nothing was shown.
    pub(crate) notes: Vec<String>,
}

/// Rates are taken over so many looks.
const SPAN: usize = 5;

const STYLE: &str = include_str!("report.css");

impl Report<'_> {
    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(path, self.html()).map_err(failed)
    }

    fn html(&self) -> String {
        let seen = self.seen;
        let (class, word) = match self.verdict {
            Verdict::Holds => ("holds", "It holds: every count is as it must be"),
            Verdict::Broken => ("broken", "It does not hold"),
            Verdict::Inconclusive => ("inconclusive", "Inconclusive: this run has shown nothing"),
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
            name = seen.profile.name,
            about = seen.profile.about,
            figures = self.figures(),
            tables = self.tables(),
            charts = charts.concat(),
            seed = self.seed,
            secs = seen.length.as_secs(),
        )
    }

    fn figures(&self) -> String {
        let seen = self.seen;
        let last = seen.looks.last().copied().unwrap_or_default();
        let mut figures = Vec::new();
        for verb in Verb::ALL {
            let ended = seen.counts.of(verb);
            if ended.called > 0 {
                figures.push((
                    verb.name(),
                    format!("{} of {} ended well", ended.ok, ended.called),
                ));
            }
        }
        let done = last.done.max(1) as f64;
        figures.push((
            "throughput",
            format!("{:.0} calls/s", last.done as f64 / last.at.max(0.1)),
        ));
        figures.push((
            "processor time",
            format!("{:.0} µs a call", last.cpu * 1e6 / done),
        ));
        figures.push((
            "refusals",
            format!("{} in {} events", last.refusals, last.events),
        ));
        if let Some(share) = seen.share() {
            figures.push((
                "of what the server allows",
                format!("{:.0} %", share * 100.0),
            ));
        }
        if last.waits > 0 {
            let wakes = last.wakes as f64 / last.waits as f64;
            figures.push(("wake-ups", format!("{wakes:.3} a wait")));
        }
        if let Some(recovery) = seen.recovery() {
            figures.push((
                "before and after the faults",
                format!("{:.0} and {:.0} calls/s", recovery.clean, recovery.after),
            ));
            let took = recovery
                .took
                .map(|took| format!("{took:.1} s after the faults"));
            figures.push((
                "full flow",
                took.unwrap_or_else(|| "not before the end".to_owned()),
            ));
        }
        if let Some(bytes) = seen.per_sample {
            figures.push(("a sample in flight", format!("{bytes:.0} bytes")));
        }
        figures
            .into_iter()
            .map(|(name, value)| format!("<div><span>{name}</span><b>{value}</b></div>"))
            .collect()
    }

    /// What was there before and is there after, and how often each fault struck.
    fn tables(&self) -> String {
        let (before, after) = (self.seen.before, self.seen.after);
        let mut left = String::new();
        for (name, before, after) in [
            ("tasks", before.tasks, after.tasks),
            ("sockets", before.sockets, after.sockets),
            ("threads", before.threads, after.threads),
            ("registry entries", before.entries, after.entries),
        ] {
            left.push_str(&row(&[name, &before.to_string(), &after.to_string()]));
        }
        let parts = ["waiting", "let through", "slots", "bytes", "flights"];
        for (name, held) in parts.iter().zip(after.held) {
            left.push_str(&row(&[&format!("limiter: {name}"), "0", &held.to_string()]));
        }
        let faults = self.seen.server["faults"].as_array();
        let faults: String = faults
            .into_iter()
            .flatten()
            .map(|rule| {
                let name = escaped(rule["rule"].as_str().unwrap_or_default());
                row(&[&name, &rule["struck"].to_string()])
            })
            .collect();
        let mut tables = format!(
            "<table><caption>Left behind</caption><tr><th></th><th>before</th><th>after</th></tr>{left}</table>"
        );
        if !faults.is_empty() {
            tables.push_str(&format!(
                "<table><caption>Faults</caption><tr><th></th><th>requests struck</th></tr>{faults}</table>"
            ));
        }
        tables
    }

    fn end(&self) -> f64 {
        self.seen.looks.last().map_or(1.0, |look| look.at)
    }

    fn trouble(&self) -> Bands {
        let trouble = self.seen.profile.trouble(self.seen.length);
        let stretch = trouble.map(|(from, lasts)| {
            let from = from.as_secs_f64();
            (from, (from + lasts.as_secs_f64()).min(self.end()))
        });
        Bands {
            name: "faults",
            class: "trouble",
            is_strip: false,
            stretches: stretch.into_iter().collect(),
        }
    }

    fn closed(&self) -> Bands {
        let mut stretches: Vec<(f64, f64)> = Vec::new();
        for (from, to) in self.seen.pauses {
            let to = to.min(self.end());
            match stretches.last_mut() {
                Some((_, end)) if *end >= *from => *end = end.max(to),
                _ if to > *from => stretches.push((*from, to)),
                _ => {}
            }
        }
        Bands {
            name: "backoff",
            class: "closed",
            is_strip: true,
            stretches,
        }
    }

    fn chart(&self, title: &'static str, unit: &'static str, lines: Vec<Line>) -> Chart {
        Chart {
            title,
            unit,
            end: self.end(),
            lines,
            bands: vec![self.trouble(), self.closed()],
        }
    }

    fn throughput(&self) -> Chart {
        let mut lines = vec![
            line(
                "samples that ended well",
                self.rates(|look| look.samples as f64),
            ),
            line(
                "passes and steps that ended well",
                self.rates(|look| look.done.saturating_sub(look.samples) as f64),
            ),
        ];
        let profile = self.seen.profile;
        if let Some(window) = profile.window {
            let allowed = profile.allowed(window);
            lines.push(Line {
                is_bound: true,
                ..line(
                    "samples that the server allows",
                    vec![(0.0, allowed), (self.end(), allowed)],
                )
            });
        }
        self.chart("Throughput", "calls per second", lines)
    }

    fn in_flight(&self) -> Chart {
        let most = self.seen.looks.iter().map(|look| look.in_flight).max();
        // Without a refusal the window is as wide as may be, which would hide everything else.
        let most = f64::from(most.unwrap_or(0)).max(1.0) * 2.0;
        let bound = self.values(|look| f64::from(look.limit).min(most));
        let lines = vec![
            line("in flight", self.values(|look| f64::from(look.in_flight))),
            Line {
                is_bound: true,
                ..line("the window (as far as it fits)", bound)
            },
        ];
        self.chart("Samples in flight and the window", "samples", lines)
    }

    fn cost(&self) -> Chart {
        let per_call = self.over_span(|from, to| {
            let calls = to.done - from.done;
            (calls > 0).then(|| (to.cpu - from.cpu) * 1e6 / calls as f64)
        });
        self.chart(
            "Processor time of the clients",
            "µs per call",
            vec![line("processor time", per_call)],
        )
    }

    fn memory(&self) -> Chart {
        let resident = self.values(|look| look.resident as f64 / f64::from(1 << 20));
        self.chart(
            "Resident memory of the clients",
            "MiB",
            vec![line("resident", resident)],
        )
    }

    fn held(&self) -> Chart {
        let lines = vec![
            line("tasks", self.values(|look| look.tasks as f64)),
            line("sockets", self.values(|look| look.sockets as f64)),
        ];
        self.chart("Tasks and sockets of the clients", "count", lines)
    }

    fn latencies(&self) -> String {
        let times = self.seen.counts.times();
        let part = |title, times| Part { title, times };
        histogram::html(&[
            part(
                "Queueing: from the call to its first request",
                &times.queueing,
            ),
            part(
                "Submission: from a request to its answer",
                &times.submission,
            ),
            part("Completion: from the call to the result", &times.completion),
        ])
    }

    fn refusals(&self) -> String {
        let events = self.seen.server["events"].as_array();
        let by_event: Vec<(String, f64)> = events
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(i, event)| ((i + 1).to_string(), event[0].as_f64().unwrap_or(0.0)))
            .collect();
        if !by_event.is_empty() {
            return Bars {
                title: "Refusals of each congestion event, as the server saw them".to_owned(),
                unit: "refusals (429)",
                below: "event",
                bars: by_event,
            }
            .html();
        }
        if self.seen.looks.last().is_none_or(|last| last.refusals == 0) {
            return String::new();
        }
        let rates = vec![line("refusals", self.rates(|look| look.refusals as f64))];
        let of_each = self.over_span(|from, to| {
            let events = to.events - from.events;
            (events > 0).then(|| (to.refusals - from.refusals) as f64 / events as f64)
        });
        let of_each = vec![line("refusals for each event", of_each)];
        let charts = [
            self.chart("Refusals", "429s per second", rates),
            self.chart(
                "Refusals for each congestion event",
                "429s per event",
                of_each,
            ),
        ];
        charts.iter().map(Chart::html).collect()
    }

    fn wakes(&self) -> String {
        if self.seen.looks.last().is_none_or(|last| last.waits == 0) {
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
        self.chart(
            "Wake-ups for each that was let in after a wait",
            "wake-ups",
            lines,
        )
        .html()
    }

    fn values(&self, of: impl Fn(&Look) -> f64) -> Vec<(f64, f64)> {
        let looks = self.seen.looks.iter();
        looks.map(|look| (look.at, of(look))).collect()
    }

    fn rates(&self, of: fn(&Look) -> f64) -> Vec<(f64, f64)> {
        self.over_span(|from, to| {
            let seconds = to.at - from.at;
            (seconds > 0.0).then(|| (of(to) - of(from)) / seconds)
        })
    }

    fn over_span(&self, of: impl Fn(&Look, &Look) -> Option<f64>) -> Vec<(f64, f64)> {
        let spans = self.seen.looks.windows(SPAN + 1);
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
