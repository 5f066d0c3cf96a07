//! What each call does to the gate's word.

use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A gate that was closed once, until `until`.
fn closed(until: Duration) -> BackoffGate {
    let gate = BackoffGate::new();
    gate.close(until, gate.epoch());
    gate
}

/// A gate whose probe went at `at`, and the probe.
fn probed(at: Duration) -> (BackoffGate, Probe) {
    let gate = closed(at);
    let probe = enter(&gate, at);
    (gate, probe)
}

/// Goes through as the probe.
fn enter(gate: &BackoffGate, now: Duration) -> Probe {
    let entry = gate.enter(now, PATIENCE).unwrap();
    entry.probe().expect("a probe is due")
}

#[test]
fn an_open_gate_lets_everybody_in_at_the_epoch_of_now() {
    let gate = BackoffGate::default();
    assert_eq!(gate.open(), Some(Epoch(0)));
    for _ in 0..3 {
        let entry = gate.enter(ms(0), PATIENCE);
        assert_eq!(entry, Ok(Entry::Open(Epoch(0))));
    }
    assert_eq!(gate.state(), GateState::Open);
}

#[test]
fn a_closed_gate_opens_for_nobody_before_its_deadline_and_then_for_one() {
    let gate = closed(ms(5_000));
    assert_eq!(gate.open(), None);
    let early = gate.enter(Duration::from_nanos(4_999_999_999), PATIENCE);
    assert_eq!(early, Err(ms(5_000)));
    assert_eq!(enter(&gate, ms(5_000)).epoch, Epoch(1));
    assert_eq!(gate.enter(ms(5_000), PATIENCE), Err(ms(6_000)));
    assert_eq!(gate.state(), GateState::ProbingSince(ms(5_000)));
    assert_eq!(gate.open(), None);
}

#[test]
fn the_deadline_is_only_ever_extended() {
    let gate = BackoffGate::new();
    let seen = gate.epoch();
    for (until, expected) in [(2_000, 2_000), (5_000, 5_000), (3_000, 5_000), (0, 5_000)] {
        assert_eq!(gate.close(ms(until), seen).until, ms(expected));
    }
    // Neither does the end of a probe that is none any more.
    for epoch in [seen, gate.epoch()] {
        assert!(!gate.reopen(epoch));
        let probe = Probe { epoch, since: 0 };
        assert!(!gate.defer(ms(1), probe));
        assert!(!gate.pass_on(ms(1), probe));
    }
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(5_000)));
}

#[test]
fn refusals_of_one_moment_are_one_event() {
    let gate = BackoffGate::new();
    let seen = gate.epoch();
    let events = (0..10).filter(|_| gate.close(ms(10), seen).first_of_its_event);
    assert_eq!(events.count(), 1);
    assert_eq!(gate.epoch(), Epoch(1));
    // One that was admitted after it is another event, also while the gate is still closed.
    assert!(gate.close(ms(10), Epoch(1)).first_of_its_event);
    assert!(!gate.close(ms(10), Epoch(0)).first_of_its_event);
    assert_eq!(gate.epoch(), Epoch(2));
}

#[test]
fn an_answered_probe_opens_the_gate_for_all() {
    let (gate, probe) = probed(ms(10));
    assert!(gate.reopen(probe.epoch));
    assert_eq!(gate.open(), Some(probe.epoch));
    assert!(!gate.reopen(probe.epoch), "it is open");
}

#[test]
fn a_refused_probe_is_an_event_of_its_own() {
    let (gate, probe) = probed(ms(10));
    let closed = gate.close(ms(50), probe.epoch);
    assert!(closed.first_of_its_event);
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(50)));
    assert!(!gate.reopen(probe.epoch), "its epoch has passed");
}

#[test]
fn the_refusal_of_a_straggler_closes_the_gate_under_a_probe() {
    let (gate, probe) = probed(ms(10));
    let closed = gate.close(ms(30), Epoch(0));
    assert!(!closed.first_of_its_event);
    assert!(!gate.reopen(probe.epoch), "the server said no meanwhile");
    assert_eq!(gate.enter(ms(29), PATIENCE), Err(ms(30)));
    assert!(gate.enter(ms(30), PATIENCE).unwrap().is_probe());
}

#[test]
fn a_dropped_probe_passes_on_at_once() {
    let (gate, probe) = probed(ms(10));
    let now = Duration::from_nanos(12_345_678);
    assert!(gate.pass_on(now, probe));
    assert_eq!(enter(&gate, now).epoch, probe.epoch);
}

#[test]
fn a_probe_without_an_answer_lets_another_one_go_and_its_answer_still_counts() {
    let (gate, probe) = probed(ms(10));
    assert_eq!(gate.enter(ms(1_009), PATIENCE), Err(ms(1_010)));
    let second = enter(&gate, ms(1_010));
    assert_eq!(second.epoch, probe.epoch);
    assert!(gate.reopen(probe.epoch));
    // The second one has nothing left to end.
    assert!(!gate.defer(ms(5_000), second) && !gate.pass_on(ms(5_000), second));
    assert_eq!(gate.state(), GateState::Open);
}

