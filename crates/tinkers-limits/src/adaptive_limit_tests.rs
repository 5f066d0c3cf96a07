//! Unit tests of the adaptive limit.

use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn refusal(now: Duration, accepted: u32) -> RefusalContext {
    RefusalContext {
        now,
        is_new_event: true,
        accepted,
        closed_for: ms(1_000),
    }
}

/// Returns a refusal (429 response) that is not the first one of its congestion event (a group of concurrent refusals).
fn further_refusal(now: Duration, accepted: u32) -> RefusalContext {
    RefusalContext {
        is_new_event: false,
        ..refusal(now, accepted)
    }
}

/// Asserts that a limit probe (a temporary increase of the limit) starts if the in-flight limit is reached at `now`.
fn assert_probe_starts(limit: &mut AdaptiveLimit, now: Duration) {
    let change = limit.on_window_full(now);
    assert_eq!(change, Some(LimitChange::ProbeStarted));
}

fn accept(limit: &mut AdaptiveLimit, times: u32, at: u32) {
    for _ in 0..times {
        assert_eq!(limit.on_accepted(at, false), None);
    }
}

/// Starts a limit probe (a temporary increase of the limit) at the first millisecond from `from` on at which one may start. Returns that
/// time in milliseconds.
fn probe_after(limit: &mut AdaptiveLimit, from: u64) -> u64 {
    (from..from + 200_000)
        .find(|now| limit.on_window_full(ms(*now)) == Some(LimitChange::ProbeStarted))
        .expect("a probe eventually starts")
}

/// Returns an adaptive limit that has learned `level` from a refusal, and then recorded enough accepted requests for a limit probe. The
/// gate has opened again, and has held back no request.
fn learned(level: u32) -> AdaptiveLimit {
    let mut limit = AdaptiveLimit::new(1, 2_000);
    let change = limit.on_refusal(refusal(ms(0), level));
    assert_eq!(change, Some(LimitChange::Learned));
    accept(&mut limit, 400, level.min(1));
    limit.on_reopened(0);
    limit
}

/// Reports a refusal at `now`, so that the limit probe fails, and then that the gate is open again. Returns the time at which the in-flight
/// limit is reached again, which is `held` ms later. Until then capacity is unused.
fn fail_probe(limit: &mut AdaptiveLimit, now: u64, held: u64) -> u64 {
    let level = limit.level().unwrap();
    let change = limit.on_refusal(refusal(ms(now), level));
    assert_eq!(change, Some(LimitChange::ProbeFailed));
    limit.on_held_back(ms(now));
    limit.on_reopened(0);
    accept(limit, 100, 0);
    now + held
}

#[test]
fn no_limit_is_learned_before_the_first_refusal() {
    let mut limit = AdaptiveLimit::new(1, 64);
    assert_eq!((limit.level(), limit.limit()), (None, 64));
    accept(&mut limit, 100, 64);
    assert_eq!(limit.on_window_full(ms(1)), None);
    assert_eq!((limit.level(), limit.limit()), (None, 64));
}

#[test]
fn first_refusal_sets_the_learned_limit_within_its_bounds() {
    for (accepted, level) in [(1, 4), (4, 4), (30, 30), (64, 64), (100, 64)] {
        let mut limit = AdaptiveLimit::new(4, 64);
        let change = limit.on_refusal(refusal(ms(0), accepted));
        assert_eq!(change, Some(LimitChange::Learned));
        assert_eq!((limit.level(), limit.limit()), (Some(level), level));
    }
    assert_eq!(AdaptiveLimit::new(0, 0).limit(), 1);
    assert_eq!(AdaptiveLimit::new(9, 3).limit(), 9);
}

#[test]
fn refusal_without_accepted_requests_does_not_change_the_limit() {
    let mut fresh = AdaptiveLimit::new(1, 64);
    assert_eq!(fresh.on_refusal(refusal(ms(0), 0)), None);
    assert_eq!((fresh.level(), fresh.limit()), (None, 64));
    let mut limit = learned(20);
    limit.on_gate_seen_open(20);
    assert_eq!(limit.on_refusal(refusal(ms(9_000), 0)), None);
    assert_eq!(limit.level(), Some(20));
}

