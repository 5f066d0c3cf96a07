//! `cargo xtask bench goodput`: the client against a server that takes so many samples at once and refuses the rest.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use super::case::Case;
use super::options::Options;
use super::oracle::{self, Level};
use super::program::{Limited, Run, Scripted, build, number, words};
use super::table::{Table, median, quantile};
use crate::out;

/// A case that takes longer than so many times the oracle is stopped.
const PATIENCE: u64 = 4;

/// Rejections for each sample accepted that are aimed at.
const AIM_REJECTED: f64 = 0.05;

/// Cases of long samples load no processor, so this many run at once.
const AT_ONCE: usize = 4;
const LONG_MS: u64 = 1000;

pub(crate) fn run(options: Options) -> Result<(), String> {
    let cases = chosen(&options)?;
    let release = build()?;
    out::line(
        "goodput: the oracle's time over ours; 429s for each sample accepted; for each congestion event the 429s, and how \
         many events had more of them than samples in flight at the first; from the end of a closed window to the first \
         sample accepted, and to nine tenths of the window in flight",
    );
    let (long, short): (Vec<Case>, Vec<Case>) = cases
        .into_iter()
        .partition(|case| case.latency_ms >= LONG_MS);
    let mut outcomes = together(&release, short, 1)?;
    outcomes.extend(together(&release, long, AT_ONCE)?);
    for line in table(&outcomes).lines() {
        out::line(&line);
    }
    let good = outcomes
        .iter()
        .filter(|outcome| outcome.is_as_aimed())
        .count();
    out::line(&format!(
        "{good} of {} cases are as aimed: 95 % of the oracle, 90 % with a walking window, and one rejection for twenty accepted",
        outcomes.len()
    ));
    Ok(())
}

fn chosen(options: &Options) -> Result<Vec<Case>, String> {
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
            "no case has `{only}` in its name; there are\n  {}",
            names.join("\n  ")
        ));
    }
    Ok(cases)
}

/// Runs the cases, so many at once; in their order.
fn together(release: &Path, cases: Vec<Case>, at_once: usize) -> Result<Vec<Outcome>, String> {
    let queue: Mutex<VecDeque<(usize, Case)>> = Mutex::new(cases.into_iter().enumerate().collect());
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let work = || -> Result<Vec<(usize, Outcome)>, String> {
        let mut done = Vec::new();
        while let Some((place, case)) = next() {
            let name = case.name();
            let outcome = measure(release, case).map_err(|why| format!("{name}: {why}"))?;
            out::line(&outcome.line());
            done.push((place, outcome));
        }
        Ok(done)
    };
    let mut all = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a case panicked".to_owned())??);
        }
        Ok::<(), String>(())
    })?;
    all.sort_by_key(|(place, _)| *place);
    Ok(all.into_iter().map(|(_, outcome)| outcome).collect())
}

/// What a case came to.
#[derive(Debug)]
struct Outcome {
    case: Case,
    oracle_ms: f64,
    /// `None` when it was stopped.
    took_ms: Option<f64>,
    accepted: f64,
    refused: f64,
    events: Vec<Event>,
}

/// One congestion event, as the server saw it.
#[derive(Debug)]
struct Event {
    refused: f64,
    in_flight: f64,
    first_grant_ms: Option<f64>,
    full_flow_ms: Option<f64>,
}

fn measure(release: &Path, case: Case) -> Result<Outcome, String> {
    let server = Scripted::start(release, &words(&case.server()))?;
    let arguments = words(&format!(
        "bench sample --json --base-url {} --api-key tml-bench --requests {} --concurrency 0 --prompt-len 16 --max-tokens 16",
        server.url(),
        case.samples() / case.processes
    ));
    let runs = (0..case.processes)
        .map(|_| Run::start(release, "tinkers", &arguments))
        .collect::<Result<Vec<_>, _>>()?;
    let limit = case.about_ms() * PATIENCE;
    let mut told = Vec::new();
    for run in runs {
        told.push(run.within(limit)?);
    }
    let seconds = told
        .iter()
        .map(|told| match told {
            Limited::Ended(told) => number(told, "/seconds").map(Some),
            Limited::Stopped => Ok(None),
        })
        .collect::<Result<Option<Vec<f64>>, _>>()?;
    Outcome::of(case, &server.counts()?, seconds)
}

