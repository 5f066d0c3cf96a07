//! A discrete-event simulation of clients and a server that accepts a limited number of concurrent requests and refuses all others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::cases;
use crate::clients::{Admission, Client, Policy};

/// The capacity of the simulated server: the number of requests that it accepts at once. The capacity takes each of a sequence of sizes in
/// turn, for equal intervals, and then starts again.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) sizes: Vec<u32>,
    pub(crate) each: Duration,
    /// The time for which the first interval of the capacity has already lasted when the simulation starts.
    pub(crate) begun: Duration,
}

/// Random refusals (429 responses) of the simulated server, which do not depend on the requests in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    /// The number of requests out of a thousand that are refused at random.
    pub(crate) per_mille: u64,
    /// The time at which the random refusals start, measured from the start of the simulation.
    pub(crate) from: Duration,
    /// The time at which the random refusals end, measured from the start of the simulation.
    pub(crate) to: Duration,
    /// The seed of the random numbers that select the refused requests.
    pub(crate) seed: u64,
}

/// The parameters of a simulation.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) window: Window,
    /// The time that the server needs for one sample.
    pub(crate) sample: Duration,
    /// The retry delay that the server sends with each refusal.
    pub(crate) hint: Duration,
    /// The number of finished samples after which the simulation ends, over all clients.
    pub(crate) samples: u64,
    /// The start times of the processes that share the server.
    pub(crate) begin: Vec<Duration>,
    /// The maximum number of concurrent samples per process.
    pub(crate) callers: u64,
    /// The time at which the simulation ends, even if samples are unfinished.
    pub(crate) end: Duration,
    /// The random refusals, in addition to refusals for lack of capacity.
    pub(crate) noise: Option<Noise>,
}

/// The result of a simulation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    /// The time at which the last sample finished.
    pub(crate) took: Duration,
    /// The number of accepted requests.
    pub(crate) accepted: u64,
    /// The number of refused requests.
    pub(crate) refused: u64,
    /// The congestion events that the clients observed. Each one is a group of concurrent refusals.
    pub(crate) events: Vec<Event>,
    /// The number of samples that each client finished, in the order of the clients.
    pub(crate) finished: Vec<u64>,
    /// The number of samples that each client finished in the second half of the simulated time.
    pub(crate) finished_late: Vec<u64>,
    /// The number of samples that would have finished if the server had always worked at full capacity.
    pub(crate) possible: f64,
    /// The time at which each sample finished.
    pub(crate) ends: Vec<Duration>,
}

/// A congestion event: a group of concurrent refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// The number of requests that the client had in flight at the first refusal of the event.
    pub(crate) in_flight: u64,
    /// The number of refusals that belong to the event.
    pub(crate) refused: u64,
}

/// The network latency in one direction.
pub(crate) const LATENCY: Duration = Duration::from_micros(500);

impl Window {
    /// Returns a server capacity of constant size.
    pub(crate) fn fixed(size: u32) -> Self {
        Self {
            sizes: vec![size],
            each: Duration::from_secs(1),
            begun: Duration::ZERO,
        }
    }

    fn at(&self, now: Duration) -> u32 {
        let at = (now + self.begun).as_micros() / self.each.as_micros();
        self.sizes[at as usize % self.sizes.len()]
    }

    /// Returns the average capacity of the server over the first `time` of the simulation.
    pub(crate) fn mean(&self, time: Duration) -> f64 {
        const STEP: Duration = Duration::from_millis(10);
        let steps = time.as_millis().div_ceil(STEP.as_millis()).max(1) as u32;
        let sizes = (0..steps).map(|step| f64::from(self.at(STEP * step)));
        sizes.sum::<f64>() / f64::from(steps)
    }
}

impl Outcome {
    /// Returns the number of samples that finished between two times.
    pub(crate) fn finished_in(&self, from: Duration, to: Duration) -> usize {
        let is_within = |end: &&Duration| (from..to).contains(*end);
        self.ends.iter().filter(is_within).count()
    }

    /// Returns the number of finished samples as a fraction of those that a client with full knowledge of the server would finish.
    pub(crate) fn share(&self) -> f64 {
        self.finished.iter().sum::<u64>() as f64 / self.possible
    }

    pub(crate) fn refused_per_accepted(&self) -> f64 {
        self.refused as f64 / self.accepted as f64
    }

    pub(crate) fn refused_per_event(&self) -> f64 {
        self.refused as f64 / self.events.len().max(1) as f64
    }

