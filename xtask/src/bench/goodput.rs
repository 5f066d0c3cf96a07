//! `cargo xtask bench goodput`: runs the client against a server that limits the samples in flight
//! and rejects further samples.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use super::case::Case;
use super::options::Options;
use super::oracle::{self, Level};
use super::program::{Run, RunOutcome, ScriptedServer, build, number, words};
use super::table::{Table, median, quantile};
use crate::out;

/// The timeout of a benchmark case, as a multiple of its duration with an ideal client, which
/// always uses the whole in-flight limit.
const TIMEOUT_FACTOR: u64 = 4;

/// The maximum number of requests that the server may reject with 429 per accepted sample.
const MAX_REJECTED: f64 = 0.05;

/// The number of benchmark cases with a long sample latency that run at the same time. Such cases
/// use little CPU time.
const CONCURRENT_LONG_CASES: usize = 4;
/// The sample latency in milliseconds from which a benchmark case counts as a case with a long
/// latency.
const LONG_MS: u64 = 1000;

pub(crate) fn run(options: Options) -> Result<(), String> {
    let cases = select(&options)?;
    let release = build()?;
    out::line(
        "goodput: time of the oracle divided by that of the client; 429s per accepted sample; 429s per congestion event; number \
         of events with more 429s than samples in flight at the first one; time from the end of the pause to the first accepted \
         sample, and to 90 % of the window in flight",
    );
    let (long, short): (Vec<Case>, Vec<Case>) = cases
        .into_iter()
        .partition(|case| case.latency_ms >= LONG_MS);
    let mut outcomes = run_all(&release, short, 1)?;
    outcomes.extend(run_all(&release, long, CONCURRENT_LONG_CASES)?);
    for line in table(&outcomes).lines() {
        out::line(&line);
    }
    let met = outcomes
        .iter()
        .filter(|outcome| outcome.meets_targets())
        .count();
    out::line(&format!(
        "{met} of {} cases meet the targets: 95 % of the oracle (90 % for a random walk), and at most one rejection per 20 accepted samples",
        outcomes.len()
    ));
    Ok(())
}

fn select(options: &Options) -> Result<Vec<Case>, String> {
    let all = Case::all(options.quick);
    let Some(only) = &options.only else {
        return Ok(all);
    };
    let names: Vec<String> = all.iter().map(Case::name).collect();
    let cases: Vec<Case> = all
        .into_iter()
        .filter(|case| case.name().contains(only))
        .collect();
    if cases.is_empty() {
        return Err(format!(
            "no case has `{only}` in its name; the cases are\n  {}",
            names.join("\n  ")
        ));
    }
    Ok(cases)
}

/// Runs benchmark cases, up to `concurrency` of them at the same time. Returns their outcomes in
/// the order of `cases`.
fn run_all(release: &Path, cases: Vec<Case>, concurrency: usize) -> Result<Vec<Outcome>, String> {
    let queue: Mutex<VecDeque<(usize, Case)>> = Mutex::new(cases.into_iter().enumerate().collect());
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let work = || -> Result<Vec<(usize, Outcome)>, String> {
        let mut done = Vec::new();
        while let Some((index, case)) = next() {
            let name = case.name();
            let outcome = measure(release, case).map_err(|error| format!("{name}: {error}"))?;
            out::line(&outcome.line());
            done.push((index, outcome));
        }
        Ok(done)
    };
    let mut all = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrency).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a case panicked".to_owned())??);
        }
        Ok::<(), String>(())
    })?;
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, outcome)| outcome).collect())
}

/// The measured outcome of a case of the goodput benchmark.
#[derive(Debug)]
struct Outcome {
    case: Case,
    oracle_ms: f64,
    /// The time in which the clients received all samples of the case, in milliseconds. `None` if a
    /// client timed out.
    took_ms: Option<f64>,
    accepted: f64,
    rejected: f64,
    events: Vec<Event>,
}

