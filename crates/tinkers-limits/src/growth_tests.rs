//! What each event does to the level, the trials and their pace.

use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn refusal(now: Duration, accepted: u32) -> RefusalContext {
    RefusalContext {
        now,
        first_of_its_event: true,
        accepted,
        closed_for: ms(1_000),
    }
}

fn accept(growth: &mut AdaptiveLimit, times: u32, at: u32) {
    for _ in 0..times {
        assert_eq!(growth.accepted(at, false), None);
    }
}

/// Begins a trial at the first millisecond of `from..` that allows one, and says which that was.
fn trial_after(growth: &mut AdaptiveLimit, from: u64) -> u64 {
    (from..from + 200_000)
        .find(|now| growth.is_wanted(ms(*now)) == Some(Change::TrialBegun))
        .expect("a trial at some time")
}

/// Has `level`, no debt, and the gate open at 1 s with an idle window; nothing was held back by it.
fn learned(level: u32) -> AdaptiveLimit {
    let mut growth = AdaptiveLimit::new(1, 2_000);
    assert_eq!(growth.refused(refusal(ms(0), level)), Some(Change::Learned));
    accept(&mut growth, 400, level.min(1));
    growth.reopened(0);
    growth
}

/// Loses a trial at `now`, and reopens the gate at once; `held` is how long the gate then holds the next ones back.
fn lose(growth: &mut AdaptiveLimit, now: u64, held: u64) -> u64 {
    let level = growth.level().unwrap();
    let change = growth.refused(refusal(ms(now), level));
    assert_eq!(change, Some(Change::TrialLost));
    growth.held_back(ms(now));
    growth.reopened(0);
    accept(growth, 100, 0);
    now + held
}

#[test]
fn nothing_is_known_before_the_first_refusal() {
    let mut growth = AdaptiveLimit::new(1, 64);
    assert_eq!((growth.level(), growth.limit()), (None, 64));
    accept(&mut growth, 100, 64);
    assert_eq!(growth.is_wanted(ms(1)), None);
    assert_eq!((growth.level(), growth.limit()), (None, 64));
}

#[test]
fn the_first_refusal_names_the_level_within_its_bounds() {
    for (accepted, level) in [(1, 4), (4, 4), (30, 30), (64, 64), (100, 64)] {
        let mut growth = AdaptiveLimit::new(4, 64);
        let change = growth.refused(refusal(ms(0), accepted));
        assert_eq!(change, Some(Change::Learned));
        assert_eq!((growth.level(), growth.limit()), (Some(level), level));
    }
    assert_eq!(AdaptiveLimit::new(0, 0).limit(), 1);
    assert_eq!(AdaptiveLimit::new(9, 3).limit(), 9);
}

#[test]
fn a_refusal_with_nothing_of_ours_in_flight_teaches_nothing() {
    let mut fresh = AdaptiveLimit::new(1, 64);
    assert_eq!(fresh.refused(refusal(ms(0), 0)), None);
    assert_eq!((fresh.level(), fresh.limit()), (None, 64));
    let mut growth = learned(20);
    growth.found_open(20);
    assert_eq!(growth.refused(refusal(ms(9_000), 0)), None);
    assert_eq!(growth.level(), Some(20));
}

#[test]
fn the_others_of_an_event_change_nothing() {
    let mut growth = learned(20);
    let other = RefusalContext {
        first_of_its_event: false,
        ..refusal(ms(1), 3)
    };
    assert_eq!(growth.refused(other), None);
    assert_eq!(growth.limit(), 20);
}

#[test]
fn a_refusal_below_the_level_lowers_it_to_what_was_taken() {
    let mut growth = learned(20);
    let change = growth.refused(refusal(ms(1), 12));
    assert_eq!((change, growth.limit()), (Some(Change::Lowered), 12));
}

