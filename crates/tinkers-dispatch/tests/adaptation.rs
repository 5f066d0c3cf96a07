//! Tests of what a route class learns from first requests after a pause and from ramps, what it resets when the gate opens, and the order
//! of its events.

mod common;

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{Bench, SECOND, Waiting, accept, ask, refuse, sample};
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, Arrival, AttemptOutcome, Clock, Readmission, RouteClass,
    Timestamp,
};
use tinkers_dispatch::{
    ClassSettings, GateSnapshot, LimitChange, LimiterEvent, LimiterEvents, LimiterSettings,
};

const MS: Duration = Duration::from_millis(1);
/// The time after which the limiter treats a poll as accepted if the server has not refused it.
const HELD: Duration = Duration::from_millis(250);

fn bench() -> Bench {
    Bench::new(LimiterSettings::default())
}

/// Returns the remaining time for which the gate stays closed. The gate must be closed.
fn pause(bench: &Bench, class: RouteClass) -> Duration {
    match bench.state(class).gate {
        GateSnapshot::ClosedUntil(at) => at.since(bench.clock.now()),
        other => panic!("{other:?}"),
    }
}

/// Advances the clock until the closed gate admits one request again, the first request after the pause. Returns the permits of this
/// request.
fn first_request(bench: &Bench, class: RouteClass) -> Admitted {
    bench.clock.advance(pause(bench, class));
    bench.admit(ask(class))
}

fn admitted(queue: &mut [Waiting]) -> Vec<Admitted> {
    queue.iter_mut().filter_map(Waiting::try_admitted).collect()
}

/// The way in which the first request after a rate-limit pause succeeds: by a response, or because it is not refused for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Opens {
    Accepted,
    /// The server has accepted a poll (request for a result), but does not respond before it has the result.
    Held,
}

fn open(bench: &Bench, first_request: Admitted, how: Opens) -> Option<Admitted> {
    if how == Opens::Accepted {
        accept(first_request);
        return None;
    }
    bench.clock.advance(HELD);
    Some(first_request)
}

#[test]
fn pauses_start_from_the_shortest_again_after_the_gate_has_opened() {
    for (class, how) in [
        (RouteClass::Rest, Opens::Accepted),
        (RouteClass::Poll, Opens::Accepted),
        (RouteClass::Poll, Opens::Held),
    ] {
        let bench = bench();
        let mut held = None;
        for _ in 0..2 {
            refuse(bench.admit(ask(class)), Some(MS));
            drop(held.take());
            let mut pauses = vec![pause(&bench, class)];
            for _ in 0..3 {
                refuse(first_request(&bench, class), Some(MS));
                pauses.push(pause(&bench, class));
            }
            let expected = [10, 10, 20, 40].map(|ms| MS * ms);
            assert_eq!(pauses, expected, "{class:?} {how:?}");
            let good = first_request(&bench, class);
            held = open(&bench, good, how);
        }
    }
}

#[test]
fn pause_doubles_each_time_the_first_request_gets_no_response() {
    let (bench, class) = (bench(), RouteClass::Rest);
    for _ in 0..2 {
        refuse(bench.admit(ask(class)), Some(MS));
        for expected in [500, 1000, 2000] {
            first_request(&bench, class)
                .permit
                .settle(AttemptOutcome::Unknown);
            assert_eq!(pause(&bench, class), MS * expected);
        }
        accept(first_request(&bench, class));
    }
}

#[test]
fn timeout_of_first_request_after_pause_depends_on_the_last_one() {
    let (bench, class) = (bench(), RouteClass::Rest);
    for (takes, patience) in [(SECOND * 3, SECOND), (MS, SECOND * 6), (MS, SECOND)] {
        refuse(bench.admit(ask(class)), Some(SECOND));
        let first_request = first_request(&bench, class);
        let until: Timestamp = bench.at(patience);
        assert_eq!(
            bench.state(class).gate,
            GateSnapshot::FirstRequestUntil(until)
        );
        bench.clock.advance(takes);
        accept(first_request);
    }
}

