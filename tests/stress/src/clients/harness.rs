//! One run of a profile: the server's process, the clients, the looks at them, the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tinkers_session::Endpoints;
use tokio::runtime::{Builder, Handle, Runtime};

use super::control::Control;
use super::count::{Counts, Verb};
use super::in_use::InUse;
use super::load::Ground;
use super::probe::{self, Look};
use super::profile::{Profile, Shape};
use super::recovery;
use super::report::Report;
use super::server::Child;
use super::shapes;
use super::verdict::{Left, Seen, Verdict};
use crate::watch::Stopwatch;

/// How a run is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the load lasts.
    pub length: Duration,
    /// Clients of a steady load.
    pub clients: usize,
    /// Tasks of each client that sample.
    pub tasks: usize,
    /// Of the fault script.
    pub seed: u64,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// The program that is the server; this one unless given.
    pub server: Option<PathBuf>,
    /// How long calls may take to end after the load.
    pub patience: Duration,
    /// What the server does wrong that has to be found.
    pub control: Option<Control>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// In a word.
    pub verdict: Verdict,
    /// For people.
    pub text: String,
    /// For machines.
    pub json: Value,
}

/// How long what is left may take to go, unless patience ends before.
const GOODBYE: Duration = Duration::from_secs(15);

/// Runs a profile.
///
/// # Errors
/// When the server's process or a runtime cannot be had.
pub fn run(profile: &Profile, options: &Options) -> Result<Outcome, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("clients")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let before = left(runtime.handle());
    let mut child = Child::start(
        options.server.as_deref(),
        profile,
        options.control,
        options.seed,
        options.length,
    )?;
    let counts = Counts::default();
    let watch = Stopwatch::start();
    let in_use = InUse::new(watch);
    let loads = Loads {
        profile,
        options,
        runtime: &runtime,
        url: child.url.clone(),
        counts: counts.clone(),
        in_use: in_use.clone(),
        watch,
        before,
    };
    let (looks, cycles) = loads.run();
    let goodbye = options.patience.min(GOODBYE);
    let held = in_use.look().map(|service| settled(&service, goodbye));
    let server = child.counts()?;
    let at_most = looks.iter().max_by_key(|look| look.in_flight);
    let first = looks.first().copied().unwrap_or_default();
    let per_sample = match profile.shape {
        Shape::ManySamples(_) => at_most.map(|most| {
            most.resident.saturating_sub(first.resident) as f64 / f64::from(most.in_flight.max(1))
        }),
        _ => None,
    };
    in_use.forget();
    let mut after = gone(runtime.handle(), before, goodbye);
    after.held = held.unwrap_or_default();
    drop(child);
    let pauses = in_use.pauses();
    let seen = Seen {
        profile,
        length: options.length,
        counts: &counts,
        server: &server,
        looks: &looks,
        pauses: &pauses,
        before,
        after,
        cycles: &cycles,
        per_sample,
    };
    let (broken, inconclusive) = (seen.broken(), seen.inconclusive());
    let verdict = match (broken.is_empty(), inconclusive.is_empty()) {
        (false, _) => Verdict::Broken,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Holds,
    };
    let mut text = table(&seen, options.seed, verdict);
    for why in broken.iter().chain(&inconclusive) {
        text.push_str(&format!("\n  {why}"));
    }
    if let Some(path) = &options.report {
        Report {
            seen: &seen,
            verdict,
            seed: options.seed,
            notes: broken.iter().chain(&inconclusive).cloned().collect(),
        }
        .write(path)?;
        text.push_str(&format!("\n  report: {}", path.display()));
    }
    let json = as_json(&seen, options.seed, verdict, &broken, &inconclusive);
    runtime.shutdown_background();
    Ok(Outcome {
        verdict,
        text,
        json,
    })
}

struct Loads<'a> {
    profile: &'a Profile,
    options: &'a Options,
    runtime: &'a Runtime,
    url: String,
    counts: Counts,
    in_use: InUse,
    watch: Stopwatch,
    before: Left,
}