    /// Returns the evenness between clients: the number of samples that the slowest client finished in the second half of the simulation,
    /// as a fraction of that of the fastest client.
    pub(crate) fn evenness(&self) -> f64 {
        let least = self.finished_late.iter().min().copied().unwrap_or(0);
        let most = self.finished_late.iter().max().copied().unwrap_or(0);
        least as f64 / most.max(1) as f64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SimEvent {
    /// A client starts, or its gate may have opened, so the client tries to send requests.
    Wake,
    /// A request arrives at the server. Contains the index of the request.
    Arrives(u64),
    /// The server finishes a request and sends the result to the client.
    Ends,
    /// A client receives the response to a submission. Contains the index of the request, and whether the server accepted it.
    Response(u64, bool),
    /// A client receives the result of one of its requests.
    Result,
}

/// The queue of future events of the simulation, ordered by time and then by insertion.
#[derive(Default)]
struct EventQueue {
    heap: BinaryHeap<Reverse<(Duration, u64, usize, SimEvent)>>,
    entries: u64,
}

impl EventQueue {
    fn put(&mut self, at: Duration, client: usize, event: SimEvent) {
        self.entries += 1;
        self.heap.push(Reverse((at, self.entries, client, event)));
    }

    fn next(&mut self) -> Option<(Duration, usize, SimEvent)> {
        let Reverse((at, _, client, event)) = self.heap.pop()?;
        Some((at, client, event))
    }
}

struct Run<'a> {
    case: &'a Case,
    queue: EventQueue,
    clients: Vec<Client>,
    /// The submissions without a response, by index. Each has the number of congestion events that its client had observed when it sent the
    /// submission.
    sent: BTreeMap<u64, u64>,
    ids: u64,
    running: u32,
    unsubmitted: u64,
    /// The number of unfinished samples of each client.
    unfinished: Vec<u64>,
    /// The state of the random number generator for random refusals.
    random: u64,
    ends: Vec<Vec<Duration>>,
    /// The congestion events (groups of concurrent refusals) so far. The key consists of the client, and the number of congestion events
    /// that it had observed when it sent the refused requests.
    events: BTreeMap<(usize, u64), Event>,
    out: Outcome,
}

/// Runs a simulation in which all clients always have requests to send, until all samples are finished.
pub(crate) fn run(case: &Case, policy: Policy) -> Outcome {
    let clients = case.begin.len();
    let mut run = Run {
        case,
        queue: EventQueue::default(),
        clients: (0..clients).map(|_| Client::new(policy)).collect(),
        sent: BTreeMap::new(),
        ids: 0,
        running: 0,
        unsubmitted: case.samples,
        unfinished: vec![0; clients],
        random: case.noise.map_or(0, |noise| noise.seed),
        ends: vec![Vec::new(); clients],
        events: BTreeMap::new(),
        out: Outcome::default(),
    };
    for (client, begin) in case.begin.iter().enumerate() {
        run.queue.put(*begin, client, SimEvent::Wake);
    }
    while let Some((now, client, event)) = run.queue.next() {
        if now >= case.end {
            break;
        }
        run.handle(now, client, event);
        run.send(now, client);
    }
    run.outcome()
}

impl Run<'_> {
    fn handle(&mut self, now: Duration, client: usize, event: SimEvent) {
        match event {
            SimEvent::Wake => {}
            SimEvent::Arrives(id) => {
                let is_accepted = !self.is_noise(now) && self.running < self.case.window.at(now);
                if is_accepted {
                    self.running += 1;
                    self.out.accepted += 1;
                    self.queue
                        .put(now + self.case.sample, client, SimEvent::Ends);
                }
                self.queue
                    .put(now + LATENCY, client, SimEvent::Response(id, is_accepted));
            }
            SimEvent::Ends => {
                self.running -= 1;
                self.queue.put(now + LATENCY, client, SimEvent::Result);
            }
            SimEvent::Response(id, is_accepted) => {
                self.handle_response(now, client, id, is_accepted)
            }
            SimEvent::Result => {
                self.clients[client].finished();
                self.unfinished[client] -= 1;
                self.ends[client].push(now);
                self.out.took = now;
            }
        }
    }

    fn handle_response(&mut self, now: Duration, client: usize, id: u64, is_accepted: bool) {
        let number = self
            .sent
            .remove(&id)
            .expect("each request is answered once");
        if is_accepted {
            self.clients[client].accepted(id, now);
            return;
        }
        // The jitter that the limiter adds to the server's retry delay.
        let spread = Duration::from_micros(id.wrapping_mul(7919) % 10_000);
        let until = now + self.case.hint + spread;
        let in_flight = self.clients[client].in_flight();
        let until = self.clients[client].refused(id, until, now);
        self.queue.put(until, client, SimEvent::Wake);
        self.unsubmitted += 1;
        self.unfinished[client] -= 1;
        self.out.refused += 1;
        let event = self.events.entry((client, number)).or_insert(Event {
            in_flight,
            refused: 0,
        });
        event.refused += 1;
    }

    fn send(&mut self, now: Duration, client: usize) {
        loop {
            if self.unsubmitted == 0 || self.unfinished[client] >= self.case.callers {
                self.clients[client].set_idle();
                break;
            }
            self.ids += 1;
            match self.clients[client].admit(self.ids, now) {
                Admission::Sent { events } => {
                    self.unsubmitted -= 1;
                    self.unfinished[client] += 1;
                    self.sent.insert(self.ids, events);
                    self.queue
                        .put(now + LATENCY, client, SimEvent::Arrives(self.ids));
                }
                Admission::NotUntil(at) => {
                    self.queue.put(at, client, SimEvent::Wake);
                    break;
                }
                Admission::Full => break,
            }
        }
    }

    /// Returns whether the server refuses a request that arrives now at random, whatever its load is.
    fn is_noise(&mut self, now: Duration) -> bool {
        let Some(noise) = self.case.noise else {
            return false;
        };
        if !(noise.from..noise.to).contains(&now) {
            return false;
        }
        self.random = cases::next(self.random);
        (self.random >> 33) % 1_000 < noise.per_mille
    }

    fn outcome(self) -> Outcome {
        let Self {
            case,
            ends,
            events,
            out,
            ..
        } = self;
        let late = |ends: &Vec<Duration>| ends.iter().filter(|end| **end > out.took / 2).count();
        Outcome {
            events: events.into_values().collect(),
            finished: ends.iter().map(|ends| ends.len() as u64).collect(),
            finished_late: ends.iter().map(|ends| late(ends) as u64).collect(),
            ends: ends.concat(),
            possible: case.window.mean(out.took) * out.took.as_secs_f64()
                / case.sample.as_secs_f64(),
            ..out
        }
    }
}
