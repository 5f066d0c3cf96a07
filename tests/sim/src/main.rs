//! Runs seeds, reports the results, and simplifies the plan of a failing seed.
#![expect(clippy::print_stdout, reason = "the program prints its results")]

use std::process::ExitCode;

use clap::Parser;
use tinkers_sim::control::Control;
use tinkers_sim::fault::Fault;
use tinkers_sim::plan::{EngineKind, Plan, PlanOptions};
use tinkers_sim::seed_runner::{self, SeedFailure, SeedResults};
use tinkers_sim::shrink::shrink;
use tinkers_sim::simulation::{self, RunReport, Totals};
use tinkers_sim::trace::KeptLines;

/// The maximum number of violations that are printed for a run.
const MAX_VIOLATIONS: usize = 12;

/// Simulate whole clients in virtual time with seeded faults, and check the invariants of each run. Exits with 1 if an invariant is
/// violated, and with 2 if the runs are inconclusive: a possible combination of fault and operation did not occur in any run, or,
/// with the real engine, no weights were compared.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", after_help = names())]
struct Arguments {
    /// The number of seeds, starting at 0 [default: 200, or 60 with the real engine]
    #[arg(long)]
    seeds: Option<u64>,
    /// The engine of the server: `scripted` with canned results, or `real`, the built-in model. With the real engine the weights, the
    /// optimizer state and the gradients of each model are compared bit by bit with those of a run of the applied calls without faults
    #[arg(long, value_parser = engine, default_value = "scripted")]
    engine: EngineKind,
    /// Run this seed only, and print the hash of its trace
    #[arg(long)]
    seed: Option<u64>,
    /// The virtual time with faults, in hours
    #[arg(long, default_value_t = 1)]
    hours: u64,
    /// Inject only this fault, or no faults with `none`
    #[arg(long, value_parser = case)]
    case: Option<Case>,
    /// Build this bug into the client or the engine; succeeds if an invariant is violated
    #[arg(long, value_parser = control)]
    control: Option<Control>,
    /// Do not inject these faults
    #[arg(long, value_parser = fault, value_delimiter = ',')]
    without: Vec<Fault>,
    /// The maximum number of clients
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    clients: usize,
    /// The maximum number of tasks. Each task makes a sequence of calls on one client
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    tasks: usize,
    /// The maximum number of steps of each task. Each step is a pause followed by concurrent calls
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    steps: usize,
    /// Print the whole trace of the seed
    #[arg(long, requires = "seed")]
    trace: bool,
}

/// Returns the names of all faults and negative controls, as a text for the command line help.
fn names() -> String {
    let faults = Fault::ALL.map(Fault::name).join(", ");
    let controls = Control::ALL.map(Control::name).join(", ");
    format!(
        "Faults: {faults}.\n\nControls: {controls}.\n\nThe faults and the invariants are described in docs/concurrency.md."
    )
}

/// The value of the option `--case`: the only fault to inject, or no faults.
#[derive(Debug, Clone, Copy)]
enum Case {
    None,
    Only(Fault),
}

fn fault(name: &str) -> Result<Fault, String> {
    Fault::from_name(name).ok_or_else(|| expected(&Fault::ALL.map(Fault::name)))
}

fn case(name: &str) -> Result<Case, String> {
    match name {
        "none" => Ok(Case::None),
        name => fault(name).map(Case::Only),
    }
}

fn engine(name: &str) -> Result<EngineKind, String> {
    EngineKind::from_name(name).ok_or_else(|| expected(&EngineKind::ALL.map(EngineKind::name)))
}

fn control(name: &str) -> Result<Control, String> {
    Control::from_name(name).ok_or_else(|| expected(&Control::ALL.map(Control::name)))
}

fn expected(names: &[&str]) -> String {
    format!("expected one of {}", names.join(", "))
}

