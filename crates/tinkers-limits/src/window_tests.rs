//! Unit tests of the in-flight window.

use super::*;

const ANY: u32 = u32::MAX;

#[test]
fn full_window_admits_retries_that_already_hold_an_in_flight_unit() {
    let window = ConcurrencyWindow::new(2);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Ok(()));
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Ok(()));
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Err(Full));
    assert_eq!(window.take(SlotRequest::Slot, ANY), Ok(()));
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered, view.limit), (2, 3, 2));
}

#[test]
fn number_of_slots_limits_the_submissions_without_a_response() {
    let window = ConcurrencyWindow::new(10);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, 1), Ok(()));
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, 1), Err(Full));
    assert_eq!(window.take(SlotRequest::Slot, 1), Err(Full));
    assert_eq!(window.release_slot().accepted(), 1);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, 1), Ok(()));
    assert_eq!(window.view().accepted(), 1);
    assert_eq!(window.take(SlotRequest::Slot, 0), Err(Full));
}

#[test]
fn only_the_head_of_the_queue_is_admitted_while_requests_wait() {
    let window = ConcurrencyWindow::new(2);
    assert!(window.set_waiters(true).has_waiters);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Err(Full));
    assert_eq!(window.take(SlotRequest::Slot, ANY), Err(Full));
    assert_eq!(
        window.take_queued(SlotRequest::SlotAndInFlight, ANY),
        Ok(())
    );
    assert!(window.view().has_waiters, "the flag stays set");
    assert!(!window.set_waiters(false).has_waiters);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Ok(()));
}

#[test]
fn releasing_a_slot_or_permit_returns_whether_requests_wait() {
    let window = ConcurrencyWindow::new(2);
    window.take(SlotRequest::SlotAndInFlight, ANY).unwrap();
    window.take(SlotRequest::SlotAndInFlight, ANY).unwrap();
    assert!(!window.release_slot().has_waiters);
    window.set_waiters(true);
    assert!(window.release().has_waiters);
    assert!(window.undo(SlotRequest::SlotAndInFlight).has_waiters);
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered), (0, 0));
}

#[test]
fn lowering_the_in_flight_limit_keeps_requests_in_flight() {
    let window = ConcurrencyWindow::new(3);
    (0..3).for_each(|_| window.take(SlotRequest::SlotAndInFlight, ANY).unwrap());
    let view = window.set_limit(1);
    assert_eq!((view.in_flight, view.unanswered, view.limit), (3, 3, 1));
    window.undo(SlotRequest::SlotAndInFlight);
    window.undo(SlotRequest::SlotAndInFlight);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Err(Full));
    window.undo(SlotRequest::SlotAndInFlight);
    assert_eq!(window.take(SlotRequest::SlotAndInFlight, ANY), Ok(()));
}

#[test]
fn in_flight_limits_are_clamped_to_their_word_size() {
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
fn full_in_flight_window_of_maximum_size_does_not_overflow() {
    let full = Packed(0).with_limit(ConcurrencyWindow::MAX);
    let full = Packed(full.0 + Packed::MASK * (Packed::IN_FLIGHT + Packed::UNANSWERED));
    for take in [SlotRequest::SlotAndInFlight, SlotRequest::Slot] {
        assert_eq!(full.take(take, ANY), Err(Full));
    }
    assert_eq!(full.view().accepted(), 0);
}

#[test]
fn setting_the_waiters_flag_is_idempotent() {
    let window = ConcurrencyWindow::new(2);
    for waiting in [true, true, false, false] {
        assert_eq!(window.set_waiters(waiting).has_waiters, waiting);
        assert_eq!(window.view().has_waiters, waiting);
    }
}

#[test]
fn unchecked_take_from_the_window_ignores_limits_and_waiters() {
    let window = ConcurrencyWindow::new(1);
    window.set_waiters(true);
    for _ in 0..2 {
        window.take_unchecked(SlotRequest::SlotAndInFlight);
        window.take_unchecked(SlotRequest::Slot);
    }
    let view = window.view();
    assert_eq!((view.in_flight, view.unanswered, view.limit), (2, 4, 1));
    assert!(view.has_waiters);
}
