//! Runs seeds, says what came of them, and makes a failing one small.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::process::ExitCode;

use clap::Parser;
use tinkers_sim::control::Control;
use tinkers_sim::fault::Kind;
use tinkers_sim::plan::{Cut, EngineKind, Plan};
use tinkers_sim::seeds::{self, Failure, Results};
use tinkers_sim::shrink::shrink;
use tinkers_sim::trace::Keep;
use tinkers_sim::world::{self, Ran, Size};

/// Whole clients in virtual time, under seeded faults, with exact counts. Exits with 1 when a promise is broken, and with 2 when
/// some fault never met some operation, or over the real engine when no weights were compared.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", after_help = names())]
struct Options {
    /// How many seeds, from 0 on: 200 unless told, 60 over the real engine.
    #[arg(long)]
    seeds: Option<u64>,
    /// What computes on the server: `scripted`, with canned results, or `real`, the built-in model. Over the real one every model's
    /// weights, optimizer and gradients are compared, to the bit, with those of a run without faults of just the calls that were
    /// applied.
    #[arg(long, value_parser = engine, default_value = "scripted")]
    engine: EngineKind,
    /// This seed alone, with its trace's hash.
    #[arg(long)]
    seed: Option<u64>,
    /// Virtual hours in which things go wrong.
    #[arg(long, default_value_t = 1)]
    hours: u64,
    /// One kind of fault alone, or `quiet` for none.
    #[arg(long, value_parser = case)]
    case: Option<Case>,
    /// A fault of older clients, built in, that is to be found; succeeds when it is.
    #[arg(long, value_parser = control)]
    control: Option<Control>,
    /// Without these kinds of faults.
    #[arg(long, value_parser = kind, value_delimiter = ',')]
    without: Vec<Kind>,
    /// At most so many clients.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    clients: usize,
    /// At most so many tasks.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    tasks: usize,
    /// At most so many steps for each task.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    steps: usize,
    /// Prints the whole trace of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
}

/// The kinds of faults and the controls, for the help.
fn names() -> String {
    let kinds = Kind::ALL.map(Kind::name).join(", ");
    let controls = Control::ALL.map(Control::name).join(", ");
    format!(
        "Kinds of faults: {kinds}.\n\nControls: {controls}.\n\ndocs/concurrency.md tells what they do and which rule finds what."
    )
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Case {
    Quiet,
    Only(Kind),
}

fn kind(name: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

fn case(name: &str) -> Result<Case, String> {
    match name {
        "quiet" => Ok(Case::Quiet),
        name => kind(name).map(Case::Only),
    }
}

fn engine(name: &str) -> Result<EngineKind, String> {
    let names = || EngineKind::ALL.map(EngineKind::name).join(" or ");
    EngineKind::named(name).ok_or_else(|| format!("expected {}", names()))
}

fn control(name: &str) -> Result<Control, String> {
    let names = || Control::ALL.map(Control::name).join(", ");
    Control::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

impl Options {
    fn cut(&self) -> Cut {
        Cut {
            engine: self.engine,
            hours: self.hours,
            clients: self.clients,
            tasks: self.tasks,
            steps: self.steps,
            without: match self.case {
                Some(Case::Quiet) => Kind::ALL.to_vec(),
                _ => self.without.clone(),
            },
            only: match self.case {
                Some(Case::Only(kind)) => Some(kind),
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

    /// The command that runs a seed again.
    fn replay(&self, seed: u64, cut: &Cut) -> String {
        let mut command = format!("cargo xtask sim --seed {seed} --hours {}", cut.hours);
        if cut.engine != EngineKind::Scripted {
            command.push_str(&format!(" --engine {}", cut.engine.name()));
        }
        for (name, value) in [
            ("clients", cut.clients),
            ("tasks", cut.tasks),
            ("steps", cut.steps),
        ] {
            if value != usize::MAX {
                command.push_str(&format!(" --{name} {value}"));
            }
        }
        match self.case {
            Some(Case::Quiet) => command.push_str(" --case quiet"),
            Some(Case::Only(kind)) => command.push_str(&format!(" --case {}", kind.name())),
            None if cut.without.is_empty() => {}
            None => {
                let names: Vec<&str> = cut.without.iter().map(|kind| kind.name()).collect();
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
    let options = Options::parse();
    let cut = options.cut();
    if let Some(seed) = options.seed {
        return one(&options, seed, &cut);
    }
    let mut result = seeds::run(options.seeds(), &cut, options.control);
    println!("{}", size(&result.size));
    match (result.failure.take(), options.control) {
        (Some(failure), Some(control)) => {
            println!("{} was found by seed {}:", control.name(), failure.seed);
            print_violations(&failure.ran);
            ExitCode::SUCCESS
        }
        (None, Some(control)) => {
            println!("{} was not found by {} seeds", control.name(), result.seeds);
            ExitCode::FAILURE
        }
        (Some(failure), None) => {
            report(&options, &cut, failure);
            ExitCode::FAILURE
        }
        (None, None) => held(&options, &result),
    }
}

fn one(options: &Options, seed: u64, cut: &Cut) -> ExitCode {
    let keep = if options.trace { Keep::All } else { Keep::Last };
    let ran = world::run(&Plan::new(seed, cut), options.control, keep);
    if options.trace {
        for line in &ran.lines {
            println!("{line}");
        }
    }
    println!("seed {seed}: trace {:016x}, {}", ran.hash, size(&ran.size));
    print_violations(&ran);
    match ran.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn held(options: &Options, results: &Results) -> ExitCode {
    let (seeds, cover) = (results.seeds, &results.cover);
    println!("\n{}", cover.table());
    println!(
        "\nall promises hold over {seeds} seeds and {} faults",
        cover.total()
    );
    if options.engine == EngineKind::Real {
        return compared(results.size.models);
    }
    let missing = cover.missing();
    if missing.is_empty() || options.case.is_some() || !options.without.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("inconclusive, for these never met: {}", missing.join(", "));
    ExitCode::from(2)
}

/// What every fault meets is the larger set's to see, which has the scripted engine.
fn compared(models: u64) -> ExitCode {
    match models {
        0 => {
            println!("inconclusive, for no model was made");
            ExitCode::from(2)
        }
        _ => {
            println!("the tensors of {models} models are those of their calls alone, to the bit");
            ExitCode::SUCCESS
        }
    }
}

fn report(options: &Options, cut: &Cut, failure: Failure) {
    println!(
        "seed {} breaks a promise; making it smaller ..",
        failure.seed
    );
    let Some(first) = failure.ran.violations.first() else {
        return;
    };
    let (cut, ran) = shrink(failure.seed, cut, options.control, first.rule);
    // A heart that beats as it should says nothing of what went wrong.
    for line in ran.lines.iter().filter(|line| !line.contains("(beat)")) {
        println!("{line}");
    }
    print_violations(&ran);
    println!("\n{}", options.replay(failure.seed, &cut));
}

fn print_violations(ran: &Ran) {
    for violation in ran.violations.iter().take(12) {
        println!("  {:?}: {}", violation.rule, violation.what);
    }
}

fn size(size: &Size) -> String {
    let days = size.time.as_secs_f64() / 86_400.0;
    format!(
        "{} calls ({} ended well, {} failed, {} not waited for), {} requests, {days:.1} virtual days",
        size.calls, size.ok, size.failed, size.left, size.requests
    )
}