#[test]
fn a_refusal_at_a_level_that_was_taken_before_lowers_it_by_a_part() {
    for (level, lower) in [(21, 18), (20, 17), (7, 6), (2, 1), (1, 1)] {
        let mut growth = learned(level);
        let change = growth.refused(refusal(ms(1), level));
        assert_eq!((change, growth.limit()), (Some(Change::Lowered), lower));
    }
}

#[test]
fn no_refusal_raises_the_level_without_a_trial() {
    let mut growth = learned(20);
    assert_eq!(growth.refused(refusal(ms(1), 25)), None);
    assert_eq!(growth.limit(), 20);
}

/// Accepts at `at` until the trial is won, and says how many that took.
fn win(growth: &mut AdaptiveLimit, at: u32) -> u32 {
    for times in 1..1_000 {
        if growth.accepted(at, false) == Some(Change::TrialWon) {
            return times;
        }
    }
    panic!("never won: {growth:?}")
}

#[test]
fn a_trial_is_won_by_as_many_beyond_the_level_as_it_has() {
    let mut growth = learned(20);
    growth.reopened(15);
    let now = trial_after(&mut growth, 1_000);
    assert_eq!((growth.level(), growth.limit()), (Some(20), 21));
    assert_eq!(growth.is_wanted(ms(now + 1)), None, "one at a time");
    assert_eq!(growth.accepted(20, false), None, "not beyond it");
    assert_eq!(win(&mut growth, 21), 1);
    assert_eq!(growth.level(), Some(21));
    // The next one goes at once and is twice as large, within an eighth of the level.
    assert_eq!(growth.is_wanted(ms(now)), Some(Change::TrialBegun));
    assert_eq!(growth.limit(), 23);
    assert_eq!(win(&mut growth, 22), 2);
    assert_eq!(growth.is_wanted(ms(now)), Some(Change::TrialBegun));
    assert_eq!(growth.limit(), 25, "4 would be more than an eighth");
}

#[test]
fn a_trial_is_won_by_a_part_of_the_level_at_least() {
    let least = |level: u32, in_flight: u32| {
        let mut growth = learned(level);
        growth.reopened(in_flight);
        trial_after(&mut growth, 1_000);
        assert_eq!(growth.limit(), level + 1);
        win(&mut growth, level + 1)
    };
    for (level, partly, drained) in [(8, 1, 1), (18, 1, 2), (27, 2, 3), (36, 3, 3), (500, 3, 3)] {
        assert_eq!(least(level, level / 2), partly, "of {level}");
        assert_eq!(
            least(level, 0),
            drained,
            "of {level}, all of which had ended"
        );
    }
}

#[test]
fn a_lost_trial_leaves_what_was_taken() {
    let mut growth = learned(80);
    let now = trial_after(&mut growth, 1_000);
    let mut level = 80;
    for step in [1, 2, 4, 8] {
        assert_eq!(growth.limit(), level + step);
        win(&mut growth, level + 1);
        level += step;
        assert_eq!(growth.is_wanted(ms(now)), Some(Change::TrialBegun));
    }
    let change = growth.refused(refusal(ms(now), level + 3));
    assert_eq!(change, Some(Change::TrialLost));
    assert_eq!(growth.limit(), level + 3);
    growth.reopened(0);
    trial_after(&mut growth, now);
    assert_eq!(growth.limit(), level + 4, "small again");
}

#[test]
fn answers_that_were_under_way_correct_the_level() {
    let mut growth = learned(20);
    assert_eq!(growth.accepted(20, true), None);
    assert_eq!(growth.accepted(22, true), Some(Change::Corrected));
    assert_eq!(growth.limit(), 22);
    assert_eq!(growth.accepted(5_000, true), Some(Change::Corrected));
    assert_eq!(growth.limit(), 2_000, "never beyond the ceiling");
    // Without a trial and in the present epoch nothing is learned by it.
    assert_eq!(learned(20).accepted(21, false), None);
}