#[test]
fn rate_of_polls_rises_gradually_after_each_pause() {
    for how in [Opens::Accepted, Opens::Held] {
        let (bench, class) = (bench(), RouteClass::Poll);
        refuse(bench.admit(ask(class)), Some(SECOND));
        let mut queue: Vec<_> = (0..100).map(|_| bench.ask(ask(class))).collect();
        for _ in 0..3 {
            bench.clock.advance(SECOND);
            let mut first = admitted(&mut queue);
            assert_eq!(first.len(), 1, "{how:?}: a first request");
            let first_request = first.pop().expect("the first request");
            let _held = open(&bench, first_request, how);
            let mut through = admitted(&mut queue);
            assert!(
                (1..=8).contains(&through.len()),
                "{how:?}: {}",
                through.len()
            );
            // The polls count as accepted only now, which allows no more requests.
            bench.clock.advance(HELD);
            let more = admitted(&mut queue);
            assert!(more.len() <= 1, "{how:?}: {}", more.len());
            // The next refusal arrives during the ramp.
            let refused = through.pop().expect("one of them");
            refuse(refused, Some(SECOND));
        }
    }
}

#[test]
fn responses_and_returned_permits_count_as_queue_progress() {
    for (outcome, is_news) in [
        (AttemptOutcome::Accepted, true),
        (AttemptOutcome::Answered, true),
        (AttemptOutcome::Refused { hint: None }, true),
        (AttemptOutcome::Unknown, false),
        (AttemptOutcome::Dropped, false),
    ] {
        let bench = Bench::sampling(1, 1000, 99);
        let held = bench.admit(sample());
        let _waiting = bench.ask(sample());
        bench.clock.advance(SECOND);
        held.permit.settle(outcome);
        let moved = bench.admission.last_queue_progress(RouteClass::Sample);
        assert_eq!(moved, is_news.then(|| bench.clock.now()), "{outcome:?}");
    }
    let bench = Bench::sampling(9, 1000, 1);
    let Admitted {
        permit,
        in_flight_permit,
        ..
    } = bench.admit(sample());
    permit.settle(AttemptOutcome::Accepted);
    let _waiting = bench.ask(sample());
    bench.clock.advance(SECOND);
    assert_eq!(
        bench.admission.last_queue_progress(RouteClass::Sample),
        None
    );
    drop(in_flight_permit);
    let moved = bench.admission.last_queue_progress(RouteClass::Sample);
    assert_eq!(moved, Some(bench.clock.now()));
}

#[test]
fn request_is_admitted_at_once_if_no_other_request_is_queued() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(sample());
    let waiting = bench.ask(sample());
    accept(held);
    accept(waiting.admitted());
    accept(bench.admit(sample()));
    assert_eq!(bench.sample().counts.waits, 1);
}

/// Lets the limiter learn a limit of four requests in flight, from a refusal that closes the gate for one second. Then accepts requests
/// until a limit probe (a temporary increase of the limit) is allowed. Returns the requests in flight and the waiting requests.
fn learn_limit(bench: &Bench) -> (Vec<Admitted>, Vec<Waiting>) {
    let held: Vec<_> = (0..4).map(|_| bench.admit(sample())).collect();
    let in_flight_permits: Vec<_> = held
        .into_iter()
        .map(|admitted| {
            admitted.permit.settle(AttemptOutcome::Accepted);
            admitted.in_flight_permit
        })
        .collect();
    refuse(bench.admit(sample()), Some(SECOND));
    assert_eq!(bench.sample().level, Some(4));
    // From now on the window has room, but the gate holds the other requests back for a second.
    let mut queue: Vec<_> = (0..100).map(|_| bench.ask(sample())).collect();
    drop(in_flight_permits);
    bench.clock.advance(SECOND);
    let mut under_way = Vec::new();
    for _ in 0..60 {
        under_way.extend(admitted(&mut queue));
        accept(under_way.remove(0));
    }
    (under_way, queue)
}