impl Loads<'_> {
    /// The looks, and the memory at the end of each cycle.
    fn run(&self) -> (Vec<Look>, Vec<u64>) {
        let bar = bar(self.options.length);
        let mut looks = Vec::new();
        let mut cycles = Vec::new();
        let count = if self.profile.shape == Shape::Cycles {
            3
        } else {
            1
        };
        for cycle in 1..=count {
            let until = self.options.length * cycle / count;
            self.one(until, &mut looks, &bar);
            if count > 1 {
                self.in_use.forget();
                gone(self.runtime.handle(), self.before, GOODBYE);
                cycles.push(probe::resident());
            }
        }
        bar.finish_and_clear();
        (looks, cycles)
    }

    /// One load, looked at until all of its calls have ended.
    fn one(&self, until: Duration, looks: &mut Vec<Look>, bar: &ProgressBar) {
        let watch = self.watch;
        let ended = Arc::new(AtomicBool::new(false));
        let ground = Ground {
            url: self.url.clone(),
            runtime: self.runtime.handle().clone(),
            counts: self.counts.clone(),
            goes_on: Arc::new(move || watch.elapsed() < until),
        };
        let (load, over) = (self.load(ground), Arc::clone(&ended));
        // On threads of its own: what the clients cost shows on theirs.
        let caller = std::thread::spawn(move || {
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime for the callers");
            runtime.block_on(load);
            over.store(true, Ordering::SeqCst);
        });
        while !ended.load(Ordering::SeqCst) && watch.elapsed() < until + self.options.patience {
            let look = Look::now(watch, &self.counts, &self.in_use, self.runtime.handle());
            bar.set_position(watch.elapsed().min(self.options.length).as_millis() as u64);
            bar.set_message(format!(
                "{} done, {} in flight of {}, {} refused",
                look.done, look.in_flight, look.limit, look.refusals
            ));
            looks.push(look);
            std::thread::park_timeout(probe::EVERY);
        }
        if ended.load(Ordering::SeqCst) {
            let _ = caller.join();
        }
    }

    fn load(&self, ground: Ground) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let in_use = self.in_use.clone();
        let Options { clients, tasks, .. } = *self.options;
        match self.profile.shape {
            Shape::Steady | Shape::Cycles => {
                Box::pin(shapes::steady(ground, in_use, clients, tasks))
            }
            Shape::Churn => Box::pin(shapes::churn(ground, in_use)),
            Shape::Waves => Box::pin(shapes::waves(ground, in_use)),
            Shape::LargeUpdate => Box::pin(shapes::large_update(ground, in_use)),
            Shape::ManySamples(count) => Box::pin(shapes::at_once(ground, in_use, count)),
            Shape::Polls => Box::pin(shapes::polls(ground, in_use)),
        }
    }
}

