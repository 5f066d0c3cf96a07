//! Unit tests of the backoff gate.

use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Returns a gate that is closed until `until`.
fn closed(until: Duration) -> BackoffGate {
    let gate = BackoffGate::new();
    gate.close(until, gate.epoch());
    gate
}

/// Returns a gate that was closed and then admitted the first request after the pause, at the time `at`. Also returns the identity of that
/// request.
fn gate_with_first_request(at: Duration) -> (BackoffGate, FirstRequest) {
    let gate = closed(at);
    let first_request = enter(&gate, at);
    (gate, first_request)
}

/// Asks the gate to admit a request at `now`, and asserts that it is admitted as the first request after a rate-limit pause. Returns the
/// identity of this request.
fn enter(gate: &BackoffGate, now: Duration) -> FirstRequest {
    let pass = gate.enter(now, PATIENCE).unwrap();
    pass.first_request().expect("a first request is due")
}

#[test]
fn open_gate_admits_all_requests_with_the_current_gate_epoch() {
    let gate = BackoffGate::default();
    assert_eq!(gate.open(), Some(Epoch(0)));
    for _ in 0..3 {
        let pass = gate.enter(ms(0), PATIENCE);
        assert_eq!(pass, Ok(GatePass::Open(Epoch(0))));
    }
    assert_eq!(gate.state(), GateState::Open);
}

#[test]
fn closed_gate_admits_one_request_alone_after_its_deadline() {
    let gate = closed(ms(5_000));
    assert_eq!(gate.open(), None);
    let early = gate.enter(Duration::from_nanos(4_999_999_999), PATIENCE);
    assert_eq!(early, Err(ms(5_000)));
    assert_eq!(enter(&gate, ms(5_000)).epoch, Epoch(1));
    assert_eq!(gate.enter(ms(5_000), PATIENCE), Err(ms(6_000)));
    assert_eq!(gate.state(), GateState::FirstRequestSince(ms(5_000)));
    assert_eq!(gate.open(), None);
}

#[test]
fn gate_deadline_is_only_ever_extended() {
    let gate = BackoffGate::new();
    let seen = gate.epoch();
    for (until, expected) in [(2_000, 2_000), (5_000, 5_000), (3_000, 5_000), (0, 5_000)] {
        assert_eq!(gate.close(ms(until), seen).until, ms(expected));
    }
    // The end of an unknown first request has no effect either.
    for epoch in [seen, gate.epoch()] {
        assert!(!gate.reopen(epoch));
        let first_request = FirstRequest { epoch, since: 0 };
        assert!(!gate.defer_first_request(ms(1), first_request));
        assert!(!gate.hand_over_first_request(ms(1), first_request));
    }
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(5_000)));
}

#[test]
fn concurrent_refusals_are_one_congestion_event() {
    let gate = BackoffGate::new();
    let seen = gate.epoch();
    let events = (0..10).filter(|_| gate.close(ms(10), seen).is_new_event);
    assert_eq!(events.count(), 1);
    assert_eq!(gate.epoch(), Epoch(1));
    // The refusal of a request that was admitted after the first event starts another event, even while the gate is closed.
    assert!(gate.close(ms(10), Epoch(1)).is_new_event);
    assert!(!gate.close(ms(10), Epoch(0)).is_new_event);
    assert_eq!(gate.epoch(), Epoch(2));
}

#[test]
fn response_to_the_first_request_after_a_pause_opens_the_gate() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    assert!(gate.reopen(first_request.epoch));
    assert_eq!(gate.open(), Some(first_request.epoch));
    assert!(!gate.reopen(first_request.epoch), "the gate is open");
}

#[test]
fn refused_first_request_starts_a_new_congestion_event() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    let closed = gate.close(ms(50), first_request.epoch);
    assert!(closed.is_new_event);
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(50)));
    assert!(!gate.reopen(first_request.epoch), "its epoch has passed");
}

#[test]
fn late_refusal_closes_the_gate_while_a_first_request_is_pending() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    let closed = gate.close(ms(30), Epoch(0));
    assert!(!closed.is_new_event);
    assert!(
        !gate.reopen(first_request.epoch),
        "the server has refused a request meanwhile"
    );
    assert_eq!(gate.enter(ms(29), PATIENCE), Err(ms(30)));
    assert!(gate.enter(ms(30), PATIENCE).unwrap().is_first_request());
}

#[test]
fn dropped_first_request_after_a_pause_is_replaced_at_once() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    let now = Duration::from_nanos(12_345_678);
    assert!(gate.hand_over_first_request(now, first_request));
    assert_eq!(enter(&gate, now).epoch, first_request.epoch);
}

#[test]
fn late_response_to_a_replaced_first_request_opens_the_gate() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    assert_eq!(gate.enter(ms(1_009), PATIENCE), Err(ms(1_010)));
    let second = enter(&gate, ms(1_010));
    assert_eq!(second.epoch, first_request.epoch);
    assert!(gate.reopen(first_request.epoch));
    // The end of the second first request has no effect, since the gate is open.
    assert!(
        !gate.defer_first_request(ms(5_000), second)
            && !gate.hand_over_first_request(ms(5_000), second)
    );
    assert_eq!(gate.state(), GateState::Open);
}

