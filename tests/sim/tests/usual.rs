//! Seeds hold what is promised.

use tinkers::RecoveredError;
use tinkers_sim::plan::Cut;
use tinkers_sim::seeds;

#[test]
fn every_promise_holds_over_many_seeds() {
    let results = seeds::run(150, &Cut::default(), None);
    let failure = results.failure.as_ref();
    let broken = failure.map(|failure| (failure.seed, &failure.ran.violations));
    assert_eq!(broken, None);
    assert!(results.size.ok > 1000, "inconclusive: {:?}", results.size);
    assert!(results.cover.total() > 1000, "inconclusive");
    let held_back = results.cover.held_back();
    assert!(held_back > 0, "inconclusive: every request left at once");
    // What is counted as often as it is logged must have come at all.
    for recovered_error in [
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
        let name = recovered_error.name();
        assert!(
            results.cover.recovered_errors(recovered_error) > 0,
            "inconclusive: no {name}"
        );
    }
}