fn started_probe(events: &mut LimiterEvents) -> bool {
    std::iter::from_fn(|| events.try_next()).any(|event| {
        let begun = LimitChange::ProbeStarted;
        matches!(event, LimiterEvent::WindowChanged { why, .. } if why == begun)
    })
}

#[test]
fn limit_probe_starts_twenty_pause_lengths_after_the_pause() {
    let bench = Bench::sampling(64, 100_000, 99);
    let (mut under_way, mut queue) = learn_limit(&bench);
    let mut events = bench.limiter.events();
    let mut begins = |after: Duration| {
        bench.clock.advance(after);
        under_way.extend(admitted(&mut queue));
        accept(under_way.remove(0));
        started_probe(&mut events)
    };
    assert!(
        !begins(SECOND * 20 - MS),
        "the refusals are offset, but the pause is not over"
    );
    assert!(begins(MS));
}

#[test]
fn no_limit_probe_starts_if_only_the_submission_slots_are_full() {
    let bench = Bench::sampling(64, 100_000, 99);
    drop(learn_limit(&bench));
    let _two_slots = bench.request_limits(LimiterSettings {
        sample: ClassSettings::slots(2),
        ..LimiterSettings::default()
    });
    // A probe is due now, but only the slots are full.
    bench.clock.advance(SECOND * 20);
    let _unanswered = [bench.admit(sample()), bench.admit(sample())];
    let mut events = bench.limiter.events();
    let _waiting = bench.ask(sample());
    assert_eq!(bench.sample().in_flight, 2);
    assert!(!started_probe(&mut events));
}

#[test]
fn gradual_increase_of_samples_ends_at_the_learned_limit() {
    let bench = Bench::sampling(64, 100_000, 99);
    drop(learn_limit(&bench));
    refuse(bench.admit(sample()), Some(SECOND));
    bench.clock.advance(SECOND);
    let allowed: Vec<u32> = (0..4)
        .map(|_| {
            accept(bench.admit(sample()));
            bench.sample().slots_allowed
        })
        .collect();
    // The fourth success reaches the learned limit of four, which applies instead of the ramp from then on.
    assert_eq!(allowed, [8, 8, 8, 64]);
}

/// A waker that records, each time it is called, whether a limiter event had been published before.
struct EventRecorder(Mutex<LimiterEvents>, Mutex<Vec<bool>>);

impl Wake for EventRecorder {
    fn wake(self: Arc<Self>) {
        let event = self.0.lock().unwrap().try_next();
        self.1.lock().unwrap().push(event.is_some());
    }
}

#[test]
fn waiting_requests_are_woken_before_limiter_events_are_published() {
    let (bench, class) = (bench(), RouteClass::Rest);
    refuse(bench.admit(ask(class)), Some(SECOND));
    let first_request = first_request(&bench, class);
    let events = Mutex::new(bench.limiter.events());
    let recorder = Arc::new(EventRecorder(events, Mutex::default()));
    let waker = Waker::from(Arc::clone(&recorder));
    let mut waits = bench.admission.admit(ask(class));
    let mut cx = Context::from_waker(&waker);
    // The first poll sets a timer.
    for _ in 0..2 {
        assert!(waits.as_mut().poll(&mut cx).is_pending());
    }
    recorder.1.lock().unwrap().clear();
    accept(first_request);
    assert_eq!(*recorder.1.lock().unwrap(), [false]);
    let event = recorder.0.lock().unwrap().try_next();
    assert_eq!(event, Some(LimiterEvent::Opened { class }));
}

#[test]
fn refused_request_keeps_its_arrival_number_in_an_empty_queue() {
    let bench = Bench::sampling(1, 1000, 99);
    let held = bench.admit(sample());
    let waiting = bench.ask(sample());
    accept(held);
    let first = waiting.admitted();
    let arrival = first.arrival;
    assert_ne!(arrival, Arrival::default());
    refuse(first, Some(SECOND));
    accept(first_request(&bench, RouteClass::Sample));
    let again = bench.admit(AdmissionRequest {
        readmission: Readmission::AfterRefusal(arrival),
        ..sample()
    });
    assert_eq!(again.arrival, arrival);
}
