//! Seeds that broke a promise once.

use tinkers_sim::fault::Kind;
use tinkers_sim::plan::{Cut, Plan};
use tinkers_sim::trace::Keep;
use tinkers_sim::world;

/// What a seed finds when the fix is undone, in runs without [`Kind::ADDED_LATER`], which were added later. A change of the plans gives
/// every seed another run: then undo each, and put the first seed that breaks here.
const FOUND: [(u64, &str); 3] = [
    (
        83,
        "a panic in a layer of the caller's ended the refresh of the flags for good",
    ),
    (
        390,
        "a panic in the last acknowledgement of a sampling client reached nobody",
    ),
    (
        76,
        "a question to the server outlasted the deadline of operations",
    ),
];

#[test]
fn what_was_found_once_stays_mended() {
    let cut = Cut {
        without: Kind::ADDED_LATER.to_vec(),
        ..Cut::default()
    };
    for (seed, found) in FOUND {
        let ran = world::run(&Plan::new(seed, &cut), None, Keep::Last);
        assert_eq!(ran.violations, [], "{found}");
    }
}
