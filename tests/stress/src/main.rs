//! The command line of the stress tests. It runs cases or a client profile, and prints the results.
#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tinkers_stress::case::{CASES, Case, Round, Size, Verdict};
use tinkers_stress::clients::{self, Control, PROFILES, Profile};
use tinkers_stress::stopwatch::Stopwatch;

/// Stress-tests the limiter and the registry on real threads or, with --profile, whole clients over loopback sockets. Checks exact
/// counts. Exit status: 0 passed, 1 failed, 2 inconclusive.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask stress")]
struct Options {
    /// The duration of the run in seconds. It is divided among the cases. Each case runs at least once.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// The seed of the first round of each case, to repeat an earlier run. It is random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Run only this case.
    #[arg(long, value_parser = CASES.iter().map(|case| case.name).collect::<Vec<_>>())]
    only: Option<String>,
    /// Run whole clients under this profile.
    #[arg(long, value_parser = PROFILES.map(|profile| profile.name).to_vec(), conflicts_with = "only")]
    profile: Option<String>,
    /// The number of clients.
    #[arg(long, default_value_t = 4, requires = "profile")]
    clients: usize,
    /// The number of sampling tasks of each client.
    #[arg(long, default_value_t = 4, requires = "profile")]
    tasks: usize,
    /// The path of the HTML report. The default is target/stress/PROFILE.html.
    #[arg(long, requires = "profile")]
    report: Option<PathBuf>,
    /// Print one line of JSON for each case.
    #[arg(long)]
    json: bool,
    /// The number of seconds that pending calls may take to end after the load.
    #[arg(long, default_value_t = 120, requires = "profile")]
    patience: u64,
    /// Inject a server fault that the checks must detect, so that the run fails.
    #[arg(long, hide = true, value_parser = Control::ALL.map(Control::name).to_vec(), requires = "profile")]
    control: Option<String>,
}

/// The exit status of an inconclusive run: no tasks contended for the limiter, or no faults were
/// injected.
const INCONCLUSIVE: u8 = 2;

/// The combined results of all rounds (each with its own seed) of a stress case.
struct Run {
    rounds: u64,
    /// The seed of the last round, with which a failure can be repeated.
    seed: u64,
    last: Round,
    lost: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((clients::SERVE, rest)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return match clients::serve(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{}", json!({ "error": error }));
                ExitCode::FAILURE
            }
        };
    }
    let options = Options::parse();
    // The seed has only 32 bits, so that it is short enough to type.
    let seed = options
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one("stress") >> 32);
    if !options.json {
        println!("seed {seed}");
    }
    if let Some(profile) = options.profile.as_deref().and_then(Profile::named) {
        return run_clients(&options, &profile, seed);
    }
    let is_selected = |case: &&Case| options.only.as_ref().is_none_or(|only| only == case.name);
    let cases: Vec<&Case> = CASES.iter().filter(is_selected).collect();
    let duration = Duration::from_secs(options.secs) / cases.len() as u32;
    let (mut all_passed, mut has_failed, mut lost) = (true, false, 0);
    for case in cases {
        let run = repeat(case, seed, duration);
        all_passed &= run.last.verdict() == Verdict::Passed;
        has_failed |= run.last.verdict() == Verdict::Failed;
        lost += run.lost;
        println!(
            "{}",
            if options.json {
                as_json(case, &run).to_string()
            } else {
                as_text(case, &run)
            }
        );
    }
    // A single case may be too short to lose a compare-exchange. In this case its own check for
    // contention is sufficient.
    let has_contention = lost > 0 || options.only.is_some();
    if all_passed && !has_contention {
        println!("inconclusive: no compare-exchange failed, so the threads never contended");
    }
    match (has_failed, all_passed && has_contention) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(INCONCLUSIVE),
    }
}