#[test]
fn each_refusal_is_paid_for_by_acceptances() {
    let mut growth = AdaptiveLimit::new(1, 2_000);
    growth.refused(refusal(ms(0), 20));
    let other = RefusalContext {
        first_of_its_event: false,
        ..refusal(ms(0), 20)
    };
    growth.refused(other);
    growth.reopened(0);
    accept(&mut growth, 49, 1);
    assert_eq!(growth.is_wanted(ms(0)), None);
    assert_eq!(
        growth.is_wanted(ms(100_000)),
        None,
        "time alone pays nothing"
    );
    accept(&mut growth, 1, 1);
    assert_eq!(growth.is_wanted(ms(100_000)), Some(Change::TrialBegun));
}

#[test]
fn debts_and_savings_are_bounded() {
    let mut growth = learned(20);
    let other = RefusalContext {
        first_of_its_event: false,
        ..refusal(ms(0), 20)
    };
    (0..1_000).for_each(|_| assert_eq!(growth.refused(other), None));
    growth.is_wanted(ms(1_000));
    accept(&mut growth, 8 + 4 * 20 - 1, 1);
    assert_eq!(growth.is_wanted(ms(100_000)), None);
    accept(&mut growth, 1, 1);
    assert_eq!(growth.is_wanted(ms(100_000)), Some(Change::TrialBegun));

    let mut growth = learned(2_000);
    accept(&mut growth, 10_000, 1);
    (0..21).for_each(|_| assert_eq!(growth.refused(other), None));
    growth.is_wanted(ms(1_000));
    growth.set_ceiling(3_000);
    assert_eq!(growth.is_wanted(ms(100_000)), None, "500 pay for 20");
}

/// The pause after the first refusal, when the window is full again `held` later and `in_flight` of 20 were left.
fn first_pause(held: u64, in_flight: u32) -> u64 {
    let mut growth = AdaptiveLimit::new(1, 2_000);
    growth.refused(refusal(ms(0), 20));
    if held > 0 {
        growth.held_back(ms(0));
    }
    growth.reopened(in_flight);
    accept(&mut growth, 100, 1);
    trial_after(&mut growth, held) - held
}

#[test]
fn the_pause_is_twenty_times_what_the_closure_cost() {
    assert_eq!(first_pause(1_500, 0), 20 * 1_500);
    assert_eq!(first_pause(200, 0), 20 * 200);
}

#[test]
fn what_was_still_under_way_made_the_closure_cost_less() {
    assert_eq!(first_pause(1_600, 5), 20 * 600);
    assert_eq!(first_pause(1_600, 10), 20 * 400);
    assert_eq!(first_pause(1_600, 20), 2_000, "it cost nothing");
}

#[test]
fn the_pause_is_two_closures_at_least_and_a_minute_at_most() {
    assert_eq!(first_pause(0, 0), 2_000);
    assert_eq!(first_pause(10, 0), 2_000);
    assert_eq!(first_pause(30_000, 0), 60_000);
}

#[test]
fn it_doubles_twice_for_trials_lost_in_a_row_and_the_fourth_yields() {
    let mut growth = learned(20);
    // Learning the level was the first.
    let mut now = trial_after(&mut growth, 1_000);
    // The pauses double again at the level that was yielded.
    for (factor, level) in [(2, 20), (4, 20), (1, 17), (1, 17), (2, 17)] {
        // One refusal at this level is behind it already.
        let full = lose(&mut growth, now, 500);
        assert_eq!(growth.level(), Some(level));
        now = trial_after(&mut growth, full);
        assert_eq!(now, full + factor * 10_000);
    }
}

#[test]
fn another_level_begins_the_row_again() {
    let mut growth = learned(20);
    let now = trial_after(&mut growth, 1_000);
    let full = lose(&mut growth, now, 500);
    assert_eq!(trial_after(&mut growth, full), full + 20_000);
    assert_eq!(
        growth.refused(refusal(ms(full + 20_000), 12)),
        Some(Change::TrialLost)
    );
    growth.held_back(ms(full + 20_000));
    growth.reopened(0);
    accept(&mut growth, 100, 0);
    let full = full + 20_500;
    assert_eq!(trial_after(&mut growth, full), full + 10_000);
}

