//! Prints the fraction of a server's capacity that the limits use, in simulated time.

#[path = "../tests/support/cases.rs"]
mod cases;
#[path = "../tests/support/clients.rs"]
mod clients;
#[path = "../tests/support/sim.rs"]
mod sim;

use cases::{Figures, Group, NoiseCase, NoiseOutcome};
use clients::Policy;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    println!(
        "| server | sample | hint | share of an oracle | worst seed | refused per accepted | refused per event | evenness |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let kinds = [
        cases::fixed(),
        cases::steps(),
        cases::walks(),
        cases::pairs(),
    ];
    for group in kinds.iter().flatten() {
        let outcomes = group.cases.iter();
        let outcomes = outcomes
            .map(|case| sim::run(case, Policy::Adaptive))
            .collect();
        let figures = Figures { outcomes };
        println!("{}", row(group, &figures));
        for failure in group.failures(&figures) {
            println!("below its minimum: {failure}");
        }
    }
    println!();
    println!(
        "| refused at random, and a window besides | sample | hint | meanwhile, of a client that knows the window | 2 s later | worst seed | refused per accepted |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in cases::noise() {
        let outcome = case.run(Policy::Adaptive);
        println!("{}", noise_row(&case, &outcome));
        for failure in case.failures(&outcome) {
            println!("below its minimum: {failure}");
        }
    }
}

fn noise_row(case: &NoiseCase, outcome: &NoiseOutcome) -> String {
    let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.2}"));
    format!(
        "| {} | {:?} | {:?} | {:.2} | {} | {} | {:.3} |",
        case.name(),
        case.sample,
        case.hint,
        outcome.during,
        share(outcome.after),
        share(outcome.worst_after),
        outcome.refused_per_accepted,
    )
}

fn row(group: &Group, figures: &Figures) -> String {
    let evenness = match group.cases[0].begin.len() {
        1 => String::new(),
        _ => format!("{:.2}", figures.evenness()),
    };
    format!(
        "| {} | {:?} | {:?} | {:.3} | {:.3} | {:.3} | {:.1} | {evenness} |",
        group.name,
        group.sample,
        group.hint,
        figures.share(),
        figures.worst_share(),
        figures.refused_per_accepted(),
        figures.refused_per_event(),
    )
}
