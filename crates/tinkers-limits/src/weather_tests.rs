//! When refusals are news, when they are weather, and how the height is gone back to.

use super::*;

fn accept(weather: &mut Weather, times: u32, level: Option<u32>, at: u32) {
    (0..times).for_each(|_| weather.accepted(level, at));
}

/// At `level`, in weather since the third of three refusals with `lowest` accepted at least.
fn stormy(level: Option<u32>, lowest: u32) -> Weather {
    let mut weather = Weather::new();
    assert_eq!(weather.refused(level, lowest + 2), Reading::News);
    assert_eq!(weather.refused(Some(lowest + 2), lowest), Reading::News);
    assert_eq!(
        weather.refused(Some(lowest), lowest + 1),
        Reading::Restored(level)
    );
    weather
}

#[test]
fn refusals_that_lower_levels_do_not_end_are_weather_and_the_level_is_what_it_was() {
    for level in [Some(50), None] {
        let mut weather = stormy(level, 3);
        assert!(weather.is_stormy());
        accept(&mut weather, 1, level, 20);
        assert_eq!(weather.refused(level, 9), Reading::Weather);
    }
}

#[test]
fn accepted_requests_take_the_doubt_away() {
    for (between, third) in [(20, Reading::Restored(Some(50))), (21, Reading::News)] {
        let mut weather = Weather::new();
        let level = Some(50);
        for _ in 0..2 {
            assert_eq!(weather.refused(level, 30), Reading::News);
            accept(&mut weather, between, level, 30);
        }
        assert_eq!(weather.refused(level, 30), third);
    }
}

#[test]
fn weather_passes_when_as_many_are_accepted_as_it_is_doubted() {
    let level = Some(50);
    let mut weather = stormy(level, 3);
    accept(&mut weather, 239, level, 50);
    assert!(weather.is_stormy());
    accept(&mut weather, 1, level, 50);
    assert!(!weather.is_stormy());
    assert_eq!(weather.refused(level, 49), Reading::News);
}

#[test]
fn a_supposed_weather_is_none_when_nothing_goes_beyond_the_next_refusal() {
    let mut weather = stormy(Some(50), 10);
    // Up to an eighth more is how answers are late.
    accept(&mut weather, 5, Some(50), 11);
    assert_eq!(weather.refused(Some(50), 12), Reading::Firm(10));
    assert!(!weather.is_stormy());
}

#[test]
fn a_window_in_the_weather_is_found_after_four_refusals_with_nothing_beyond_the_lowest() {
    let level = Some(50);
    let mut weather = stormy(level, 3);
    accept(&mut weather, 1, level, 30);
    for accepted in [16, 17, 16] {
        assert_eq!(weather.refused(level, accepted), Reading::Weather);
        accept(&mut weather, 10, level, 18);
    }
    assert_eq!(weather.refused(level, 18), Reading::Firm(16));
    // The same, and then something goes beyond.
    let mut weather = stormy(level, 3);
    accept(&mut weather, 1, level, 30);
    for accepted in [16, 17, 16] {
        assert_eq!(weather.refused(level, accepted), Reading::Weather);
    }
    accept(&mut weather, 1, level, 19);
    assert_eq!(weather.refused(level, 18), Reading::Weather);
}

/// Whether a fall from 50 to `level` is gone back from at once, and when that is due.
fn returns(mut weather: Weather, level: u32) -> [Option<u32>; 2] {
    accept(&mut weather, 50, Some(level), level);
    let mut due = weather;
    [weather.climbs_to(level, false), due.climbs_to(level, true)]
}

#[test]
fn a_far_fall_is_gone_back_from_when_that_is_due_and_after_weather_at_once() {
    let mut fallen = Weather::new();
    fallen.refused(Some(50), 25);
    assert_eq!(returns(fallen, 25), [None, Some(50)]);
    assert_eq!(returns(fallen, 26), [None, None], "not far");
    let mut found = stormy(Some(50), 40);
    assert_eq!(found.refused(Some(50), 40), Reading::Firm(40));
    assert_eq!(returns(found, 40), [Some(50); 2]);
    assert_eq!(returns(stormy(Some(50), 40), 40), [None; 2], "still stormy");
    let mut learned = Weather::new();
    learned.refused(None, 20);
    assert_eq!(returns(learned, 20), [None; 2], "nothing was known above");
}

#[test]
fn it_begins_after_as_many_accepted_as_the_level() {
    for (level, least) in [(20, 20), (2, 8)] {
        let mut weather = Weather::new();
        weather.refused(Some(50), level);
        accept(&mut weather, least - 1, Some(level), level);
        assert_eq!(weather.climbs_to(level, true), None);
        accept(&mut weather, 1, Some(level), level);
        assert_eq!(weather.climbs_to(level, true), Some(50));
        // It goes on, though what is due is another matter by now, and ends at the height.
        assert_eq!(weather.climbs_to(49, false), Some(50));
        assert_eq!(weather.climbs_to(50, true), None);
        accept(&mut weather, 1, Some(50), 50);
        assert_eq!(weather.climbs_to(10, true), None, "forgotten");
    }
}

