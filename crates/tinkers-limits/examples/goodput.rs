//! Prints what share of a server's window the limits make use of, in simulated time.

#[path = "../tests/support/cases.rs"]
mod cases;
#[path = "../tests/support/clients.rs"]
mod clients;
#[path = "../tests/support/sim.rs"]
mod sim;

use cases::{Figures, Group, Storm, Weathered};
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
            .map(|case| sim::run(case, Policy::Learns))
            .collect();
        let figures = Figures { outcomes };
        println!("{}", row(group, &figures));
        for lack in group.lacks(&figures) {
            println!("lacks: {lack}");
        }
    }
    println!();
    println!(
        "| refused at random, and a window besides | sample | hint | meanwhile, of a client that knows the window | 2 s later | worst seed | refused per accepted |"
    );
    println!("|---|---|---|---|---|---|---|");
    for storm in cases::storms() {
        let seen = storm.run(Policy::Learns);
        println!("{}", storm_row(&storm, &seen));
        for lack in storm.lacks(&seen) {
            println!("lacks: {lack}");
        }
    }
}

fn storm_row(storm: &Storm, seen: &Weathered) -> String {
    let share = |share: Option<f64>| share.map_or(String::new(), |share| format!("{share:.2}"));
    format!(
        "| {} | {:?} | {:?} | {:.2} | {} | {} | {:.3} |",
        storm.name(),
        storm.sample,
        storm.hint,
        seen.during,
        share(seen.after),
        share(seen.worst_after),
        seen.refused_per_accepted,
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