impl Arguments {
    fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            engine: self.engine,
            hours: self.hours,
            clients: self.clients,
            tasks: self.tasks,
            steps: self.steps,
            without: match self.case {
                Some(Case::None) => Fault::ALL.to_vec(),
                _ => self.without.clone(),
            },
            only: match self.case {
                Some(Case::Only(fault)) => Some(fault),
                _ => None,
            },
        }
    }

    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(match self.engine {
            EngineKind::Scripted => 200,
            EngineKind::Real => 60,
        })
    }

    /// Returns the command line that runs `seed` again with the same options.
    fn replay_command(&self, seed: u64, options: &PlanOptions) -> String {
        let mut command = format!("cargo xtask sim --seed {seed} --hours {}", options.hours);
        if options.engine != EngineKind::Scripted {
            command.push_str(&format!(" --engine {}", options.engine.name()));
        }
        for (name, value) in [
            ("clients", options.clients),
            ("tasks", options.tasks),
            ("steps", options.steps),
        ] {
            if value != usize::MAX {
                command.push_str(&format!(" --{name} {value}"));
            }
        }
        match self.case {
            Some(Case::None) => command.push_str(" --case none"),
            Some(Case::Only(fault)) => command.push_str(&format!(" --case {}", fault.name())),
            None if options.without.is_empty() => {}
            None => {
                let names: Vec<&str> = options.without.iter().map(|fault| fault.name()).collect();
                command.push_str(&format!(" --without {}", names.join(",")));
            }
        }
        if let Some(control) = self.control {
            command.push_str(&format!(" --control {}", control.name()));
        }
        command
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = arguments.plan_options();
    if let Some(seed) = arguments.seed {
        return run_seed(&arguments, seed, &options);
    }
    let mut results = seed_runner::run(arguments.seeds(), &options, arguments.control);
    println!("{}", summary(&results.totals));
    match (results.failure.take(), arguments.control) {
        (Some(failure), Some(control)) => {
            println!("{} was found by seed {}:", control.name(), failure.seed);
            print_violations(&failure.report);
            ExitCode::SUCCESS
        }
        (None, Some(control)) => {
            println!(
                "{} was not found by {} seeds",
                control.name(),
                results.seeds
            );
            ExitCode::FAILURE
        }
        (Some(failure), None) => {
            print_failure(&arguments, &options, &failure);
            ExitCode::FAILURE
        }
        (None, None) => print_success(&arguments, &results),
    }
}

fn run_seed(arguments: &Arguments, seed: u64, options: &PlanOptions) -> ExitCode {
    let kept = match arguments.trace {
        true => KeptLines::All,
        false => KeptLines::Last,
    };
    let report = simulation::run(&Plan::new(seed, options), arguments.control, kept);
    if arguments.trace {
        for line in &report.lines {
            println!("{line}");
        }
    }
    println!(
        "seed {seed}: trace {:016x}, {}",
        report.hash,
        summary(&report.totals)
    );
    print_violations(&report);
    match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn print_success(arguments: &Arguments, results: &SeedResults) -> ExitCode {
    let (seeds, coverage) = (results.seeds, &results.coverage);
    println!("\n{}", coverage.table());
    println!(
        "\nall invariants hold over {seeds} seeds and {} faults",
        coverage.total_faults()
    );
    // Only runs with the scripted engine must cover all operations, because they have more seeds.
    if arguments.engine == EngineKind::Real {
        return print_compared_models(results.totals.models);
    }
    let missing = coverage.missing();
    if missing.is_empty() || arguments.case.is_some() || !arguments.without.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "inconclusive: these combinations did not occur: {}",
        missing.join(", ")
    );
    ExitCode::from(2)
}

fn print_compared_models(models: u64) -> ExitCode {
    match models {
        0 => {
            println!("inconclusive: no model was created");
            ExitCode::from(2)
        }
        _ => {
            println!("the tensors of {models} models equal those of a run without faults");
            ExitCode::SUCCESS
        }
    }
}

fn print_failure(arguments: &Arguments, options: &PlanOptions, failure: &SeedFailure) {
    let Some(first) = failure.report.violations.first() else {
        return;
    };
    println!(
        "seed {} violates an invariant; shrinking it ..",
        failure.seed
    );
    let (options, report) = shrink(failure.seed, options, arguments.control, first.invariant);
    // Heartbeats are left out, because they are frequent and rarely the cause.
    for line in report
        .lines
        .iter()
        .filter(|line| !line.contains("(heartbeat)"))
    {
        println!("{line}");
    }
    print_violations(&report);
    println!("\n{}", arguments.replay_command(failure.seed, &options));
}

fn print_violations(report: &RunReport) {
    for violation in report.violations.iter().take(MAX_VIOLATIONS) {
        println!("  {:?}: {}", violation.invariant, violation.text);
    }
}

fn summary(totals: &Totals) -> String {
    let days = totals.time.as_secs_f64() / 86_400.0;
    format!(
        "{} calls ({} succeeded, {} failed, {} abandoned), {} requests, {days:.1} virtual days",
        totals.calls, totals.succeeded, totals.failed, totals.abandoned, totals.requests
    )
}