impl Outcome {
    /// From the server's counts and how long each client took, when all of them ended.
    fn of(case: Case, counts: &Value, seconds: Option<Vec<f64>>) -> Result<Self, String> {
        let levels = list(counts, "levels")?
            .iter()
            .map(|level| {
                Ok(Level {
                    at_ms: number(level, "/at_ms")?,
                    window: number(level, "/window")? as u64,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let oracle_ms = oracle::ends_at_ms(case.samples(), case.latency_ms as f64, &levels)
            .ok_or("the window ended closed")?;
        let took_ms = match seconds {
            None => None,
            // The longest of the clients, or from the first submission to the last end on the server, where that is more.
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
                    refused: number(event, "/refused")?,
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
            refused: number(counts, "/refused")?,
            events,
        })
    }

    fn goodput(&self) -> Option<f64> {
        self.took_ms.map(|took| self.oracle_ms / took)
    }

    fn rejected(&self) -> f64 {
        self.refused / self.accepted.max(1.0)
    }

    fn is_as_aimed(&self) -> bool {
        let aim = self.case.aim();
        self.goodput().is_some_and(|goodput| goodput >= aim) && self.rejected() <= AIM_REJECTED
    }

    fn share(&self) -> String {
        match self.goodput() {
            Some(goodput) => format!("{:.1} %", goodput * 100.0),
            None => format!("< {} %", 100 / PATIENCE),
        }
    }

    fn line(&self) -> String {
        format!(
            "{:<32} {:>7}  {:.2} 429s for each accepted",
            self.case.name(),
            self.share(),
            self.rejected()
        )
    }

    fn cells(&self) -> Vec<String> {
        let times = |of: fn(&Event) -> Option<f64>| {
            let numbers: Vec<f64> = self.events.iter().filter_map(of).collect();
            match (median(&numbers), quantile(&numbers, 0.99)) {
                (Some(middle), Some(high)) => format!("{middle:.0} / {high:.0}"),
                _ => "-".to_owned(),
            }
        };
        let refused: Vec<f64> = self.events.iter().map(|event| event.refused).collect();
        let beyond = self
            .events
            .iter()
            .filter(|event| event.refused > event.in_flight)
            .count();
        vec![
            self.case.name(),
            self.case.samples().to_string(),
            format!("{:.1}", self.oracle_ms / 1000.0),
            self.took_ms.map_or_else(
                || "stopped".to_owned(),
                |took| format!("{:.1}", took / 1000.0),
            ),
            self.share(),
            format!("{:.3}", self.rejected()),
            self.events.len().to_string(),
            match (median(&refused), quantile(&refused, 1.0)) {
                (Some(middle), Some(most)) => format!("{middle:.0} / {most:.0}"),
                _ => "-".to_owned(),
            },
            beyond.to_string(),
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
        "beyond",
        "first grant ms p50/p99",
        "full flow ms p50/p99",
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
    fn goodput_is_the_oracles_time_over_the_longer_of_ours() {
        let outcome = |seconds| Outcome::of(fixed(), &counts(), seconds).unwrap();
        let good = outcome(Some(vec![10.0, 10.4]));
        assert_eq!(good.goodput(), Some(10_000.0 / 10_500.0));
        assert!(good.is_as_aimed());
        let slow = outcome(Some(vec![10.6]));
        assert_eq!(slow.goodput(), Some(10_000.0 / 10_600.0));
        assert!(!slow.is_as_aimed());
        let stopped = outcome(None);
        assert_eq!(stopped.share(), "< 25 %");
        assert!(!stopped.is_as_aimed());
        let cells = good.cells();
        assert_eq!(cells[5..], ["0.020", "2", "19 / 21", "1", "4 / 4", "9 / 9"]);
    }

    #[test]
    fn too_many_rejections_are_not_as_aimed() {
        let mut counts = counts();
        counts["refused"] = 51.into();
        let outcome = Outcome::of(fixed(), &counts, Some(vec![10.0])).unwrap();
        assert!(!outcome.is_as_aimed());
    }

    #[test]
    fn counts_that_lack_something_are_an_error() {
        for name in ["accepted", "refused", "levels", "events", "last_end_ms"] {
            let mut counts = counts();
            counts.as_object_mut().unwrap().remove(name);
            let error = Outcome::of(fixed(), &counts, Some(vec![1.0])).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_case_is_picked_by_a_part_of_its_name() {
        let pick = |only: &str| {
            chosen(&Options {
                only: Some(only.to_owned()),
                ..Options::default()
            })
        };
        assert!(
            pick("walk/")
                .unwrap()
                .iter()
                .all(|case| case.name().starts_with("walk"))
        );
        assert!(pick("dance").unwrap_err().contains("steps/200ms/none"));
    }
}
