//! Runs a profile: starts the server and the clients, measures them, and decides on the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tinkers_session::Endpoints;
use tokio::runtime::{Builder, Handle, Runtime};

use super::calls::LoadContext;
use super::control::Control;
use super::counts::{Counts, Operation};
use super::loads;
use super::measurement::{self, Measurement};
use super::monitored_client::MonitoredClient;
use super::profile::{Profile, Shape};
use super::recovery;
use super::report::Report;
use super::server::Child;
use super::verdict::{Observations, ProcessResources, Verdict};
use crate::stopwatch::Stopwatch;

/// The options of a stress run with complete clients, which send real requests to a server process.
#[derive(Debug, Clone)]
pub struct Options {
    /// The duration of the load. After this time, the clients start no further calls.
    pub length: Duration,
    /// The number of clients, if the load is steady. Other loads ignore this option.
    pub clients: usize,
    /// The number of tasks of each client that request samples, if the load is steady.
    pub tasks: usize,
    /// The random seed with which the server decides which requests get an injected fault.
    pub seed: u64,
    /// The path of the HTML report. `None` to write no report.
    pub report: Option<PathBuf>,
    /// The path of the server program. `None` for the current executable.
    pub server: Option<PathBuf>,
    /// The time after the end of the load within which all pending calls must end. Otherwise the
    /// run fails.
    pub patience: Duration,
    /// A deliberate bug of the server's engine that the checks must detect (negative control).
    /// `None` for a correct engine.
    pub control: Option<Control>,
}

/// The result of a stress run with complete clients: the verdict, and the measured values as text
/// and as JSON.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict on the run: passed, failed or inconclusive.
    pub verdict: Verdict,
    /// A table of the measured values, to be printed.
    pub text: String,
    /// The measured values as JSON, for programs.
    pub json: Value,
}

/// The time after the last call within which all connections and background tasks of the clients
/// must end. `Options::patience` applies instead if it is shorter.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// Starts a server, runs the clients of a profile against it, and checks the outcomes of all calls.
///
/// # Errors
/// Fails if the server process or a runtime cannot be started, or if the report cannot be written.
pub fn run(profile: &Profile, options: &Options) -> Result<Outcome, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("clients")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let before = process_resources(runtime.handle());
    let mut child = Child::start(
        options.server.as_deref(),
        profile,
        options.control,
        options.seed,
        options.length,
    )?;
    let counts = Counts::default();
    let watch = Stopwatch::start();
    let monitored = MonitoredClient::new(watch);
    let loads = Loads {
        profile,
        options,
        runtime: &runtime,
        url: child.url.clone(),
        counts: counts.clone(),
        monitored: monitored.clone(),
        watch,
        before,
    };
    let (measurements, cycles) = loads.run();
    let shutdown = options.patience.min(SHUTDOWN);
    let held = monitored
        .get()
        .map(|service| wait_for_limiter(&service, shutdown));
    let server = child.counts()?;
    let peak = measurements
        .iter()
        .max_by_key(|measurement| measurement.in_flight);
    let first = measurements.first().copied().unwrap_or_default();
    let per_sample = match profile.shape {
        Shape::ManySamples(_) => peak.map(|most| {
            most.resident.saturating_sub(first.resident) as f64 / f64::from(most.in_flight.max(1))
        }),
        _ => None,
    };
    monitored.clear();
    let mut after = wait_for_cleanup(runtime.handle(), before, shutdown);
    after.held = held.unwrap_or_default();
    drop(child);
    let pauses = monitored.pauses();
    let observed = Observations {
        profile,
        length: options.length,
        counts: &counts,
        server: &server,
        measurements: &measurements,
        pauses: &pauses,
        before,
        after,
        cycles: &cycles,
        per_sample,
    };
    let (violations, inconclusive) = (observed.violations(), observed.inconclusive());
    let verdict = match (violations.is_empty(), inconclusive.is_empty()) {
        (false, _) => Verdict::Failed,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Passed,
    };
    let mut text = table(&observed, options.seed, verdict);
    for reason in violations.iter().chain(&inconclusive) {
        text.push_str(&format!("\n  {reason}"));
    }
    if let Some(path) = &options.report {
        Report {
            observed: &observed,
            verdict,
            seed: options.seed,
            notes: violations.iter().chain(&inconclusive).cloned().collect(),
        }
        .write(path)?;
        text.push_str(&format!("\n  report: {}", path.display()));
    }
    let json = as_json(&observed, options.seed, verdict, &violations, &inconclusive);
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
    monitored: MonitoredClient,
    watch: Stopwatch,
    before: ProcessResources,
}

