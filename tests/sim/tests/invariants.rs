//! Tests that the invariants hold in the runs of many seeds.

use tinkers::RecoveredError;
use tinkers_sim::plan::PlanOptions;
use tinkers_sim::seed_runner;

#[test]
fn simulated_clients_violate_no_invariant_in_many_seeds() {
    let results = seed_runner::run(150, &PlanOptions::default(), None);
    let failure = results.failure.as_ref();
    let violations = failure.map(|failure| (failure.seed, &failure.report.violations));
    assert_eq!(violations, None);
    let (totals, coverage) = (results.totals, results.coverage);
    assert!(totals.succeeded > 1000, "inconclusive: {totals:?}");
    assert!(coverage.total_faults() > 1000, "inconclusive");
    assert!(
        coverage.held() > 0,
        "inconclusive: no request was held back"
    );
    // The error counters are checked only if such errors occur.
    for kind in [
        RecoveredError::Repeat,
        RecoveredError::Billing,
        RecoveredError::Poll,
        RecoveredError::SharedPoll,
        RecoveredError::Acknowledgement,
        RecoveredError::LostSample,
        RecoveredError::LostSave,
        RecoveredError::Orphan,
        RecoveredError::Undelivered,
        RecoveredError::Heartbeat,
        RecoveredError::Refresh,
    ] {
        let name = kind.name();
        let count = coverage.recovered_errors(kind);
        assert!(count > 0, "inconclusive: no error of the kind {name}");
    }
}