#[test]
fn a_closed_gate_and_the_ceiling_allow_no_trial() {
    let mut growth = AdaptiveLimit::new(1, 21);
    growth.refused(refusal(ms(0), 20));
    accept(&mut growth, 100, 1);
    assert_eq!(growth.is_wanted(ms(100_000)), None, "it is closed");
    growth.reopened(0);
    trial_after(&mut growth, 100_000);
    win(&mut growth, 21);
    assert_eq!(growth.is_wanted(ms(200_000)), None, "it is at its ceiling");
    growth.set_ceiling(10);
    assert_eq!((growth.level(), growth.limit()), (Some(10), 10));
    growth.set_ceiling(11);
    trial_after(&mut growth, 300_000);
    growth.set_ceiling(12);
    assert_eq!(growth.limit(), 10, "the trial is over");
}

#[test]
fn a_refusal_told_late_does_not_keep_the_gate_closed_for_ever() {
    let mut growth = learned(20);
    growth.refused(refusal(ms(0), 12));
    accept(&mut growth, 100, 1);
    assert_eq!(growth.is_wanted(ms(100_000)), None);
    growth.found_open(0);
    let now = trial_after(&mut growth, 100_000);
    growth.found_open(12);
    assert_eq!(growth.limit(), 13, "it was open: {now}");
}

/// Three refusals without a trial, with few accepted; the gate is open again.
fn storm(growth: &mut AdaptiveLimit, now: u64) {
    storm_down_to(3, growth, now);
}

/// The same with `lowest` accepted at the last refusal.
fn storm_down_to(lowest: u32, growth: &mut AdaptiveLimit, now: u64) {
    for (accepted, after, change) in [
        (lowest + 2, 0, Change::Lowered),
        (lowest + 1, 1_000, Change::Lowered),
        (lowest, 2_000, Change::Restored),
    ] {
        assert_eq!(
            growth.refused(refusal(ms(now + after), accepted)),
            Some(change)
        );
        growth.held_back(ms(now + after));
        growth.reopened(0);
    }
}

#[test]
fn weather_gives_the_level_back_and_costs_no_pause() {
    let mut growth = learned(40);
    let now = trial_after(&mut growth, 1_000);
    lose(&mut growth, now, 500);
    storm(&mut growth, now + 1_000);
    assert_eq!((growth.level(), growth.limit()), (Some(40), 40));
    growth.accepted(20, false);
    assert_eq!(growth.refused(refusal(ms(now + 4_000), 9)), None);
    growth.held_back(ms(now + 4_000));
    growth.reopened(0);
    assert_eq!(growth.limit(), 40);
    assert_eq!(growth.is_wanted(ms(now + 4_500)), None, "it is stormy");
    accept(&mut growth, 240, 40);
    assert_eq!(
        growth.is_wanted(ms(now + 4_500)),
        Some(Change::TrialBegun),
        "nothing is to be paid for"
    );
}

#[test]
fn restored_level_owes_nothing_for_the_refusals_before_it() {
    for lowest in [3, 37] {
        let mut growth = learned(40);
        let now = trial_after(&mut growth, 1_000);
        let full = lose(&mut growth, now, 500);
        storm_down_to(lowest, &mut growth, full);
        accept(&mut growth, 240, 40);
        let now = full + 5_000;
        assert_eq!(growth.is_wanted(ms(now)), Some(Change::TrialBegun));
        // This is the first lost trial in a row, and its closure alone is paid for.
        let full = lose(&mut growth, now, 500);
        let next = trial_after(&mut growth, full);
        assert_eq!(next, full + 10_000, "{lowest}");
    }
}

