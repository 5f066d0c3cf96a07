//! A simulation without a clock: clients against a server that takes so many requests at once and refuses the rest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::cases;
use crate::clients::{Admit, Client, Policy};

/// How many the server takes at once: another size at equal intervals, again from the start when all are through.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) sizes: Vec<u32>,
    pub(crate) each: Duration,
    /// How much of the first interval is over at the start.
    pub(crate) begun: Duration,
}

/// Refusals that have nothing to do with what is in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// So many of a thousand requests are refused.
    pub(crate) per_mille: u64,
    /// From when on.
    pub(crate) from: Duration,
    /// Until when.
    pub(crate) to: Duration,
    /// Which requests those are.
    pub(crate) seed: u64,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) window: Window,
    /// How long a sample takes.
    pub(crate) sample: Duration,
    /// How long a 429 tells to wait.
    pub(crate) hint: Duration,
    /// Samples to be finished, by all clients together.
    pub(crate) samples: u64,
    /// Processes that share the server and know nothing of each other, and when each begins.
    pub(crate) begin: Vec<Duration>,
    /// So many samples are asked for at once by each process.
    pub(crate) callers: u64,
    /// It is over then, whatever is finished.
    pub(crate) end: Duration,
    /// Refusals besides those of the window.
    pub(crate) weather: Option<Weather>,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    /// Until the last sample was finished.
    pub(crate) took: Duration,
    /// Accepted by the server.
    pub(crate) accepted: u64,
    /// Refused by the server.
    pub(crate) refused: u64,
    /// Congestion events as the clients saw them.
    pub(crate) events: Vec<Event>,
    /// Finished by each client.
    pub(crate) finished: Vec<u64>,
    /// Finished by each client in the second half of the time.
    pub(crate) finished_late: Vec<u64>,
    /// What a server that is always full would have finished in that time.
    pub(crate) possible: f64,
    /// When each sample was finished.
    pub(crate) ends: Vec<Duration>,
}

/// A congestion event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// In flight at its first refusal.
    pub(crate) in_flight: u64,
    /// Refused in all.
    pub(crate) refused: u64,
}

/// One way over the network.
pub(crate) const WAY: Duration = Duration::from_micros(500);

impl Window {
    /// Always the same.
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

    /// Its size, on average over `time`.
    pub(crate) fn mean(&self, time: Duration) -> f64 {
        const STEP: Duration = Duration::from_millis(10);
        let steps = time.as_millis().div_ceil(STEP.as_millis()).max(1) as u32;
        let sizes = (0..steps).map(|step| f64::from(self.at(STEP * step)));
        sizes.sum::<f64>() / f64::from(steps)
    }
}

impl Outcome {
    /// Finished between two times.
    pub(crate) fn finished_in(&self, from: Duration, to: Duration) -> usize {
        let is_within = |end: &&Duration| (from..to).contains(*end);
        self.ends.iter().filter(is_within).count()
    }

    /// Finished samples as a share of what an oracle that knows the window finishes.
    pub(crate) fn share(&self) -> f64 {
        self.finished.iter().sum::<u64>() as f64 / self.possible
    }

    pub(crate) fn refused_per_accepted(&self) -> f64 {
        self.refused as f64 / self.accepted as f64
    }

    pub(crate) fn refused_per_event(&self) -> f64 {
        self.refused as f64 / self.events.len().max(1) as f64
    }

    /// What the slowest of several clients finished in the second half, as a part of what the fastest did.
    pub(crate) fn evenness(&self) -> f64 {
        let least = self.finished_late.iter().min().copied().unwrap_or(0);
        let most = self.finished_late.iter().max().copied().unwrap_or(0);
        least as f64 / most.max(1) as f64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A client begins, or its gate may let something through.
    Look,
    /// A request reaches the server.
    Arrives(u64),
    /// The server has finished one.
    Ends,
    /// A client hears whether its request was accepted.
    Answer(u64, bool),
    /// A client has its result.
    Result,
}

/// What is to happen, in the order of time and then of entry.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<(Duration, u64, usize, Happens)>>,
    entries: u64,
}

impl Agenda {
    fn put(&mut self, at: Duration, client: usize, what: Happens) {
        self.entries += 1;
        self.heap.push(Reverse((at, self.entries, client, what)));
    }

    fn next(&mut self) -> Option<(Duration, usize, Happens)> {
        let Reverse((at, _, client, what)) = self.heap.pop()?;
        Some((at, client, what))
    }
}