#[test]
fn second_refusal_of_a_congestion_event_does_not_change_the_limit() {
    let mut limit = learned(20);
    let other = further_refusal(ms(1), 3);
    assert_eq!(limit.on_refusal(other), None);
    assert_eq!(limit.limit(), 20);
}

#[test]
fn refusal_below_the_limit_lowers_it_to_the_accepted_requests() {
    let mut limit = learned(20);
    let change = limit.on_refusal(refusal(ms(1), 12));
    assert_eq!((change, limit.limit()), (Some(LimitChange::Lowered), 12));
}

#[test]
fn refusal_at_the_learned_limit_lowers_it_by_a_seventh() {
    for (level, lower) in [(21, 18), (20, 17), (7, 6), (2, 1), (1, 1)] {
        let mut limit = learned(level);
        let change = limit.on_refusal(refusal(ms(1), level));
        assert_eq!((change, limit.limit()), (Some(LimitChange::Lowered), lower));
    }
}

#[test]
fn refusal_without_a_probe_never_raises_the_learned_limit() {
    let mut limit = learned(20);
    assert_eq!(limit.on_refusal(refusal(ms(1), 25)), None);
    assert_eq!(limit.limit(), 20);
}

/// Reports accepted requests, each with `at` accepted requests in flight, until the limit probe (a temporary increase of the limit)
/// succeeds. Returns the number of requests that this took.
fn succeed(limit: &mut AdaptiveLimit, at: u32) -> u32 {
    for times in 1..1_000 {
        if limit.on_accepted(at, false) == Some(LimitChange::ProbeSucceeded) {
            return times;
        }
    }
    panic!("no success: {limit:?}")
}

#[test]
fn limit_probe_succeeds_after_accepting_as_many_requests_as_its_step() {
    let mut limit = learned(20);
    limit.on_reopened(15);
    let now = probe_after(&mut limit, 1_000);
    assert_eq!((limit.level(), limit.limit()), (Some(20), 21));
    assert_eq!(
        limit.on_window_full(ms(now + 1)),
        None,
        "one probe at a time"
    );
    assert_eq!(limit.on_accepted(20, false), None, "at most the limit");
    assert_eq!(succeed(&mut limit, 21), 1);
    assert_eq!(limit.level(), Some(21));
    // The next probe starts at once. Its step is twice as large, up to 1/8 of the learned limit.
    assert_probe_starts(&mut limit, ms(now));
    assert_eq!(limit.limit(), 23);
    assert_eq!(succeed(&mut limit, 22), 2);
    assert_probe_starts(&mut limit, ms(now));
    assert_eq!(limit.limit(), 25, "4 is more than an eighth");
}

#[test]
fn number_of_requests_for_a_successful_probe_grows_with_the_limit() {
    let least = |level: u32, in_flight: u32| {
        let mut limit = learned(level);
        limit.on_reopened(in_flight);
        probe_after(&mut limit, 1_000);
        assert_eq!(limit.limit(), level + 1);
        succeed(&mut limit, level + 1)
    };
    for (level, partly, drained) in [(8, 1, 1), (18, 1, 2), (27, 2, 3), (36, 3, 3), (500, 3, 3)] {
        assert_eq!(least(level, level / 2), partly, "learned limit {level}");
        assert_eq!(least(level, 0), drained, "{level}, empty window");
    }
}

#[test]
fn failed_probe_sets_the_limit_to_the_accepted_requests() {
    let mut limit = learned(80);
    let now = probe_after(&mut limit, 1_000);
    let mut level = 80;
    for step in [1, 2, 4, 8] {
        assert_eq!(limit.limit(), level + step);
        succeed(&mut limit, level + 1);
        level += step;
        assert_probe_starts(&mut limit, ms(now));
    }
    let change = limit.on_refusal(refusal(ms(now), level + 3));
    assert_eq!(change, Some(LimitChange::ProbeFailed));
    assert_eq!(limit.limit(), level + 3);
    limit.on_reopened(0);
    probe_after(&mut limit, now);
    assert_eq!(limit.limit(), level + 4, "the step is reset");
}

