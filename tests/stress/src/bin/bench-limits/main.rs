//! What the limits cost, beside what they are compared with, in one run: rounds alternate, and the median counts.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod door;
mod measure;
mod mutexed;

use std::hint::black_box;
use std::num::NonZeroU32;

use clap::Parser;
use governor::{Quota, RateLimiter};
use serde_json::{Value, json};
use tinkers_limits::BackoffGate;
use tokio::runtime::Runtime;

use door::{Boxed, Door, Tokio, Wait};
use measure::median;
use mutexed::Mutexed;

/// What the limits cost, beside what they are compared with.
#[derive(Debug, Parser)]
struct Options {
    /// A tenth of the work, to see that it runs.
    #[arg(long)]
    quick: bool,
    /// JSON in place of the table.
    #[arg(long)]
    json: bool,
}

/// One line of the table.
struct Row {
    what: &'static str,
    at_once: u32,
    /// By name: nanoseconds.
    figures: Vec<(&'static str, f64)>,
    /// By name: what is no time.
    ratios: Vec<(&'static str, f64)>,
}

const AT_ONCE: [u32; 3] = [2, 8, 64];

/// How much work.
#[derive(Clone, Copy)]
struct Work {
    rounds: usize,
    calls: u64,
    waiters: usize,
}

fn main() {
    let options = Options::parse();
    let work = match options.quick {
        true => Work {
            rounds: 3,
            calls: 100_000,
            waiters: 10_000,
        },
        false => Work {
            rounds: 9,
            calls: 1_000_000,
            waiters: 10_000,
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().build();
    let runtime = runtime.expect("this machine has threads");
    let mut rows = vec![gate(1, work)];
    rows.extend(AT_ONCE.map(|threads| gate(threads, work)));
    rows.push(alone(work));
    rows.extend(AT_ONCE.map(|tasks| among(&runtime, tasks, work)));
    rows.push(hand_over(&runtime, work));
    if options.json {
        let rows: Vec<Value> = rows.iter().map(Row::as_json).collect();
        println!("{}", json!({ "limits": rows }));
    } else {
        rows.iter().for_each(|row| println!("{}", row.as_text()));
    }
}

fn gate(threads: u32, work: Work) -> Row {
    let gate = BackoffGate::new();
    let limiter = RateLimiter::direct(Quota::per_second(NonZeroU32::MAX));
    let (mut ours, mut governors) = (Vec::new(), Vec::new());
    for _ in 0..work.rounds {
        ours.push(measure::on_threads(
            threads as usize,
            work.calls * 4,
            || {
                black_box(black_box(&gate).open());
            },
        ));
        governors.push(measure::on_threads(threads as usize, work.calls, || {
            let _allowed = black_box(black_box(&limiter).check());
        }));
    }
    let (ours, governors) = (median(ours), median(governors));
    Row {
        what: "check of an open gate",
        at_once: threads,
        figures: vec![("gate", ours), ("governor", governors)],
        ratios: vec![("of governor", ours / governors)],
    }
}

/// Figures of each door, round by round.
#[derive(Default)]
struct Doors {
    wait: Vec<f64>,
    boxed: Vec<f64>,
    tokio: Vec<f64>,
    mutexed: Vec<f64>,
}

impl Doors {
    fn row(self, what: &'static str, at_once: u32) -> Row {
        let [wait, boxed, tokio, mutexed] =
            [self.wait, self.boxed, self.tokio, self.mutexed].map(median);
        Row {
            what,
            at_once,
            figures: vec![
                ("wait", wait),
                ("boxed", boxed),
                ("tokio", tokio),
                ("one mutex", mutexed),
            ],
            ratios: vec![
                ("of tokio", wait / tokio),
                ("boxed of tokio", boxed / tokio),
            ],
        }
    }
}

fn alone(work: Work) -> Row {
    let mut doors = Doors::default();
    for _ in 0..work.rounds {
        doors.wait.push(measure::alone::<Wait>(work.calls));
        doors.boxed.push(measure::alone::<Boxed>(work.calls));
        doors.tokio.push(measure::alone::<Tokio>(work.calls));
        doors.mutexed.push(measure::alone::<Mutexed>(work.calls));
    }
    doors.row("admit and release", 1)
}

fn among(runtime: &Runtime, tasks: u32, work: Work) -> Row {
    let (mut doors, mut wakes) = (Doors::default(), Vec::new());
    let calls = work.calls / 10;
    for _ in 0..work.rounds {
        let (cost, ratio) = measure::among::<Wait>(runtime, tasks, calls);
        doors.wait.push(cost);
        wakes.extend(ratio);
        doors
            .boxed
            .push(measure::among::<Boxed>(runtime, tasks, calls).0);
        doors
            .tokio
            .push(measure::among::<Tokio>(runtime, tasks, calls).0);
        doors
            .mutexed
            .push(measure::among::<Mutexed>(runtime, tasks, calls).0);
    }
    let mut row = doors.row("admit and release", tasks);
    row.ratios.push(("wake-ups per wait", median(wakes)));
    row
}

fn hand_over(runtime: &Runtime, work: Work) -> Row {
    let mut figures = Vec::new();
    figures.extend(percentiles::<Wait>(runtime, work, ["wait p50", "wait p99"]));
    figures.extend(percentiles::<Tokio>(
        runtime,
        work,
        ["tokio p50", "tokio p99"],
    ));
    figures.extend(percentiles::<Mutexed>(
        runtime,
        work,
        ["one mutex p50", "one mutex p99"],
    ));
    Row {
        what: "hand-over",
        at_once: work.waiters as u32,
        figures,
        ratios: Vec::new(),
    }
}

fn percentiles<D: Door>(
    runtime: &Runtime,
    work: Work,
    names: [&'static str; 2],
) -> [(&'static str, f64); 2] {
    let rounds = (0..work.rounds).map(|_| measure::hand_over::<D>(runtime, work.waiters));
    let (mut halves, mut most) = (Vec::new(), Vec::new());
    for histogram in rounds {
        halves.push(histogram.value_at_quantile(0.5) as f64);
        most.push(histogram.value_at_quantile(0.99) as f64);
    }
    [(names[0], median(halves)), (names[1], median(most))]
}

impl Row {
    fn as_text(&self) -> String {
        let figures = self
            .figures
            .iter()
            .map(|(name, ns)| format!("{name} {ns:.1} ns"));
        let ratios = self
            .ratios
            .iter()
            .map(|(name, ratio)| format!("{ratio:.3} {name}"));
        let parts: Vec<String> = figures.chain(ratios).collect();
        format!(
            "{:<22} {:>6}  {}",
            self.what,
            self.at_once,
            parts.join(", ")
        )
    }

    fn as_json(&self) -> Value {
        let map = |pairs: &[(&'static str, f64)]| -> Value {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)));
            pairs.collect::<serde_json::Map<_, _>>().into()
        };
        json!({
            "what": self.what,
            "at_once": self.at_once,
            "nanoseconds": map(&self.figures),
            "ratios": map(&self.ratios),
        })
    }
}