impl Loads<'_> {
    /// Runs the load of the profile once, or three times with [`Shape::Cycles`]. Returns the
    /// measurements, and the resident memory of the process at the end of each cycle.
    fn run(&self) -> (Vec<Measurement>, Vec<u64>) {
        let bar = bar(self.options.length);
        let mut measurements = Vec::new();
        let mut cycles = Vec::new();
        let count = if self.profile.shape == Shape::Cycles {
            3
        } else {
            1
        };
        for cycle in 1..=count {
            let until = self.options.length * cycle / count;
            self.run_load(until, &mut measurements, &bar);
            if count > 1 {
                self.monitored.clear();
                wait_for_cleanup(self.runtime.handle(), self.before, SHUTDOWN);
                cycles.push(measurement::resident());
            }
        }
        bar.finish_and_clear();
        (measurements, cycles)
    }

    /// Runs the load of the profile once, until the stopwatch of the run reads `until`. Takes
    /// measurements until all calls of the load have ended.
    fn run_load(&self, until: Duration, measurements: &mut Vec<Measurement>, bar: &ProgressBar) {
        let watch = self.watch;
        let ended = Arc::new(AtomicBool::new(false));
        let context = LoadContext {
            url: self.url.clone(),
            runtime: self.runtime.handle().clone(),
            counts: self.counts.clone(),
            is_running: Arc::new(move || watch.elapsed() < until),
        };
        let (load, over) = (self.load(context), Arc::clone(&ended));
        // The callers run on a separate runtime, so that the measured runtime runs only the
        // clients.
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
            let measurement =
                Measurement::now(watch, &self.counts, &self.monitored, self.runtime.handle());
            bar.set_position(watch.elapsed().min(self.options.length).as_millis() as u64);
            bar.set_message(format!(
                "{} calls done, {} of {} samples in flight, {} refusals",
                measurement.done, measurement.in_flight, measurement.limit, measurement.refusals
            ));
            measurements.push(measurement);
            std::thread::park_timeout(measurement::INTERVAL);
        }
        if ended.load(Ordering::SeqCst) {
            let _ = caller.join();
        }
    }

    fn load(&self, context: LoadContext) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let monitored = self.monitored.clone();
        let Options { clients, tasks, .. } = *self.options;
        match self.profile.shape {
            Shape::Steady | Shape::Cycles => {
                Box::pin(loads::steady(context, monitored, clients, tasks))
            }
            Shape::Churn => Box::pin(loads::churn(context, monitored)),
            Shape::Waves => Box::pin(loads::waves(context, monitored)),
            Shape::LargeUpdate => Box::pin(loads::large_update(context, monitored)),
            Shape::ManySamples(count) => Box::pin(loads::at_once(context, monitored, count)),
            Shape::Polls => Box::pin(loads::polls(context, monitored)),
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

fn process_resources(runtime: &Handle) -> ProcessResources {
    ProcessResources {
        held: [0; 5],
        tasks: runtime.metrics().num_alive_tasks(),
        sockets: measurement::sockets(),
        entries: Endpoints::shared().len(),
        threads: measurement::threads(),
    }
}

/// Waits until the process uses no more resources (such as tasks, sockets and threads) than
/// `wanted`, but at most for `patience`. Returns the resources that the process then uses.
fn wait_for_cleanup(
    runtime: &Handle,
    wanted: ProcessResources,
    patience: Duration,
) -> ProcessResources {
    let watch = Stopwatch::start();
    loop {
        let now = process_resources(runtime);
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

/// Waits until no resources of the rate limiter are in use, but at most for `patience`. Returns the
/// resources that are still in use, in the order of [`measurement::held`].
fn wait_for_limiter(service: &tinkers::ServiceClient, patience: Duration) -> [u64; 5] {
    let watch = Stopwatch::start();
    loop {
        let held = measurement::held(&service.limits());
        if held == [0; 5] || watch.elapsed() > patience {
            return held;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn table(observed: &Observations<'_>, seed: u64, verdict: Verdict) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "",
        "calls",
        "succeeded",
        "failed before sending",
        "failed after sending",
        "cancelled",
    ]);
    for operation in Operation::ALL {
        let ended = observed.counts.of(operation);
        let cells = [
            ended.called,
            ended.ok,
            ended.not_sent,
            ended.other,
            ended.cancelled,
        ];
        let cells = cells.map(|count| count.to_string());
        table.add_row(std::iter::once(operation.name().to_owned()).chain(cells));
    }
    let last = observed.measurements.last().copied().unwrap_or_default();
    let times = observed.counts.times();
    let ms = |micros: u64| micros as f64 / 1000.0;
    let mut text = format!(
        "{} {verdict} (seed {seed}): {}\n{table}\n  {:.0} calls/s, {:.0} us CPU time per call; {} refusals in {} congestion events; {:.3} wake-ups per wait",
        observed.profile.name,
        observed.profile.about,
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
            "\n  sample {name} time in ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
            ms(times.value_at_quantile(0.5)),
            ms(times.value_at_quantile(0.9)),
            ms(times.value_at_quantile(0.99)),
            ms(times.max())
        ));
    }
    match observed.recovery() {
        Some(recovery) => text.push_str(&format!("\n  {}", recovery.text())),
        None if matches!(observed.profile.shape, Shape::Steady | Shape::Polls) => {
            if let Some(shortest) = recovery::shortest(observed.profile) {
                text.push_str(&format!(
                    "\n  run too short to measure the recovery after the faults; use --secs {} or more",
                    shortest.as_secs()
                ));
            }
        }
        None => {}
    }
    if let Some(share) = observed.throughput_fraction() {
        text.push_str(&format!(
            "\n  throughput: {:.0} % of the maximum that the server's window allows",
            share * 100.0
        ));
    }
    if let Some(bytes) = observed.per_sample {
        text.push_str(&format!(
            "\n  memory per sample in flight: {bytes:.0} bytes (target: 2048)"
        ));
    }
    text
}

fn as_json(
    observed: &Observations<'_>,
    seed: u64,
    verdict: Verdict,
    violations: &[String],
    inconclusive: &[String],
) -> Value {
    let calls = Operation::ALL.map(|operation| {
        let ended = observed.counts.of(operation);
        let counts = json!({
            "called": ended.called,
            "ok": ended.ok,
            "not_sent": ended.not_sent,
            "failed_otherwise": ended.other,
            "wrong": ended.wrong,
            "cancelled": ended.cancelled,
        });
        (operation.name().to_owned(), counts)
    });
    let calls: serde_json::Map<String, Value> = calls.into_iter().collect();
    let last = observed.measurements.last().copied().unwrap_or_default();
    // The list of all applied calls is too long to print.
    let mut server = observed.server.clone();
    if let Some(counts) = server.as_object_mut() {
        counts.remove("applied");
    }
    json!({
        "profile": observed.profile.name,
        "verdict": verdict.to_string(),
        "seed": seed,
        "calls": calls,
        "failures": observed.counts.failures(),
        "server": server,
        "seconds": last.at,
        "calls_per_second": last.done as f64 / last.at.max(0.1),
        "refusals": last.refusals,
        "recovery": observed.recovery().map(|recovery| {
            json!({
                "calls_per_second_before": recovery.clean,
                "calls_per_second_after": recovery.after,
                "full_flow_after_s": recovery.took,
            })
        }),
        "share_of_window": observed.throughput_fraction(),
        "bytes_per_sample": observed.per_sample,
        "violations": violations,
        "inconclusive": inconclusive,
    })
}