/// The statistics that the server has recorded about one congestion event, which is a series of 429
/// responses.
#[derive(Debug)]
struct Event {
    rejected: f64,
    in_flight: f64,
    first_grant_ms: Option<f64>,
    full_flow_ms: Option<f64>,
}

fn measure(release: &Path, case: Case) -> Result<Outcome, String> {
    let server = ScriptedServer::start(release, &words(&case.server_options()))?;
    let arguments = words(&format!(
        "bench sample --json --base-url {} --api-key tml-bench --requests {} --concurrency 0 --prompt-len 16 --max-tokens 16",
        server.url(),
        case.samples() / case.processes
    ));
    let runs = (0..case.processes)
        .map(|_| Run::start(release, "tinkers", &arguments))
        .collect::<Result<Vec<_>, _>>()?;
    let timeout_ms = case.oracle_estimate_ms() * TIMEOUT_FACTOR;
    let mut reports = Vec::new();
    for run in runs {
        reports.push(run.output_within(timeout_ms)?);
    }
    let seconds = reports
        .iter()
        .map(|outcome| match outcome {
            RunOutcome::Finished(report) => number(report, "/seconds").map(Some),
            RunOutcome::TimedOut => Ok(None),
        })
        .collect::<Result<Option<Vec<f64>>, _>>()?;
    Outcome::new(case, &server.counts()?, seconds)
}

