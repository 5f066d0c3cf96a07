//! Benchmarks of the limiter of tinkers, compared with tokio, governor and a limiter under one
//! mutex. The rounds of the compared limiters alternate, and the program prints the medians.
#![expect(clippy::print_stdout, reason = "a command-line program")]

mod contenders;
mod measure;
mod mutex_limiter;

use std::hint::black_box;
use std::num::NonZeroU32;

use clap::Parser;
use governor::{Quota, RateLimiter};
use serde_json::{Value, json};
use tinkers_limits::BackoffGate;
use tokio::runtime::Runtime;

use contenders::{BoxedLimiter, Contender, TokioSemaphore, UnboxedLimiter};
use measure::median;
use mutex_limiter::MutexLimiter;

/// Measures the CPU time per operation of the limiter of tinkers, tokio's semaphore, governor, and
/// a limiter under one mutex.
#[derive(Debug, Parser)]
struct Options {
    /// Run a tenth of the work, as a smoke test.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One row of the printed table, with the measurements of one benchmark.
struct Row {
    name: &'static str,
    concurrency: u32,
    /// The measured times per operation of the limiters in nanoseconds. Each time has the name of
    /// its column.
    figures: Vec<(&'static str, f64)>,
    /// Ratios of two measured times, each with the name of its column.
    ratios: Vec<(&'static str, f64)>,
}

const CONCURRENCY: [u32; 3] = [2, 8, 64];

/// The amount of work of the benchmark: the numbers of rounds, of calls in a round, and of tasks
/// that wait for a permit.
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
    rows.extend(CONCURRENCY.map(|threads| gate(threads, work)));
    rows.push(uncontended(work));
    rows.extend(CONCURRENCY.map(|tasks| contended(&runtime, tasks, work)));
    rows.push(handover(&runtime, work));
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
        name: "check of an open gate",
        concurrency: threads,
        figures: vec![("gate", ours), ("governor", governors)],
        ratios: vec![("of governor", ours / governors)],
    }
}

/// The measured times per operation of each limiter, in nanoseconds. Each list has one value per
/// round.
#[derive(Default)]
struct Costs {
    wait: Vec<f64>,
    boxed: Vec<f64>,
    tokio: Vec<f64>,
    mutexed: Vec<f64>,
}

impl Costs {
    fn row(self, name: &'static str, concurrency: u32) -> Row {
        let [wait, boxed, tokio, mutexed] =
            [self.wait, self.boxed, self.tokio, self.mutexed].map(median);
        Row {
            name,
            concurrency,
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

fn uncontended(work: Work) -> Row {
    let mut costs = Costs::default();
    for _ in 0..work.rounds {
        costs
            .wait
            .push(measure::uncontended::<UnboxedLimiter>(work.calls));
        costs
            .boxed
            .push(measure::uncontended::<BoxedLimiter>(work.calls));
        costs
            .tokio
            .push(measure::uncontended::<TokioSemaphore>(work.calls));
        costs
            .mutexed
            .push(measure::uncontended::<MutexLimiter>(work.calls));
    }
    costs.row("admit and release", 1)
}

fn contended(runtime: &Runtime, tasks: u32, work: Work) -> Row {
    let (mut costs, mut wakes) = (Costs::default(), Vec::new());
    let calls = work.calls / 10;
    for _ in 0..work.rounds {
        let (cost, ratio) = measure::contended::<UnboxedLimiter>(runtime, tasks, calls);
        costs.wait.push(cost);
        wakes.extend(ratio);
        costs
            .boxed
            .push(measure::contended::<BoxedLimiter>(runtime, tasks, calls).0);
        costs
            .tokio
            .push(measure::contended::<TokioSemaphore>(runtime, tasks, calls).0);
        costs
            .mutexed
            .push(measure::contended::<MutexLimiter>(runtime, tasks, calls).0);
    }
    let mut row = costs.row("admit and release", tasks);
    row.ratios.push(("wake-ups per wait", median(wakes)));
    row
}

fn handover(runtime: &Runtime, work: Work) -> Row {
    let mut figures = Vec::new();
    figures.extend(percentiles::<UnboxedLimiter>(
        runtime,
        work,
        ["wait p50", "wait p99"],
    ));
    figures.extend(percentiles::<TokioSemaphore>(
        runtime,
        work,
        ["tokio p50", "tokio p99"],
    ));
    figures.extend(percentiles::<MutexLimiter>(
        runtime,
        work,
        ["one mutex p50", "one mutex p99"],
    ));
    Row {
        name: "handover",
        concurrency: work.waiters as u32,
        figures,
        ratios: Vec::new(),
    }
}

fn percentiles<D: Contender>(
    runtime: &Runtime,
    work: Work,
    names: [&'static str; 2],
) -> [(&'static str, f64); 2] {
    let rounds = (0..work.rounds).map(|_| measure::handover::<D>(runtime, work.waiters));
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
            self.name,
            self.concurrency,
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
            "name": self.name,
            "concurrency": self.concurrency,
            "nanoseconds": map(&self.figures),
            "ratios": map(&self.ratios),
        })
    }
}
