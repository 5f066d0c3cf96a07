//! Random operations, compared with a simple model: permits match grants, no request is overtaken, and a closed gate admits nothing.

mod common;

use common::{Bench, Waiting, refused};
use std::time::Duration;
use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, AttemptOutcome, ClientId, Cost, InFlightPermit, Jitter,
    Readmission, RouteClass, SplitMix, SubmitPermit, Timestamp,
};

const SLOTS: u32 = 4;
const BYTES: u64 = 1000;
const MAX_IN_FLIGHT: u32 = 6;

/// A request that waits for admission, in the queue of the model.
struct Entry {
    waiting: Waiting,
    bytes: u64,
    /// The sort key: requests with an in-flight permit come first, and otherwise the order of arrival decides.
    rank: (u8, u64),
    number: u64,
    has_in_flight_permit: bool,
}

/// A limiter under test, and a simple model of one of its route classes, with which it is compared.
struct ClassModel {
    bench: Bench,
    random: SplitMix,
    queue: Vec<Entry>,
    permits: Vec<(SubmitPermit, u64, (Arrival, u64))>,
    in_flight_permits: Vec<InFlightPermit>,
    bytes: u64,
    closed_until: Timestamp,
    numbers: u64,
    served: u64,
    refusals: u64,
}

impl ClassModel {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::sampling(SLOTS, BYTES, MAX_IN_FLIGHT),
            random: SplitMix::new(seed),
            queue: Vec::new(),
            permits: Vec::new(),
            in_flight_permits: Vec::new(),
            bytes: 0,
            closed_until: Timestamp::ORIGIN,
            numbers: 0,
            served: 0,
            refusals: 0,
        }
    }

    fn below(&self, limit: usize) -> usize {
        (self.random.bits() % limit.max(1) as u64) as usize
    }

    fn step(&mut self) {
        match self.below(10) {
            0..=2 => self.ask(None),
            3..=5 if !self.permits.is_empty() => self.settle(),
            6 if !self.in_flight_permits.is_empty() => {
                let landed = self.below(self.in_flight_permits.len());
                drop(self.in_flight_permits.swap_remove(landed));
            }
            7 if !self.queue.is_empty() => {
                let dropped = self.below(self.queue.len());
                drop(self.queue.remove(dropped));
            }
            8 => self.bench.clock.advance(Duration::from_millis(300)),
            _ => {
                self.bench.clock.advance_to_next();
            }
        }
        self.serve();
        self.compare();
    }

    fn ask(&mut self, before: Option<(Arrival, u64)>) {
        let has_in_flight_permit = !self.in_flight_permits.is_empty() && self.below(4) == 0;
        let in_flight_permit = has_in_flight_permit.then(|| self.in_flight_permits.swap_remove(0));
        let bytes = [0, 1, 400, 3000][self.below(4)];
        self.numbers += 1;
        // A request that was admitted at once precedes all waiters.
        let came = match before {
            None => self.numbers,
            Some((Arrival(0), _)) => 0,
            Some((_, came)) => came,
        };
        let rank = (u8::from(!has_in_flight_permit), came);
        let readmission = before.map_or(Readmission::New, |(arrival, _)| {
            Readmission::AfterRefusal(arrival)
        });
        let waiting = self.bench.ask(AdmissionRequest {
            class: RouteClass::Sample,
            client: ClientId(1),
            cost: Cost { bytes },
            deadline: None,
            in_flight_permit,
            readmission,
            is_nested: false,
        });
        self.queue.push(Entry {
            waiting,
            bytes,
            rank,
            number: self.numbers,
            has_in_flight_permit,
        });
    }

    fn settle(&mut self) {
        let which = self.below(self.permits.len());
        let (permit, bytes, came) = self.permits.swap_remove(which);
        self.bytes -= bytes;
        match self.below(3) {
            0 => permit.settle(AttemptOutcome::Accepted),
            1 => drop(permit),
            _ => {
                let hint = Duration::from_millis([100, 700, 2500][self.below(3)]);
                let until = self.bench.clock_now().after(hint);
                self.closed_until = self.closed_until.max(until);
                permit.settle(refused(Some(hint)));
                self.refusals += 1;
                self.ask(Some(came));
            }
        }
    }

    /// Polls the waiting requests in random order and records the admitted ones. Checks that the admitted requests precede all remaining
    /// ones in the order of the model.
    fn serve(&mut self) {
        let start = self.below(self.queue.len());
        let length = self.queue.len();
        let mut admitted = Vec::new();
        loop {
            // A poll may admit other waiters.
            for at in (0..length).map(|step| (start + step) % length) {
                if let Some(served) = self.queue[at].waiting.try_admitted() {
                    admitted.push((self.queue[at].number, served));
                }
            }
            if self.queue.iter().all(|entry| entry.waiting.wakes() == 0) {
                break;
            }
        }
        let mut served: Vec<_> = admitted
            .into_iter()
            .map(|(number, admitted)| {
                let at = self.queue.iter().position(|entry| entry.number == number);
                (self.queue.remove(at.unwrap()), admitted)
            })
            .collect();
        served.sort_by_key(|(entry, _)| (entry.rank, entry.number));
        for (entry, admitted) in served {
            self.record_admission(entry, admitted);
        }
    }

    fn record_admission(&mut self, entry: Entry, admitted: Admitted) {
        self.served += 1;
        assert!(
            self.bench.clock_now() >= self.closed_until,
            "a request was admitted through a closed gate"
        );
        let passed = self
            .queue
            .iter()
            .any(|other| (other.rank, other.number) < (entry.rank, entry.number));
        assert!(!passed, "a waiter was overtaken");
        assert!((self.permits.len() as u32) < SLOTS);
        assert!(entry.bytes == 0 || self.bytes < BYTES);
        let kept = u32::from(entry.has_in_flight_permit);
        assert!(kept == 1 || self.in_flight() < MAX_IN_FLIGHT);
        self.bytes += entry.bytes;
        self.permits.push((
            admitted.permit,
            entry.bytes,
            (admitted.arrival, entry.rank.1),
        ));
        self.in_flight_permits.push(admitted.in_flight_permit);
    }

    /// Returns the number of in-flight permits that admitted requests and waiting retries hold.
    fn in_flight(&self) -> u32 {
        let waiting = self.queue.iter().filter(|entry| entry.has_in_flight_permit);
        (self.in_flight_permits.len() + waiting.count()) as u32
    }

    fn compare(&self) {
        let state = self.bench.sample();
        assert_eq!(state.slots, self.permits.len() as u32);
        assert_eq!(state.bytes, self.bytes);
        assert_eq!(state.in_flight, self.in_flight());
        assert_eq!(state.waiting, self.queue.len());
    }
}

impl Bench {
    fn clock_now(&self) -> Timestamp {
        self.at(Duration::ZERO)
    }
}

#[test]
fn random_limiter_operations_match_the_reference_model() {
    let (mut served, mut refusals) = (0, 0);
    for seed in 0..200 {
        let mut model = ClassModel::new(seed);
        for _ in 0..400 {
            model.step();
        }
        served += model.served;
        refusals += model.refusals;
        // All remaining requests can complete, so neither a unit nor a wake-up was lost.
        while !model.queue.is_empty() {
            let before = model.served;
            model.permits.clear();
            model.bytes = 0;
            model.in_flight_permits.clear();
            model.serve();
            let moved = model.bench.clock.advance_to_next().is_some();
            model.serve();
            assert!(moved || model.served > before, "seed {seed}: stuck");
        }
        model.permits.clear();
        model.in_flight_permits.clear();
        model.bench.assert_all_given_back();
    }
    assert!(served > 5_000 && refusals > 1_000, "{served} {refusals}");
}