fn run_clients(options: &Options, profile: &Profile, seed: u64) -> ExitCode {
    let report = options
        .report
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("target/stress/{}.html", profile.name)));
    let client_options = clients::Options {
        length: Duration::from_secs(options.secs),
        clients: options.clients,
        tasks: options.tasks,
        seed,
        report: Some(report),
        server: None,
        patience: Duration::from_secs(options.patience),
        control: options.control.as_deref().and_then(Control::named),
    };
    match clients::run(profile, &client_options) {
        Ok(outcome) => {
            match options.json {
                true => println!("{}", outcome.json),
                false => println!("{}", outcome.text),
            }
            match outcome.verdict {
                clients::Verdict::Passed => ExitCode::SUCCESS,
                clients::Verdict::Failed => ExitCode::FAILURE,
                clients::Verdict::Inconclusive => ExitCode::from(INCONCLUSIVE),
            }
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs rounds of a stress case with consecutive seeds, beginning with `seed`, until `time` has
/// passed or a round does not pass.
fn repeat(case: &Case, seed: u64, time: Duration) -> Run {
    let watch = Stopwatch::start();
    let (mut rounds, mut lost) = (0, 0);
    loop {
        let seed = seed.wrapping_add(rounds);
        let last = (case.run)(Size::Full, seed);
        rounds += 1;
        lost += last.lost;
        if last.verdict() != Verdict::Passed || watch.elapsed() >= time {
            return Run {
                rounds,
                seed,
                last,
                lost,
            };
        }
    }
}

fn as_text(case: &Case, run: &Run) -> String {
    let verdict = run.last.verdict();
    let mut text = format!(
        "{:<9} {verdict} after {} rounds (last seed {}): {}",
        case.name, run.rounds, run.seed, case.about
    );
    let listed = |figures: &[(&str, u64)]| {
        let figures = figures.iter().map(|(name, n)| format!("{name} {n}"));
        figures.collect::<Vec<_>>().join(", ")
    };
    if !run.last.figures.is_empty() {
        text.push_str(&format!("\n          {}", listed(&run.last.figures)));
        text.push_str(&format!(
            "\n          failed compare-exchanges in all rounds {}",
            run.lost
        ));
    }
    for (name, figures) in &run.last.groups {
        text.push_str(&format!("\n          {name}: {}", listed(figures)));
    }
    if let Some(ratio) = wakes_per_grant(&run.last) {
        text.push_str(&format!("\n          wake-ups per grant {ratio:.3}"));
    }
    for violation in &run.last.violations {
        text.push_str(&format!("\n          {violation}"));
    }
    text
}

/// Returns the average number of wake-ups of queued tasks per granted permit. Returns `None` if the
/// stress case does not count them.
fn wakes_per_grant(round: &Round) -> Option<f64> {
    let figure = |name: &str| {
        let (_, value) = round.figures.iter().find(|(other, _)| *other == name)?;
        Some(*value as f64)
    };
    let grants = figure("granted after a wait").or_else(|| figure("granted"))?;
    Some(figure("wake-ups")? / grants.max(1.0))
}

fn as_json(case: &Case, run: &Run) -> Value {
    let map = |figures: &[(&str, u64)]| -> Value {
        let figures = figures
            .iter()
            .map(|(name, n)| ((*name).to_owned(), json!(n)));
        figures.collect::<serde_json::Map<String, Value>>().into()
    };
    let groups = run.last.groups.iter();
    let groups: serde_json::Map<String, Value> = groups
        .map(|(name, figures)| (name.clone(), map(figures)))
        .collect();
    let violations = run.last.violations.iter().map(ToString::to_string);
    json!({
        "case": case.name,
        "verdict": run.last.verdict().to_string(),
        "rounds": run.rounds,
        "seed": run.seed,
        "figures": map(&run.last.figures),
        "groups": groups,
        "wakes_per_grant": wakes_per_grant(&run.last),
        "lost_exchanges": run.lost,
        "violations": violations.collect::<Vec<String>>(),
    })
}
