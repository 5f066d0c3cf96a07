//! Seeds that have violated an invariant in the past.

use tinkers_sim::fault::Fault;
use tinkers_sim::plan::{Plan, PlanOptions};
use tinkers_sim::simulation;
use tinkers_sim::trace::KeptLines;

/// The regression seeds, each with a bug of the past. The simulation finds the bug with this seed
/// if the fix of the bug is reverted. The runs do not contain the newer faults of
/// [`Fault::ADDED_LATER`].
///
/// If a change to the plans changes all runs, revert each fix and replace its seed by the first
/// seed that fails.
const SEEDS: [(u64, &str); 3] = [
    (
        83,
        "a panic in a transport layer ended the refresh of the dynamic configuration",
    ),
    (
        390,
        "a panic in the last acknowledgement of a sampling client was not caught",
    ),
    (
        76,
        "a query to the server outlasted the deadline of its operation",
    ),
];

#[test]
fn regression_seeds_violate_no_invariant() {
    let options = PlanOptions {
        without: Fault::ADDED_LATER.to_vec(),
        ..PlanOptions::default()
    };
    for (seed, bug) in SEEDS {
        let report = simulation::run(&Plan::new(seed, &options), None, KeptLines::Last);
        assert_eq!(report.violations, [], "{bug}");
    }
}