fn bar(length: Duration) -> ProgressBar {
    let bar = ProgressBar::new(length.as_millis() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn left(runtime: &Handle) -> Left {
    Left {
        held: [0; 5],
        tasks: runtime.metrics().num_alive_tasks(),
        sockets: probe::sockets(),
        entries: Endpoints::shared().len(),
        threads: probe::threads(),
    }
}

/// What is left once everything that can go has gone, which takes a moment: connections say goodbye.
fn gone(runtime: &Handle, wanted: Left, patience: Duration) -> Left {
    let watch = Stopwatch::start();
    loop {
        let now = left(runtime);
        let is_back = now.tasks <= wanted.tasks
            && now.sockets <= wanted.sockets
            && now.entries <= wanted.entries
            && now.threads <= wanted.threads;
        if is_back || watch.elapsed() > patience {
            return now;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What the limiter holds once what ends of itself has ended.
fn settled(service: &tinkers::ServiceClient, patience: Duration) -> [u64; 5] {
    let watch = Stopwatch::start();
    loop {
        let held = probe::held(&service.limits());
        if held == [0; 5] || watch.elapsed() > patience {
            return held;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn table(seen: &Seen<'_>, seed: u64, verdict: Verdict) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "",
        "called",
        "ended well",
        "failed, not sent",
        "failed otherwise",
        "given up",
    ]);
    for verb in Verb::ALL {
        let ended = seen.counts.of(verb);
        let cells = [
            ended.called,
            ended.ok,
            ended.not_sent,
            ended.other,
            ended.given_up,
        ];
        let cells = cells.map(|count| count.to_string());
        table.add_row(std::iter::once(verb.name().to_owned()).chain(cells));
    }
    let last = seen.looks.last().copied().unwrap_or_default();
    let times = seen.counts.times();
    let ms = |micros: u64| micros as f64 / 1000.0;
    let mut text = format!(
        "{} {verdict} (seed {seed}): {}\n{table}\n  {:.0} calls/s, {:.0} us of processor time each; {} refusals in {} events; {:.3} wake-ups per wait",
        seen.profile.name,
        seen.profile.about,
        last.done as f64 / last.at.max(0.1),
        last.cpu * 1e6 / last.done.max(1) as f64,
        last.refusals,
        last.events,
        last.wakes as f64 / last.waits.max(1) as f64,
    );
    for (name, times) in [
        ("queueing", &times.queueing),
        ("submission", &times.submission),
        ("completion", &times.completion),
    ] {
        text.push_str(&format!(
            "\n  {name} of samples, ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, most {:.1}",
            ms(times.value_at_quantile(0.5)),
            ms(times.value_at_quantile(0.9)),
            ms(times.value_at_quantile(0.99)),
            ms(times.max())
        ));
    }
    match seen.recovery() {
        Some(recovery) => text.push_str(&format!("\n  {}", recovery.text())),
        None if matches!(seen.profile.shape, Shape::Steady | Shape::Polls) => {
            if let Some(shortest) = recovery::shortest(seen.profile) {
                text.push_str(&format!(
                    "\n  too short to see how it goes on after the faults; {} s are enough",
                    shortest.as_secs()
                ));
            }
        }
        None => {}
    }
    if let Some(share) = seen.share() {
        text.push_str(&format!(
            "\n  {:.0} % of the samples that the server's window allows",
            share * 100.0
        ));
    }
    if let Some(bytes) = seen.per_sample {
        text.push_str(&format!(
            "\n  {bytes:.0} bytes for each sample in flight (aim: 2048)"
        ));
    }
    text
}

fn as_json(
    seen: &Seen<'_>,
    seed: u64,
    verdict: Verdict,
    broken: &[String],
    inconclusive: &[String],
) -> Value {
    let calls = Verb::ALL.map(|verb| {
        let ended = seen.counts.of(verb);
        let counts = json!({
            "called": ended.called,
            "ok": ended.ok,
            "not_sent": ended.not_sent,
            "failed_otherwise": ended.other,
            "wrong": ended.wrong,
            "given_up": ended.given_up,
        });
        (verb.name().to_owned(), counts)
    });
    let calls: serde_json::Map<String, Value> = calls.into_iter().collect();
    let last = seen.looks.last().copied().unwrap_or_default();
    // Each call by itself would be a long line.
    let mut server = seen.server.clone();
    if let Some(counts) = server.as_object_mut() {
        counts.remove("applied");
    }
    json!({
        "profile": seen.profile.name,
        "verdict": verdict.to_string(),
        "seed": seed,
        "calls": calls,
        "failures": seen.counts.failures(),
        "server": server,
        "seconds": last.at,
        "calls_per_second": last.done as f64 / last.at.max(0.1),
        "refusals": last.refusals,
        "recovery": seen.recovery().map(|recovery| {
            json!({
                "calls_per_second_before": recovery.clean,
                "calls_per_second_after": recovery.after,
                "full_flow_after_s": recovery.took,
            })
        }),
        "share_of_window": seen.share(),
        "bytes_per_sample": seen.per_sample,
        "broken": broken,
        "inconclusive": inconclusive,
    })
}