#[test]
fn end_of_a_replaced_first_request_does_not_change_the_gate() {
    let (gate, first) = gate_with_first_request(ms(10));
    let second = enter(&gate, ms(1_010));
    let third = enter(&gate, ms(2_010));
    for replaced in [first, second] {
        assert!(!gate.defer_first_request(ms(9_000), replaced));
        assert!(!gate.hand_over_first_request(ms(2_020), replaced));
        assert_eq!(gate.state(), GateState::FirstRequestSince(ms(2_010)));
    }
    assert!(
        gate.defer_first_request(ms(3_000), third),
        "it is the first request in flight"
    );
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(3_000)));
}

#[test]
fn refusal_of_a_replaced_first_request_closes_the_gate() {
    let (gate, first) = gate_with_first_request(ms(10));
    let second = enter(&gate, ms(1_010));
    assert!(gate.close(ms(4_000), first.epoch).is_new_event);
    assert!(!gate.reopen(second.epoch) && !gate.hand_over_first_request(ms(1_020), second));
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(4_000)));
}

/// Checks that two first requests after a rate-limit pause have distinct identities even if they are admitted at the same clock time: each
/// change of the gate between the two admissions advances the recorded time.
#[test]
fn first_requests_after_a_pause_have_distinct_identities() {
    let at = ms(10);
    let (gate, first) = gate_with_first_request(at);
    // A request from before the closure is refused, with an old deadline.
    gate.close(ms(1), Epoch(0));
    let just_after = Duration::from_micros(10_001);
    assert_eq!(gate.enter(at, PATIENCE), Err(just_after));
    let second = enter(&gate, just_after);
    assert!(!gate.hand_over_first_request(at, first));
    // The gate is open between the two first requests.
    assert!(gate.reopen(first.epoch));
    gate.close(ms(1), Epoch(0));
    let third = enter(&gate, Duration::from_micros(10_002));
    assert!(!gate.hand_over_first_request(at, second));
    // A dropped first request has ended, so the next one may be equal.
    assert!(gate.hand_over_first_request(at, third));
    assert_eq!(enter(&gate, Duration::from_micros(10_002)), third);
    let without_patience = gate.enter(Duration::from_micros(10_002), Duration::ZERO);
    assert_eq!(without_patience, Err(Duration::from_micros(10_003)));
}

#[test]
fn unanswered_first_request_starts_no_new_congestion_event() {
    let (gate, first_request) = gate_with_first_request(ms(10));
    assert!(gate.defer_first_request(ms(400), first_request));
    assert_eq!(gate.epoch(), first_request.epoch);
    assert_eq!(gate.enter(ms(399), PATIENCE), Err(ms(400)));
    assert_eq!(enter(&gate, ms(400)).epoch, first_request.epoch);
}

#[test]
fn gate_deadlines_are_rounded_up_to_microseconds() {
    let gate = closed(Duration::from_nanos(1_001));
    let until = Duration::from_micros(2);
    assert_eq!(gate.state(), GateState::ClosedUntil(until));
    assert_eq!(
        gate.enter(Duration::from_nanos(1_999), PATIENCE),
        Err(until)
    );
    let first_request = gate.enter(until, PATIENCE);
    assert!(first_request.unwrap().is_first_request());
    let next = gate.enter(until, Duration::from_nanos(1));
    assert_eq!(next, Err(Duration::from_micros(3)));
}

#[test]
fn latest_gate_deadline_fits_in_the_atomic_word() {
    let gate = closed(Duration::MAX);
    let GateState::ClosedUntil(last) = gate.state() else {
        panic!("{gate:?}");
    };
    assert_eq!(last, Duration::from_micros(Packed::LAST));
    assert!(last > Duration::from_secs(2 * 365 * 24 * 3600));
    assert_eq!(enter(&gate, Duration::MAX).epoch, Epoch(1));
    assert_eq!(gate.state(), GateState::FirstRequestSince(last));
    assert_eq!(gate.close(Duration::MAX, Epoch(0)).until, last);
}

#[test]
fn gate_epoch_wraps_around_after_65536_congestion_events() {
    let gate = BackoffGate::new();
    for _ in 0..=u16::MAX {
        assert!(gate.close(ms(1), gate.epoch()).is_new_event);
    }
    assert_eq!(gate.epoch(), Epoch(0));
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(1)));
}

#[test]
fn admission_is_valid_until_a_refusal_or_another_first_request() {
    let gate = BackoffGate::new();
    let open = gate.enter(ms(0), PATIENCE).unwrap();
    assert!(gate.still_admits(open) && !open.is_first_request());
    gate.close(ms(10), open.epoch());
    assert!(!gate.still_admits(open));
    let first = gate.enter(ms(10), PATIENCE).unwrap();
    assert!(gate.still_admits(first) && first.is_first_request());
    assert!(
        !gate.still_admits(open),
        "the gate waits for a first request"
    );
    let second = gate.enter(ms(10) + PATIENCE, PATIENCE).unwrap();
    assert!(gate.still_admits(second));
    assert!(
        !gate.still_admits(first),
        "another first request is in flight"
    );
    assert!(gate.reopen(second.epoch()));
    assert!(gate.still_admits(second));
    assert!(!gate.still_admits(open), "the gate has been closed since");
}

#[test]
fn request_made_inside_another_is_admitted_unless_the_gate_is_closed() {
    let gate = BackoffGate::new();
    assert_eq!(gate.enter_nested(), Some(GatePass::Open(Epoch(0))));
    gate.close(ms(10), Epoch(0));
    assert_eq!(gate.enter_nested(), None);
    let first_request = enter(&gate, ms(10));
    assert_eq!(gate.enter_nested(), Some(GatePass::First(first_request)));
}
