//! Runs the cases for as long as it is told to, and says what came of them.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tinkers_stress::case::{CASES, Case, Round, Size, Verdict};
use tinkers_stress::clients::{self, Control, PROFILES, Profile};
use tinkers_stress::watch::Stopwatch;

/// The limits and the registry under real threads, or with --profile whole clients on real sockets; counted exactly. Exits with 1
/// when a count is wrong, and with 2 when nothing was shown.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask stress")]
struct Options {
    /// Seconds for all cases together; each runs at least once.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// The seed of the first round of each case, as an earlier run printed it.
    #[arg(long)]
    seed: Option<u64>,
    /// One case alone.
    #[arg(long, value_parser = CASES.iter().map(|case| case.name).collect::<Vec<_>>())]
    only: Option<String>,
    /// Whole clients, under this profile.
    #[arg(long, value_parser = PROFILES.map(|profile| profile.name).to_vec(), conflicts_with = "only")]
    profile: Option<String>,
    /// Clients of the profile's load.
    #[arg(long, default_value_t = 4, requires = "profile")]
    clients: usize,
    /// Tasks of each client that sample.
    #[arg(long, default_value_t = 4, requires = "profile")]
    tasks: usize,
    /// Where the report of the profile goes; target/stress/PROFILE.html unless given.
    #[arg(long, requires = "profile")]
    report: Option<PathBuf>,
    /// One line of JSON for each case.
    #[arg(long)]
    json: bool,
    /// Seconds that calls of a profile may take to end after the load.
    #[arg(long, default_value_t = 120, requires = "profile")]
    patience: u64,
    /// A fault of the server that has to be found, so that the run fails.
    #[arg(long, hide = true, value_parser = Control::ALL.map(Control::name).to_vec(), requires = "profile")]
    control: Option<String>,
}

/// The exit status of a run in which nobody met anybody, or nothing went wrong that should have.
const NOTHING_SHOWN: u8 = 2;

/// All rounds of a case.
struct Run {
    rounds: u64,
    /// Of the last round.
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
            Err(why) => {
                println!("{}", json!({ "error": why }));
                ExitCode::FAILURE
            }
        };
    }
    let options = Options::parse();
    // Short enough to be typed again.
    let seed = options
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one("stress") >> 32);
    if !options.json {
        println!("seed {seed}");
    }
    if let Some(profile) = options.profile.as_deref().and_then(Profile::named) {
        return run_clients(&options, &profile, seed);
    }
    let is_wanted = |case: &&Case| options.only.as_ref().is_none_or(|only| only == case.name);
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    let each = Duration::from_secs(options.secs) / cases.len() as u32;
    let (mut all_hold, mut has_failed, mut lost) = (true, false, 0);
    for case in cases {
        let run = repeat(case, seed, each);
        all_hold &= run.last.verdict() == Verdict::Holds;
        has_failed |= run.last.verdict() == Verdict::Fails;
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
    // One case alone may be too short for it; that its waiters met it has said itself.
    let has_met = lost > 0 || options.only.is_some();
    if all_hold && !has_met {
        println!("inconclusive: no thread ever lost an exchange to another one");
    }
    match (has_failed, all_hold && has_met) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(NOTHING_SHOWN),
    }
}

fn run_clients(options: &Options, profile: &Profile, seed: u64) -> ExitCode {
    let report = options
        .report
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("target/stress/{}.html", profile.name)));
    let how = clients::Options {
        length: Duration::from_secs(options.secs),
        clients: options.clients,
        tasks: options.tasks,
        seed,
        report: Some(report),
        server: None,
        patience: Duration::from_secs(options.patience),
        control: options.control.as_deref().and_then(Control::named),
    };
    match clients::run(profile, &how) {
        Ok(outcome) => {
            match options.json {
                true => println!("{}", outcome.json),
                false => println!("{}", outcome.text),
            }
            match outcome.verdict {
                clients::Verdict::Holds => ExitCode::SUCCESS,
                clients::Verdict::Broken => ExitCode::FAILURE,
                clients::Verdict::Inconclusive => ExitCode::from(NOTHING_SHOWN),
            }
        }
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Round after round, each with the next seed, until the time is over or one does not hold.
fn repeat(case: &Case, seed: u64, time: Duration) -> Run {
    let watch = Stopwatch::start();
    let (mut rounds, mut lost) = (0, 0);
    loop {
        let seed = seed.wrapping_add(rounds);
        let last = (case.run)(Size::Full, seed);
        rounds += 1;
        lost += last.lost;
        if last.verdict() != Verdict::Holds || watch.elapsed() >= time {
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
        "{:<9} {verdict} after {} rounds, the last of seed {}: {}",
        case.name, run.rounds, run.seed, case.about
    );
    let listed = |figures: &[(&str, u64)]| {
        let figures = figures.iter().map(|(name, n)| format!("{name} {n}"));
        figures.collect::<Vec<_>>().join(", ")
    };
    if !run.last.figures.is_empty() {
        text.push_str(&format!("\n          {}", listed(&run.last.figures)));
        text.push_str(&format!(
            "\n          exchanges lost in all rounds {}",
            run.lost
        ));
    }
    for (name, figures) in &run.last.groups {
        text.push_str(&format!("\n          {name}: {}", listed(figures)));
    }
    if let Some(ratio) = wakes_per_grant(&run.last) {
        text.push_str(&format!("\n          wake-ups per grant {ratio:.3}"));
    }
    for fault in &run.last.faults {
        text.push_str(&format!("\n          {fault}"));
    }
    text
}

/// Wake-ups for each that was handed over, where the case has no other reason to wake.
fn wakes_per_grant(round: &Round) -> Option<f64> {
    let figure = |wanted: &str| {
        let found = round.figures.iter().find(|(name, _)| *name == wanted)?;
        Some(found.1 as f64)
    };
    let handed = figure("handed over").or_else(|| figure("granted"))?;
    Some(figure("wakes")? / handed.max(1.0))
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
    let faults = run.last.faults.iter().map(ToString::to_string);
    json!({
        "case": case.name,
        "verdict": run.last.verdict().to_string(),
        "rounds": run.rounds,
        "seed": run.seed,
        "figures": map(&run.last.figures),
        "groups": groups,
        "wakes_per_grant": wakes_per_grant(&run.last),
        "lost_exchanges": run.lost,
        "faults": faults.collect::<Vec<String>>(),
    })
}
