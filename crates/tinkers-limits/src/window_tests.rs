//! What each call does to the window's word.

use super::*;

const ANY: u32 = u32::MAX;

#[test]
fn a_full_window_takes_no_flight_and_still_a_slot_for_one_that_has_it() {
    let window = ConcurrencyWindow::new(2);
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Ok(()));
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Ok(()));
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Err(Full));
    assert_eq!(window.take(Take::Slot, ANY), Ok(()));
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered, view.limit), (2, 3, 2));
}

#[test]
fn slots_bound_those_without_an_answer() {
    let window = ConcurrencyWindow::new(10);
    assert_eq!(window.take(Take::SlotAndFlight, 1), Ok(()));
    assert_eq!(window.take(Take::SlotAndFlight, 1), Err(Full));
    assert_eq!(window.take(Take::Slot, 1), Err(Full));
    assert_eq!(window.end_attempt().accepted(), 1);
    assert_eq!(window.take(Take::SlotAndFlight, 1), Ok(()));
    assert_eq!(window.view().accepted(), 1);
    assert_eq!(window.take(Take::Slot, 0), Err(Full));
}

#[test]
fn nobody_passes_those_who_wait_but_their_head() {
    let window = ConcurrencyWindow::new(2);
    assert!(window.set_waiters(true).has_waiters);
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Err(Full));
    assert_eq!(window.take(Take::Slot, ANY), Err(Full));
    assert_eq!(window.take_turn(Take::SlotAndFlight, ANY), Ok(()));
    assert!(window.view().has_waiters, "whoever is left still waits");
    assert!(!window.set_waiters(false).has_waiters);
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Ok(()));
}

#[test]
fn each_give_back_says_whether_somebody_waits() {
    let window = ConcurrencyWindow::new(2);
    window.take(Take::SlotAndFlight, ANY).unwrap();
    window.take(Take::SlotAndFlight, ANY).unwrap();
    assert!(!window.end_attempt().has_waiters);
    window.set_waiters(true);
    assert!(window.land().has_waiters);
    assert!(window.undo(Take::SlotAndFlight).has_waiters);
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered), (0, 0));
}

#[test]
fn a_limit_below_what_is_in_flight_takes_nothing_away() {
    let window = ConcurrencyWindow::new(3);
    (0..3).for_each(|_| window.take(Take::SlotAndFlight, ANY).unwrap());
    let view = window.set_limit(1);
    assert_eq!((view.in_flight, view.unanswered, view.limit), (3, 3, 1));
    window.undo(Take::SlotAndFlight);
    window.undo(Take::SlotAndFlight);
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Err(Full));
    window.undo(Take::SlotAndFlight);
    assert_eq!(window.take(Take::SlotAndFlight, ANY), Ok(()));
}

#[test]
fn limits_are_kept_within_what_the_word_holds() {
    assert_eq!(ConcurrencyWindow::new(0).view().limit, 1);
    let window = ConcurrencyWindow::new(u32::MAX);
    window.set_waiters(true);
    let view = window.view();
    assert_eq!(
        (view.limit, view.has_waiters),
        (ConcurrencyWindow::MAX, true)
    );
    assert_eq!((view.in_flight, view.unanswered), (0, 0));
    assert_eq!(window.set_limit(0).limit, 1);
}

#[test]
fn a_full_word_overflows_into_no_other_part() {
    let full = Packed(0).with_limit(ConcurrencyWindow::MAX);
    let full = Packed(full.0 + Packed::MASK * (Packed::IN_FLIGHT + Packed::UNANSWERED));
    for take in [Take::SlotAndFlight, Take::Slot] {
        assert_eq!(full.take(take, ANY), Err(Full));
    }
    assert_eq!(full.view().accepted(), 0);
}

#[test]
fn waiters_are_announced_any_number_of_times() {
    let window = ConcurrencyWindow::new(2);
    for waiting in [true, true, false, false] {
        assert_eq!(window.set_waiters(waiting).has_waiters, waiting);
        assert_eq!(window.view().has_waiters, waiting);
    }
}

#[test]
fn limits_and_waiters_do_not_bound_what_is_taken_beyond_them() {
    let window = ConcurrencyWindow::new(1);
    window.set_waiters(true);
    for _ in 0..2 {
        window.take_beyond(Take::SlotAndFlight);
        window.take_beyond(Take::Slot);
    }
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered, view.limit), (2, 4, 1));
    assert!(view.has_waiters);
}
