//! Unit tests of the noise filter.

use super::*;

fn accept(filter: &mut NoiseFilter, times: u32, level: Option<u32>, at: u32) {
    (0..times).for_each(|_| filter.on_accepted(level, at));
}

/// Returns a filter that has just classified refusals as random, and whose learned limit was `level` before these three refusals. The
/// smallest number of accepted requests at any of them was `lowest`.
fn noisy(level: Option<u32>, lowest: u32) -> NoiseFilter {
    let mut filter = NoiseFilter::new();
    assert_eq!(
        filter.on_refusal(level, lowest + 2),
        RefusalMeaning::Capacity
    );
    assert_eq!(
        filter.on_refusal(Some(lowest + 2), lowest),
        RefusalMeaning::Capacity
    );
    assert_eq!(
        filter.on_refusal(Some(lowest), lowest + 1),
        RefusalMeaning::Restored(level)
    );
    filter
}

#[test]
fn refusals_at_ever_lower_limits_are_random_and_restore_the_old_limit() {
    for level in [Some(50), None] {
        let mut filter = noisy(level, 3);
        assert!(filter.is_noisy());
        accept(&mut filter, 1, level, 20);
        assert_eq!(filter.on_refusal(level, 9), RefusalMeaning::Noise);
    }
}

#[test]
fn refusals_between_many_accepted_requests_do_not_count_as_random() {
    for (between, third) in [
        (20, RefusalMeaning::Restored(Some(50))),
        (21, RefusalMeaning::Capacity),
    ] {
        let mut filter = NoiseFilter::new();
        let level = Some(50);
        for _ in 0..2 {
            assert_eq!(filter.on_refusal(level, 30), RefusalMeaning::Capacity);
            accept(&mut filter, between, level, 30);
        }
        assert_eq!(filter.on_refusal(level, 30), third);
    }
}

#[test]
fn refusals_stop_counting_as_random_after_enough_accepted_requests() {
    let level = Some(50);
    let mut filter = noisy(level, 3);
    accept(&mut filter, 239, level, 50);
    assert!(filter.is_noisy());
    accept(&mut filter, 1, level, 50);
    assert!(!filter.is_noisy());
    assert_eq!(filter.on_refusal(level, 49), RefusalMeaning::Capacity);
}

#[test]
fn next_random_refusal_at_the_same_load_confirms_a_real_limit() {
    let mut filter = noisy(Some(50), 10);
    // Up to 1/8 more is not counted as progress, since responses arrive out of order.
    accept(&mut filter, 5, Some(50), 11);
    assert_eq!(
        filter.on_refusal(Some(50), 12),
        RefusalMeaning::Confirmed(10)
    );
    assert!(!filter.is_noisy());
}

#[test]
fn four_random_refusals_at_the_same_load_confirm_a_real_limit() {
    let level = Some(50);
    let mut filter = noisy(level, 3);
    accept(&mut filter, 1, level, 30);
    for accepted in [16, 17, 16] {
        assert_eq!(filter.on_refusal(level, accepted), RefusalMeaning::Noise);
        accept(&mut filter, 10, level, 18);
    }
    assert_eq!(filter.on_refusal(level, 18), RefusalMeaning::Confirmed(16));
    // The same happens if more requests were accepted at the earlier refusals.
    let mut filter = noisy(level, 3);
    accept(&mut filter, 1, level, 30);
    for accepted in [16, 17, 16] {
        assert_eq!(filter.on_refusal(level, accepted), RefusalMeaning::Noise);
    }
    accept(&mut filter, 1, level, 19);
    assert_eq!(filter.on_refusal(level, 18), RefusalMeaning::Noise);
}

/// Returns the limits to which the filter lets the limit recover from `level`: before the recovery from a large drop is due, and when it is
/// due. `None` means no recovery.
fn recovery_targets(mut filter: NoiseFilter, level: u32) -> [Option<u32>; 2] {
    accept(&mut filter, 50, Some(level), level);
    let mut due = filter;
    [
        filter.recovery_target(level, false),
        due.recovery_target(level, true),
    ]
}