#[test]
fn late_responses_correct_the_learned_limit() {
    let mut limit = learned(20);
    assert_eq!(limit.on_accepted(20, true), None);
    assert_eq!(limit.on_accepted(22, true), Some(LimitChange::Corrected));
    assert_eq!(limit.limit(), 22);
    assert_eq!(limit.on_accepted(5_000, true), Some(LimitChange::Corrected));
    assert_eq!(limit.limit(), 2_000, "at most the ceiling");
    // Accepted requests that were sent after the last refusal change nothing without a probe.
    assert_eq!(learned(20).on_accepted(21, false), None);
}

#[test]
fn limit_probe_needs_25_accepted_requests_for_each_earlier_refusal() {
    let mut limit = AdaptiveLimit::new(1, 2_000);
    limit.on_refusal(refusal(ms(0), 20));
    let other = further_refusal(ms(0), 20);
    limit.on_refusal(other);
    limit.on_reopened(0);
    accept(&mut limit, 49, 1);
    assert_eq!(limit.on_window_full(ms(0)), None);
    assert_eq!(
        limit.on_window_full(ms(100_000)),
        None,
        "time alone offsets no refusal"
    );
    accept(&mut limit, 1, 1);
    assert_probe_starts(&mut limit, ms(100_000));
}

#[test]
fn balance_of_accepted_requests_and_refusals_is_bounded() {
    let mut limit = learned(20);
    let other = further_refusal(ms(0), 20);
    (0..1_000).for_each(|_| assert_eq!(limit.on_refusal(other), None));
    limit.on_window_full(ms(1_000));
    accept(&mut limit, 8 + 4 * 20 - 1, 1);
    assert_eq!(limit.on_window_full(ms(100_000)), None);
    accept(&mut limit, 1, 1);
    assert_probe_starts(&mut limit, ms(100_000));

    let mut limit = learned(2_000);
    accept(&mut limit, 10_000, 1);
    (0..21).for_each(|_| assert_eq!(limit.on_refusal(other), None));
    limit.on_window_full(ms(1_000));
    limit.set_ceiling(3_000);
    assert_eq!(
        limit.on_window_full(ms(100_000)),
        None,
        "500 offset 20 refusals"
    );
}

/// Returns the interval in milliseconds until the first limit probe, after a first refusal with 20 requests in flight. The in-flight limit
/// is reached again `held` ms after the refusal. When the gate opened, `in_flight` of the 20 requests were still in flight.
fn first_interval(held: u64, in_flight: u32) -> u64 {
    let mut limit = AdaptiveLimit::new(1, 2_000);
    limit.on_refusal(refusal(ms(0), 20));
    if held > 0 {
        limit.on_held_back(ms(0));
    }
    limit.on_reopened(in_flight);
    accept(&mut limit, 100, 1);
    probe_after(&mut limit, held) - held
}

#[test]
fn limit_probe_interval_is_twenty_times_the_idle_time_of_the_window() {
    assert_eq!(first_interval(1_500, 0), 20 * 1_500);
    assert_eq!(first_interval(200, 0), 20 * 200);
}

#[test]
fn requests_in_flight_after_a_pause_shorten_limit_probe_interval() {
    assert_eq!(first_interval(1_600, 5), 20 * 600);
    assert_eq!(first_interval(1_600, 10), 20 * 400);
    assert_eq!(first_interval(1_600, 20), 2_000, "no cost");
}

#[test]
fn probe_interval_is_at_least_two_pauses_and_at_most_one_minute() {
    assert_eq!(first_interval(0, 0), 2_000);
    assert_eq!(first_interval(10, 0), 2_000);
    assert_eq!(first_interval(30_000, 0), 60_000);
}

#[test]
fn probe_interval_doubles_twice_and_fourth_failure_lowers_the_limit() {
    let mut limit = learned(20);
    // The refusal that set the learned limit was the first failure.
    let mut now = probe_after(&mut limit, 1_000);
    // At the lowered learned limit, the doubling of the intervals begins again.
    for (factor, level) in [(2, 20), (4, 20), (1, 17), (1, 17), (2, 17)] {
        // One refusal at this learned limit was counted before.
        let full = fail_probe(&mut limit, now, 500);
        assert_eq!(limit.level(), Some(level));
        now = probe_after(&mut limit, full);
        assert_eq!(now, full + factor * 10_000);
    }
}