#[test]
fn the_end_of_a_probe_that_was_overtaken_changes_nothing() {
    let (gate, first) = probed(ms(10));
    let second = enter(&gate, ms(1_010));
    let third = enter(&gate, ms(2_010));
    for overtaken in [first, second] {
        assert!(!gate.defer(ms(9_000), overtaken));
        assert!(!gate.pass_on(ms(2_020), overtaken));
        assert_eq!(gate.state(), GateState::ProbingSince(ms(2_010)));
    }
    assert!(gate.defer(ms(3_000), third), "it is the one under way");
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(3_000)));
}

#[test]
fn a_refusal_of_a_probe_that_was_overtaken_closes_the_gate_under_the_next_one() {
    let (gate, first) = probed(ms(10));
    let second = enter(&gate, ms(1_010));
    assert!(gate.close(ms(4_000), first.epoch).first_of_its_event);
    assert!(!gate.reopen(second.epoch) && !gate.pass_on(ms(1_020), second));
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(4_000)));
}

/// Two probes go at one time of the clock, and are still two: whatever comes between them moves the time on.
#[test]
fn no_two_probes_that_are_under_way_are_the_same() {
    let at = ms(10);
    let (gate, first) = probed(at);
    // The refusal of a straggler, whose clock was read long ago.
    gate.close(ms(1), Epoch(0));
    let just_after = Duration::from_micros(10_001);
    assert_eq!(gate.enter(at, PATIENCE), Err(just_after));
    let second = enter(&gate, just_after);
    assert!(!gate.pass_on(at, first));
    // Also after the gate was open between them.
    assert!(gate.reopen(first.epoch));
    gate.close(ms(1), Epoch(0));
    let third = enter(&gate, Duration::from_micros(10_002));
    assert!(!gate.pass_on(at, second));
    // One that is given up at once has ended, so the next may be like it.
    assert!(gate.pass_on(at, third));
    assert_eq!(enter(&gate, Duration::from_micros(10_002)), third);
    let impatient = gate.enter(Duration::from_micros(10_002), Duration::ZERO);
    assert_eq!(impatient, Err(Duration::from_micros(10_003)));
}

#[test]
fn a_broken_probe_backs_off_without_a_new_event() {
    let (gate, probe) = probed(ms(10));
    assert!(gate.defer(ms(400), probe));
    assert_eq!(gate.epoch(), probe.epoch);
    assert_eq!(gate.enter(ms(399), PATIENCE), Err(ms(400)));
    assert_eq!(enter(&gate, ms(400)).epoch, probe.epoch);
}

#[test]
fn fractions_are_rounded_to_the_later_side() {
    let gate = closed(Duration::from_nanos(1_001));
    let until = Duration::from_micros(2);
    assert_eq!(gate.state(), GateState::ClosedUntil(until));
    assert_eq!(
        gate.enter(Duration::from_nanos(1_999), PATIENCE),
        Err(until)
    );
    let probe = gate.enter(until, PATIENCE);
    assert!(probe.unwrap().is_probe());
    let next = gate.enter(until, Duration::from_nanos(1));
    assert_eq!(next, Err(Duration::from_micros(3)));
}

#[test]
fn the_longest_times_fit_the_word() {
    let gate = closed(Duration::MAX);
    let GateState::ClosedUntil(last) = gate.state() else {
        panic!("{gate:?}");
    };
    assert_eq!(last, Duration::from_micros(Packed::LAST));
    assert!(last > Duration::from_secs(2 * 365 * 24 * 3600));
    assert_eq!(enter(&gate, Duration::MAX).epoch, Epoch(1));
    assert_eq!(gate.state(), GateState::ProbingSince(last));
    assert_eq!(gate.close(Duration::MAX, Epoch(0)).until, last);
}

#[test]
fn epochs_come_round() {
    let gate = BackoffGate::new();
    for _ in 0..=u16::MAX {
        assert!(gate.close(ms(1), gate.epoch()).first_of_its_event);
    }
    assert_eq!(gate.epoch(), Epoch(0));
    assert_eq!(gate.state(), GateState::ClosedUntil(ms(1)));
}

#[test]
fn admission_holds_until_a_refusal_or_another_probe() {
    let gate = BackoffGate::new();
    let open = gate.enter(ms(0), PATIENCE).unwrap();
    assert!(gate.admits_still(open) && !open.is_probe());
    gate.close(ms(10), open.epoch());
    assert!(!gate.admits_still(open));
    let first = gate.enter(ms(10), PATIENCE).unwrap();
    assert!(gate.admits_still(first) && first.is_probe());
    assert!(!gate.admits_still(open), "while the gate is probed");
    let second = gate.enter(ms(10) + PATIENCE, PATIENCE).unwrap();
    assert!(gate.admits_still(second));
    assert!(!gate.admits_still(first), "another probe is under way");
    assert!(gate.reopen(second.epoch()));
    assert!(gate.admits_still(second));
    assert!(!gate.admits_still(open), "the gate has been closed since");
}

#[test]
fn nested_request_goes_along_unless_the_gate_is_closed() {
    let gate = BackoffGate::new();
    assert_eq!(gate.enter_nested(), Some(Entry::Open(Epoch(0))));
    gate.close(ms(10), Epoch(0));
    assert_eq!(gate.enter_nested(), None);
    let probe = enter(&gate, ms(10));
    assert_eq!(gate.enter_nested(), Some(Entry::Probe(probe)));
}