#[test]
fn limit_recovery_waits_after_a_drop_but_not_after_random_refusals() {
    let mut fallen = NoiseFilter::new();
    fallen.on_refusal(Some(50), 25);
    assert_eq!(recovery_targets(fallen, 25), [None, Some(50)]);
    assert_eq!(
        recovery_targets(fallen, 26),
        [None, None],
        "not a large drop"
    );
    let mut filter = noisy(Some(50), 40);
    assert_eq!(
        filter.on_refusal(Some(50), 40),
        RefusalMeaning::Confirmed(40)
    );
    assert_eq!(recovery_targets(filter, 40), [Some(50); 2]);
    assert_eq!(
        recovery_targets(noisy(Some(50), 40), 40),
        [None; 2],
        "the refusals are still random"
    );
    let mut learned = NoiseFilter::new();
    learned.on_refusal(None, 20);
    assert_eq!(
        recovery_targets(learned, 20),
        [None; 2],
        "no limit was known"
    );
}

#[test]
fn limit_recovery_waits_for_as_many_accepted_requests_as_the_limit() {
    for (level, least) in [(20, 20), (2, 8)] {
        let mut filter = NoiseFilter::new();
        filter.on_refusal(Some(50), level);
        accept(&mut filter, least - 1, Some(level), level);
        assert_eq!(filter.recovery_target(level, true), None);
        accept(&mut filter, 1, Some(level), level);
        assert_eq!(filter.recovery_target(level, true), Some(50));
        // A started recovery continues although `is_due` is false, and ends at the limit to restore.
        assert_eq!(filter.recovery_target(49, false), Some(50));
        assert_eq!(filter.recovery_target(50, true), None);
        accept(&mut filter, 1, Some(50), 50);
        assert_eq!(filter.recovery_target(10, true), None, "forgotten");
    }
}

#[test]
fn limit_recovery_ends_after_one_or_two_failed_probes() {
    let mut filter = NoiseFilter::new();
    filter.on_refusal(Some(50), 20);
    accept(&mut filter, 30, Some(20), 20);
    assert_eq!(filter.recovery_target(20, true), Some(50));
    assert_eq!(filter.probe_failed(), ProbeFailure::Recovery);
    assert_eq!(recovery_targets(filter, 20), [None; 2]);

    let mut filter = noisy(Some(50), 20);
    assert_eq!(
        filter.on_refusal(Some(50), 20),
        RefusalMeaning::Confirmed(20)
    );
    assert_eq!(filter.probe_failed(), ProbeFailure::Regular);
    assert_eq!(recovery_targets(filter, 20), [Some(50); 2]);
    filter.probe_succeeded();
    assert_eq!(filter.probe_failed(), ProbeFailure::Regular);
    assert_eq!(recovery_targets(filter, 20), [Some(50); 2]);
    assert_eq!(filter.probe_failed(), ProbeFailure::Regular);
    assert_eq!(recovery_targets(filter, 20), [None; 2]);
}

#[test]
fn limit_before_a_small_drop_is_forgotten_after_80_accepted_requests() {
    for (level, kept) in [(30, None), (20, Some(50))] {
        let mut filter = NoiseFilter::new();
        filter.on_refusal(Some(50), level);
        accept(&mut filter, 79, Some(level), level);
        assert_eq!(filter.restore_level, Some(50));
        accept(&mut filter, 1, Some(level), level);
        assert_eq!(filter.restore_level, kept, "learned limit {level}");
    }
}

#[test]
fn limit_lowered_right_after_a_pause_recovers_to_the_earlier_maximum() {
    for (seen, back) in [
        (100, [None, Some(100)]),
        (3, [None, None]),
        (7, [None, None]),
    ] {
        let mut filter = NoiseFilter::new();
        accept(&mut filter, 20, None, seen);
        // The gate has opened again, and the second request afterwards is refused.
        assert_eq!(filter.on_refusal(None, 1), RefusalMeaning::Capacity);
        accept(&mut filter, 80, Some(1), 1);
        assert_eq!(recovery_targets(filter, 1), back, "{seen}");
    }
}