impl Outcome {
    /// Creates the outcome of a case. `counts` are the statistics of the server. `seconds` contains
    /// the time that each client took, in seconds, or is `None` if a client timed out.
    fn new(case: Case, counts: &Value, seconds: Option<Vec<f64>>) -> Result<Self, String> {
        let levels = list(counts, "levels")?
            .iter()
            .map(|level| {
                Ok(Level {
                    at_ms: number(level, "/at_ms")?,
                    window: number(level, "/window")? as u64,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let oracle_ms = oracle::completion_ms(case.samples(), case.latency_ms as f64, &levels)
            .ok_or("the last window is 0")?;
        let took_ms = match seconds {
            None => None,
            // The time is the maximum of two: the longest time of a client, and the time on the
            // server from the first submission to the last completion.
            Some(seconds) => Some(
                seconds
                    .iter()
                    .fold(number(counts, "/last_end_ms")?, |longest, seconds| {
                        longest.max(seconds * 1000.0)
                    }),
            ),
        };
        let events = list(counts, "events")?
            .iter()
            .map(|event| {
                Ok(Event {
                    rejected: number(event, "/refused")?,
                    in_flight: number(event, "/in_flight")?,
                    first_grant_ms: event["first_grant_ms"].as_f64(),
                    full_flow_ms: event["full_flow_ms"].as_f64(),
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self {
            case,
            oracle_ms,
            took_ms,
            accepted: number(counts, "/accepted")?,
            rejected: number(counts, "/refused")?,
            events,
        })
    }

    fn goodput(&self) -> Option<f64> {
        self.took_ms.map(|took| self.oracle_ms / took)
    }

    fn rejection_ratio(&self) -> f64 {
        self.rejected / self.accepted.max(1.0)
    }

    fn meets_targets(&self) -> bool {
        let target = self.case.target();
        self.goodput().is_some_and(|goodput| goodput >= target)
            && self.rejection_ratio() <= MAX_REJECTED
    }

    fn goodput_percent(&self) -> String {
        match self.goodput() {
            Some(goodput) => format!("{:.1} %", goodput * 100.0),
            None => format!("< {} %", 100 / TIMEOUT_FACTOR),
        }
    }

    fn line(&self) -> String {
        format!(
            "{:<32} {:>7}  {:.2} 429s per accepted sample",
            self.case.name(),
            self.goodput_percent(),
            self.rejection_ratio()
        )
    }

    fn cells(&self) -> Vec<String> {
        let times = |time: fn(&Event) -> Option<f64>| {
            let numbers: Vec<f64> = self.events.iter().filter_map(time).collect();
            match (median(&numbers), quantile(&numbers, 0.99)) {
                (Some(median), Some(p99)) => format!("{median:.0} / {p99:.0}"),
                _ => "-".to_owned(),
            }
        };
        let rejected: Vec<f64> = self.events.iter().map(|event| event.rejected).collect();
        let excessive = self
            .events
            .iter()
            .filter(|event| event.rejected > event.in_flight)
            .count();
        vec![
            self.case.name(),
            self.case.samples().to_string(),
            format!("{:.1}", self.oracle_ms / 1000.0),
            self.took_ms.map_or_else(
                || "timed out".to_owned(),
                |took| format!("{:.1}", took / 1000.0),
            ),
            self.goodput_percent(),
            format!("{:.3}", self.rejection_ratio()),
            self.events.len().to_string(),
            match (median(&rejected), quantile(&rejected, 1.0)) {
                (Some(median), Some(max)) => format!("{median:.0} / {max:.0}"),
                _ => "-".to_owned(),
            },
            excessive.to_string(),
            times(|event| event.first_grant_ms),
            times(|event| event.full_flow_ms),
        ]
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(&[
        "window/sample/hint",
        "samples",
        "oracle s",
        "took s",
        "goodput",
        "429s/accepted",
        "events",
        "429s/event p50/max",
        "excessive",
        "first sample ms p50/p99",
        "90 % of window ms p50/p99",
    ]);
    for outcome in outcomes {
        table.row(outcome.cells());
    }
    table
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value[name]
        .as_array()
        .ok_or_else(|| format!("no list {name} in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fixed() -> Case {
        let mut all = Case::all(true);
        all.swap_remove(0)
    }

    fn counts() -> Value {
        json!({
            "accepted": 1000, "refused": 20, "last_end_ms": 10_500.0,
            "levels": [{ "at_ms": 0.0, "window": 20 }],
            "events": [
                { "refused": 19, "in_flight": 20, "first_grant_ms": 4.0, "full_flow_ms": 9.0 },
                { "refused": 21, "in_flight": 20, "first_grant_ms": null, "full_flow_ms": null },
            ],
        })
    }

    #[test]
    fn goodput_is_computed_from_the_slowest_client() {
        let outcome = |seconds| Outcome::new(fixed(), &counts(), seconds).unwrap();
        let good = outcome(Some(vec![10.0, 10.4]));
        assert_eq!(good.goodput(), Some(10_000.0 / 10_500.0));
        assert!(good.meets_targets());
        let slow = outcome(Some(vec![10.6]));
        assert_eq!(slow.goodput(), Some(10_000.0 / 10_600.0));
        assert!(!slow.meets_targets());
        let timed_out = outcome(None);
        assert_eq!(timed_out.goodput_percent(), "< 25 %");
        assert!(!timed_out.meets_targets());
        let cells = good.cells();
        assert_eq!(cells[5..], ["0.020", "2", "19 / 21", "1", "4 / 4", "9 / 9"]);
    }

    #[test]
    fn benchmark_case_with_too_many_rejections_misses_its_target() {
        let mut counts = counts();
        counts["refused"] = 51.into();
        let outcome = Outcome::new(fixed(), &counts, Some(vec![10.0])).unwrap();
        assert!(!outcome.meets_targets());
    }

    #[test]
    fn missing_counter_of_the_benchmark_server_is_an_error() {
        for name in ["accepted", "refused", "levels", "events", "last_end_ms"] {
            let mut counts = counts();
            counts.as_object_mut().unwrap().remove(name);
            let error = Outcome::new(fixed(), &counts, Some(vec![1.0])).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn benchmark_cases_are_selected_by_part_of_their_name() {
        let select_named = |only: &str| {
            select(&Options {
                only: Some(only.to_owned()),
                ..Options::default()
            })
        };
        assert!(
            select_named("walk/")
                .unwrap()
                .iter()
                .all(|case| case.name().starts_with("walk"))
        );
        assert!(
            select_named("unknown")
                .unwrap_err()
                .contains("steps/200ms/none")
        );
    }
}