#[test]
fn what_was_unknown_before_the_weather_is_unknown_again() {
    let mut growth = AdaptiveLimit::new(1, 64);
    assert_eq!(growth.refused(refusal(ms(0), 6)), Some(Change::Learned));
    assert_eq!(growth.refused(refusal(ms(1), 5)), Some(Change::Lowered));
    assert_eq!(growth.refused(refusal(ms(2), 4)), Some(Change::Restored));
    assert_eq!((growth.level(), growth.limit()), (None, 64));
}

#[test]
fn a_window_that_is_there_in_the_weather_is_the_level() {
    let mut growth = learned(40);
    storm(&mut growth, 1_000);
    assert_eq!(
        growth.refused(refusal(ms(9_000), 3)),
        Some(Change::Lowered),
        "nothing went beyond"
    );
    assert_eq!(growth.limit(), 3);
}

#[test]
fn a_height_is_gone_back_to_by_steps_that_double_whatever_is_owed() {
    let mut growth = learned(40);
    storm(&mut growth, 1_000);
    growth.refused(refusal(ms(9_000), 3));
    let other = RefusalContext {
        first_of_its_event: false,
        ..refusal(ms(9_000), 3)
    };
    (0..30).for_each(|_| assert_eq!(growth.refused(other), None));
    growth.reopened(0);
    growth.is_wanted(ms(9_500));
    accept(&mut growth, 7, 3);
    assert_eq!(growth.is_wanted(ms(9_500)), None);
    accept(&mut growth, 1, 3);
    for target in [4, 6, 10, 18, 34, 40] {
        assert_eq!(growth.is_wanted(ms(9_500)), Some(Change::TrialBegun));
        assert_eq!(growth.limit(), target);
        win(&mut growth, target);
    }
    growth.is_wanted(ms(9_500));
    assert_eq!(growth.limit(), 45, "an eighth beyond it, as ever");
}

#[test]
fn a_lost_step_of_the_way_back_leaves_what_was_taken_and_the_pause_as_it_was() {
    let mut growth = learned(40);
    assert_eq!(
        growth.refused(refusal(ms(1_000), 10)),
        Some(Change::Lowered)
    );
    growth.held_back(ms(1_000));
    growth.reopened(0);
    accept(&mut growth, 100, 10);
    assert_eq!(growth.is_wanted(ms(2_000)), None, "20 times 1 s from here");
    let now = trial_after(&mut growth, 2_000);
    assert_eq!(now, 2_000 + 4 * 1_000, "the way back is due");
    assert_eq!(
        growth.refused(refusal(ms(now), 10)),
        Some(Change::TrialLost)
    );
    growth.held_back(ms(now));
    growth.reopened(0);
    accept(&mut growth, 100, 10);
    assert_eq!(growth.limit(), 10);
    assert_eq!(trial_after(&mut growth, now + 1_000), 2_000 + 20 * 1_000);
}

#[test]
fn lost_steps_with_a_won_one_between_do_not_end_the_way_back() {
    let mut growth = learned(40);
    storm(&mut growth, 1_000);
    growth.refused(refusal(ms(9_000), 3));
    growth.reopened(0);
    let now = ms(100_000);
    for level in 3..6 {
        accept(&mut growth, 50, 3);
        assert_eq!(growth.is_wanted(now), Some(Change::TrialBegun));
        let lost = growth.refused(refusal(now, level));
        assert_eq!(lost, Some(Change::TrialLost));
        growth.reopened(0);
        accept(&mut growth, 50, 0);
        assert_eq!(growth.is_wanted(now), Some(Change::TrialBegun));
        win(&mut growth, level + 1);
        assert_eq!(growth.level(), Some(level + 1));
    }
    // On the way back, the step behind a won one is twice as large.
    assert_eq!(growth.is_wanted(now), Some(Change::TrialBegun));
    assert_eq!(growth.limit(), 8);
}