#[test]
fn limit_recovery_continues_until_the_previous_limit_is_reached() {
    let mut filter = NoiseFilter::new();
    accept(&mut filter, 20, None, 100);
    assert_eq!(filter.on_refusal(None, 4), RefusalMeaning::Capacity);
    accept(&mut filter, 80, Some(4), 4);
    assert_eq!(filter.recovery_target(4, true), Some(100));
    // A drop to more than half is not large.
    for level in [8, 32, 64, 99] {
        filter.probe_succeeded();
        accept(&mut filter, 1, Some(level), level);
        assert_eq!(filter.recovery_target(level, false), Some(100), "{level}");
    }
    accept(&mut filter, 1, Some(100), 100);
    assert_eq!(filter.recovery_target(100, true), None);
}

/// Returns a filter that classified refusals (429 responses) as random when the limit was 50, and after a further refusal confirmed a real
/// limit of 20.
fn confirmed() -> NoiseFilter {
    let mut filter = noisy(Some(50), 20);
    assert_eq!(
        filter.on_refusal(Some(50), 20),
        RefusalMeaning::Confirmed(20)
    );
    filter
}

#[test]
fn first_refusal_after_a_confirmed_limit_does_not_count_as_random() {
    let mut filter = confirmed();
    assert_eq!(filter.on_refusal(Some(20), 15), RefusalMeaning::Capacity);
}

#[test]
fn number_of_failed_limit_probes_is_reset_by_random_refusals() {
    let mut filter = confirmed();
    filter.probe_failed();
    for (level, accepted) in [(20, 18), (18, 17)] {
        assert_eq!(
            filter.on_refusal(Some(level), accepted),
            RefusalMeaning::Capacity
        );
    }
    let restored = RefusalMeaning::Restored(Some(50));
    assert_eq!(filter.on_refusal(Some(17), 18), restored);
    assert_eq!(
        filter.on_refusal(Some(50), 17),
        RefusalMeaning::Confirmed(17)
    );
    filter.probe_failed();
    assert_eq!(
        recovery_targets(filter, 17),
        [Some(50); 2],
        "one failed probe of two"
    );
    filter.probe_failed();
    assert_eq!(recovery_targets(filter, 17), [None; 2]);
}

#[test]
fn limit_recovery_waits_for_accepted_requests_after_each_refusal() {
    let mut filter = confirmed();
    accept(&mut filter, 20, Some(20), 20);
    assert_eq!(filter.recovery_target(20, false), Some(50));
    assert_eq!(filter.probe_failed(), ProbeFailure::Recovery);
    accept(&mut filter, 19, Some(20), 20);
    assert_eq!(filter.recovery_target(20, false), None);
    accept(&mut filter, 1, Some(20), 20);
    assert_eq!(filter.recovery_target(20, false), Some(50));
    assert_eq!(filter.on_refusal(Some(20), 18), RefusalMeaning::Capacity);
    assert_eq!(filter.recovery_target(18, false), None);
}

#[test]
fn random_refusals_are_forgotten_once_the_previous_limit_is_reached() {
    let mut filter = confirmed();
    accept(&mut filter, 1, Some(50), 50);
    assert_eq!(filter.on_refusal(Some(50), 20), RefusalMeaning::Capacity);
    accept(&mut filter, 80, Some(20), 20);
    assert_eq!(
        recovery_targets(filter, 20),
        [None, Some(50)],
        "when the recovery is due"
    );
}

#[test]
fn no_limit_is_restored_if_none_was_known_before_random_refusals() {
    let mut filter = noisy(None, 10);
    accept(&mut filter, 5, None, 11);
    let confirmed = filter.on_refusal(None, 12);
    assert_eq!(confirmed, RefusalMeaning::Confirmed(10));
    accept(&mut filter, 10, Some(10), 10);
    let target = filter.recovery_target(10, false);
    assert_eq!(target, Some(NoiseFilter::UNKNOWN));
}