#[test]
fn a_lost_trial_ends_the_way_back_and_two_in_a_row_after_weather() {
    let mut weather = Weather::new();
    weather.refused(Some(50), 20);
    accept(&mut weather, 30, Some(20), 20);
    assert_eq!(weather.climbs_to(20, true), Some(50));
    assert_eq!(weather.trial_lost(), Lost::Climb);
    assert_eq!(returns(weather, 20), [None; 2]);

    let mut weather = stormy(Some(50), 20);
    assert_eq!(weather.refused(Some(50), 20), Reading::Firm(20));
    assert_eq!(weather.trial_lost(), Lost::Paced);
    assert_eq!(returns(weather, 20), [Some(50); 2]);
    weather.trial_won();
    assert_eq!(weather.trial_lost(), Lost::Paced);
    assert_eq!(returns(weather, 20), [Some(50); 2]);
    assert_eq!(weather.trial_lost(), Lost::Paced);
    assert_eq!(returns(weather, 20), [None; 2]);
}

#[test]
fn a_small_fall_is_forgotten_with_its_doubt_and_a_far_one_is_not() {
    for (level, kept) in [(30, None), (20, Some(50))] {
        let mut weather = Weather::new();
        weather.refused(Some(50), level);
        accept(&mut weather, 79, Some(level), level);
        assert_eq!(weather.height, Some(50));
        accept(&mut weather, 1, Some(level), level);
        assert_eq!(weather.height, kept, "of {level}");
    }
}

#[test]
fn a_first_refusal_of_the_first_few_behind_a_pause_is_gone_back_from_to_what_was_seen() {
    for (seen, back) in [
        (100, [None, Some(100)]),
        (3, [None, None]),
        (7, [None, None]),
    ] {
        let mut weather = Weather::new();
        accept(&mut weather, 20, None, seen);
        // The gate opens again, and the second of its ramp is refused.
        assert_eq!(weather.refused(None, 1), Reading::News);
        accept(&mut weather, 80, Some(1), 1);
        assert_eq!(returns(weather, 1), back, "{seen}");
    }
}

#[test]
fn a_way_back_that_was_begun_is_gone_to_its_end() {
    let mut weather = Weather::new();
    accept(&mut weather, 20, None, 100);
    assert_eq!(weather.refused(None, 4), Reading::News);
    accept(&mut weather, 80, Some(4), 4);
    assert_eq!(weather.climbs_to(4, true), Some(100));
    // More than half of it is no longer far.
    for level in [8, 32, 64, 99] {
        weather.trial_won();
        accept(&mut weather, 1, Some(level), level);
        assert_eq!(weather.climbs_to(level, false), Some(100), "{level}");
    }
    accept(&mut weather, 1, Some(100), 100);
    assert_eq!(weather.climbs_to(100, true), None);
}

/// In weather at 50, and then out of it at a window of 20.
fn firm() -> Weather {
    let mut weather = stormy(Some(50), 20);
    assert_eq!(weather.refused(Some(50), 20), Reading::Firm(20));
    weather
}

#[test]
fn window_that_was_found_in_the_weather_leaves_no_doubt_behind() {
    let mut weather = firm();
    assert_eq!(weather.refused(Some(20), 15), Reading::News);
}

#[test]
fn trials_lost_before_the_weather_do_not_count_after_it() {
    let mut weather = firm();
    weather.trial_lost();
    for (level, accepted) in [(20, 18), (18, 17)] {
        assert_eq!(weather.refused(Some(level), accepted), Reading::News);
    }
    let restored = Reading::Restored(Some(50));
    assert_eq!(weather.refused(Some(17), 18), restored);
    assert_eq!(weather.refused(Some(50), 17), Reading::Firm(17));
    weather.trial_lost();
    assert_eq!(returns(weather, 17), [Some(50); 2], "one of two");
    weather.trial_lost();
    assert_eq!(returns(weather, 17), [None; 2]);
}

#[test]
fn way_back_waits_for_as_many_accepted_after_each_refusal() {
    let mut weather = firm();
    accept(&mut weather, 20, Some(20), 20);
    assert_eq!(weather.climbs_to(20, false), Some(50));
    assert_eq!(weather.trial_lost(), Lost::Climb);
    accept(&mut weather, 19, Some(20), 20);
    assert_eq!(weather.climbs_to(20, false), None);
    accept(&mut weather, 1, Some(20), 20);
    assert_eq!(weather.climbs_to(20, false), Some(50));
    assert_eq!(weather.refused(Some(20), 18), Reading::News);
    assert_eq!(weather.climbs_to(18, false), None);
}

#[test]
fn weather_is_forgotten_when_its_height_is_reached_again() {
    let mut weather = firm();
    accept(&mut weather, 1, Some(50), 50);
    assert_eq!(weather.refused(Some(50), 20), Reading::News);
    accept(&mut weather, 80, Some(20), 20);
    assert_eq!(returns(weather, 20), [None, Some(50)], "when it is due");
}