#[test]
fn failed_limit_probe_at_another_limit_resets_the_probe_interval() {
    let mut limit = learned(20);
    let now = probe_after(&mut limit, 1_000);
    let full = fail_probe(&mut limit, now, 500);
    assert_eq!(probe_after(&mut limit, full), full + 20_000);
    let change = limit.on_refusal(refusal(ms(full + 20_000), 12));
    assert_eq!(change, Some(LimitChange::ProbeFailed));
    limit.on_held_back(ms(full + 20_000));
    limit.on_reopened(0);
    accept(&mut limit, 100, 0);
    let full = full + 20_500;
    assert_eq!(probe_after(&mut limit, full), full + 10_000);
}

#[test]
fn no_limit_probe_starts_during_a_pause_or_at_the_maximum_limit() {
    let mut limit = AdaptiveLimit::new(1, 21);
    limit.on_refusal(refusal(ms(0), 20));
    accept(&mut limit, 100, 1);
    assert_eq!(
        limit.on_window_full(ms(100_000)),
        None,
        "the gate is closed"
    );
    limit.on_reopened(0);
    probe_after(&mut limit, 100_000);
    succeed(&mut limit, 21);
    assert_eq!(limit.on_window_full(ms(200_000)), None, "at the ceiling");
    limit.set_ceiling(10);
    assert_eq!((limit.level(), limit.limit()), (Some(10), 10));
    limit.set_ceiling(11);
    probe_after(&mut limit, 300_000);
    limit.set_ceiling(12);
    assert_eq!(limit.limit(), 10, "the probe has ended");
}

#[test]
fn late_refusal_does_not_block_limit_probes_forever() {
    let mut limit = learned(20);
    limit.on_refusal(refusal(ms(0), 12));
    accept(&mut limit, 100, 1);
    assert_eq!(limit.on_window_full(ms(100_000)), None);
    limit.on_gate_seen_open(0);
    let now = probe_after(&mut limit, 100_000);
    limit.on_gate_seen_open(12);
    assert_eq!(limit.limit(), 13, "the gate was open: {now}");
}

/// Reports three refusals without a limit probe and with few accepted requests, so that `limit` classifies refusals as random. Reports at
/// the end that the gate is open.
fn cause_noise(limit: &mut AdaptiveLimit, now: u64) {
    cause_noise_down_to(3, limit, now);
}

/// Reports three refusals without a limit probe, so that `limit` classifies refusals as random. At the last one the server has accepted
/// `lowest` requests, and at the others slightly more.
fn cause_noise_down_to(lowest: u32, limit: &mut AdaptiveLimit, now: u64) {
    for (accepted, after, expected) in [
        (lowest + 2, 0, LimitChange::Lowered),
        (lowest + 1, 1_000, LimitChange::Lowered),
        (lowest, 2_000, LimitChange::Restored),
    ] {
        let change = limit.on_refusal(refusal(ms(now + after), accepted));
        assert_eq!(change, Some(expected));
        limit.on_held_back(ms(now + after));
        limit.on_reopened(0);
    }
}

#[test]
fn random_refusals_restore_the_limit_and_set_no_probe_interval() {
    let mut limit = learned(40);
    let now = probe_after(&mut limit, 1_000);
    fail_probe(&mut limit, now, 500);
    cause_noise(&mut limit, now + 1_000);
    assert_eq!((limit.level(), limit.limit()), (Some(40), 40));
    limit.on_accepted(20, false);
    assert_eq!(limit.on_refusal(refusal(ms(now + 4_000), 9)), None);
    limit.on_held_back(ms(now + 4_000));
    limit.on_reopened(0);
    assert_eq!(limit.limit(), 40);
    assert_eq!(
        limit.on_window_full(ms(now + 4_500)),
        None,
        "random refusals"
    );
    accept(&mut limit, 240, 40);
    assert_probe_starts(&mut limit, ms(now + 4_500));
}

#[test]
fn failed_probes_before_random_refusals_do_not_delay_limit_probes() {
    for lowest in [3, 37] {
        let mut limit = learned(40);
        let now = probe_after(&mut limit, 1_000);
        let full = fail_probe(&mut limit, now, 500);
        cause_noise_down_to(lowest, &mut limit, full);
        accept(&mut limit, 240, 40);
        let now = full + 5_000;
        assert_probe_starts(&mut limit, ms(now));
        // This is the first consecutive failure, so the interval depends only on its own closure.
        let full = fail_probe(&mut limit, now, 500);
        let next = probe_after(&mut limit, full);
        assert_eq!(next, full + 10_000, "{lowest}");
    }
}