struct Run<'a> {
    case: &'a Case,
    agenda: Agenda,
    clients: Vec<Client>,
    /// Not answered yet, with the events that their client had seen.
    sent: BTreeMap<u64, u64>,
    ids: u64,
    running: u32,
    unsubmitted: u64,
    /// Of each client, from the submission to the result.
    open: Vec<u64>,
    /// Of the weather.
    dice: u64,
    ends: Vec<Vec<Duration>>,
    /// By client, and by how many events its requests were admitted after.
    events: BTreeMap<(usize, u64), Event>,
    out: Outcome,
}

/// Everybody wants to send all the time, until the samples are finished.
pub(crate) fn run(case: &Case, policy: Policy) -> Outcome {
    let clients = case.begin.len();
    let mut run = Run {
        case,
        agenda: Agenda::default(),
        clients: (0..clients).map(|_| Client::new(policy)).collect(),
        sent: BTreeMap::new(),
        ids: 0,
        running: 0,
        unsubmitted: case.samples,
        open: vec![0; clients],
        dice: case.weather.map_or(0, |weather| weather.seed),
        ends: vec![Vec::new(); clients],
        events: BTreeMap::new(),
        out: Outcome::default(),
    };
    for (client, begin) in case.begin.iter().enumerate() {
        run.agenda.put(*begin, client, Happens::Look);
    }
    while let Some((now, client, what)) = run.agenda.next() {
        if now >= case.end {
            break;
        }
        run.happens(now, client, what);
        run.send(now, client);
    }
    run.outcome()
}

impl Run<'_> {
    fn happens(&mut self, now: Duration, client: usize, what: Happens) {
        match what {
            Happens::Look => {}
            Happens::Arrives(id) => {
                let is_accepted = !self.is_struck(now) && self.running < self.case.window.at(now);
                if is_accepted {
                    self.running += 1;
                    self.out.accepted += 1;
                    self.agenda
                        .put(now + self.case.sample, client, Happens::Ends);
                }
                self.agenda
                    .put(now + WAY, client, Happens::Answer(id, is_accepted));
            }
            Happens::Ends => {
                self.running -= 1;
                self.agenda.put(now + WAY, client, Happens::Result);
            }
            Happens::Answer(id, is_accepted) => self.answer(now, client, id, is_accepted),
            Happens::Result => {
                self.clients[client].finished();
                self.open[client] -= 1;
                self.ends[client].push(now);
                self.out.took = now;
            }
        }
    }

    fn answer(&mut self, now: Duration, client: usize, id: u64, is_accepted: bool) {
        let number = self.sent.remove(&id).expect("answered once");
        if is_accepted {
            self.clients[client].accepted(id, now);
            return;
        }
        // The spread that the limiter adds to a hint.
        let spread = Duration::from_micros(id.wrapping_mul(7919) % 10_000);
        let until = now + self.case.hint + spread;
        let in_flight = self.clients[client].in_flight();
        let until = self.clients[client].refused(id, until, now);
        self.agenda.put(until, client, Happens::Look);
        self.unsubmitted += 1;
        self.open[client] -= 1;
        self.out.refused += 1;
        let event = self.events.entry((client, number)).or_insert(Event {
            in_flight,
            refused: 0,
        });
        event.refused += 1;
    }

    fn send(&mut self, now: Duration, client: usize) {
        loop {
            if self.unsubmitted == 0 || self.open[client] >= self.case.callers {
                self.clients[client].nobody_waits();
                break;
            }
            self.ids += 1;
            match self.clients[client].admit(self.ids, now) {
                Admit::Goes { events } => {
                    self.unsubmitted -= 1;
                    self.open[client] += 1;
                    self.sent.insert(self.ids, events);
                    self.agenda
                        .put(now + WAY, client, Happens::Arrives(self.ids));
                }
                Admit::NotUntil(at) => {
                    self.agenda.put(at, client, Happens::Look);
                    break;
                }
                Admit::Full => break,
            }
        }
    }

    /// Whether the weather refuses a request.
    fn is_struck(&mut self, now: Duration) -> bool {
        let Some(weather) = self.case.weather else {
            return false;
        };
        if !(weather.from..weather.to).contains(&now) {
            return false;
        }
        self.dice = cases::next(self.dice);
        (self.dice >> 33) % 1_000 < weather.per_mille
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