#[test]
fn random_refusals_without_an_earlier_limit_remove_the_learned_limit() {
    let mut limit = AdaptiveLimit::new(1, 64);
    let change = limit.on_refusal(refusal(ms(0), 6));
    assert_eq!(change, Some(LimitChange::Learned));
    let change = limit.on_refusal(refusal(ms(1), 5));
    assert_eq!(change, Some(LimitChange::Lowered));
    let change = limit.on_refusal(refusal(ms(2), 4));
    assert_eq!(change, Some(LimitChange::Restored));
    assert_eq!((limit.level(), limit.limit()), (None, 64));
}

#[test]
fn refusal_lowers_the_limit_despite_earlier_random_refusals() {
    let mut limit = learned(40);
    cause_noise(&mut limit, 1_000);
    let change = limit.on_refusal(refusal(ms(9_000), 3));
    assert_eq!(change, Some(LimitChange::Lowered), "none was accepted");
    assert_eq!(limit.limit(), 3);
}

#[test]
fn limit_recovery_steps_double_despite_many_earlier_refusals() {
    let mut limit = learned(40);
    cause_noise(&mut limit, 1_000);
    limit.on_refusal(refusal(ms(9_000), 3));
    let other = further_refusal(ms(9_000), 3);
    (0..30).for_each(|_| assert_eq!(limit.on_refusal(other), None));
    limit.on_reopened(0);
    limit.on_window_full(ms(9_500));
    accept(&mut limit, 7, 3);
    assert_eq!(limit.on_window_full(ms(9_500)), None);
    accept(&mut limit, 1, 3);
    for target in [4, 6, 10, 18, 34, 40] {
        assert_probe_starts(&mut limit, ms(9_500));
        assert_eq!(limit.limit(), target);
        succeed(&mut limit, target);
    }
    limit.on_window_full(ms(9_500));
    assert_eq!(limit.limit(), 45, "an eighth above the learned limit");
}

#[test]
fn failed_probe_during_limit_recovery_does_not_delay_the_next_probe() {
    let mut limit = learned(40);
    let change = limit.on_refusal(refusal(ms(1_000), 10));
    assert_eq!(change, Some(LimitChange::Lowered));
    limit.on_held_back(ms(1_000));
    limit.on_reopened(0);
    accept(&mut limit, 100, 10);
    let change = limit.on_window_full(ms(2_000));
    assert_eq!(change, None, "the interval is 20 s");
    let now = probe_after(&mut limit, 2_000);
    assert_eq!(now, 2_000 + 4 * 1_000, "the recovery is due");
    let change = limit.on_refusal(refusal(ms(now), 10));
    assert_eq!(change, Some(LimitChange::ProbeFailed));
    limit.on_held_back(ms(now));
    limit.on_reopened(0);
    accept(&mut limit, 100, 10);
    assert_eq!(limit.limit(), 10);
    assert_eq!(probe_after(&mut limit, now + 1_000), 2_000 + 20 * 1_000);
}

#[test]
fn limit_recovery_continues_if_a_probe_succeeds_between_failures() {
    let mut limit = learned(40);
    cause_noise(&mut limit, 1_000);
    limit.on_refusal(refusal(ms(9_000), 3));
    limit.on_reopened(0);
    let now = ms(100_000);
    for level in 3..6 {
        accept(&mut limit, 50, 3);
        assert_probe_starts(&mut limit, now);
        let lost = limit.on_refusal(refusal(now, level));
        assert_eq!(lost, Some(LimitChange::ProbeFailed));
        limit.on_reopened(0);
        accept(&mut limit, 50, 0);
        assert_probe_starts(&mut limit, now);
        succeed(&mut limit, level + 1);
        assert_eq!(limit.level(), Some(level + 1));
    }
    // During a recovery, the step after a successful probe is twice as large.
    assert_probe_starts(&mut limit, now);
    assert_eq!(limit.limit(), 8);
}

#[test]
fn failed_probes_within_an_eighth_of_the_level_are_consecutive() {
    let mut schedule = ProbeSchedule::new();
    schedule.record_failure(80);
    schedule.record_failure(88);
    assert_eq!(schedule.failures, 2);
}
