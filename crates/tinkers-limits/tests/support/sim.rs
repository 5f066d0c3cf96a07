//! A simulation without a clock: clients that use the real constraints against a server with a window.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tinkers_limits::{Blocked, Bounds, Constraints, Demand, Ending, Growth, Take, Ticket};

/// How many the server takes at once, by time.
pub(crate) type Window = fn(Duration, u64) -> u32;

/// What is simulated.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) window: Window,
    /// For windows that walk.
    pub(crate) seed: u64,
    /// How long a sample takes.
    pub(crate) sample: Duration,
    /// How long a 429 tells to wait; `None` gives no hint.
    pub(crate) hint: Option<Duration>,
    /// One way over the network.
    pub(crate) way: Duration,
    /// Samples to be finished, by all clients together.
    pub(crate) samples: u64,
    /// Processes that share the server and know nothing of each other, and when each begins.
    pub(crate) clients: &'static [Duration],
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
    pub(crate) events: u64,
    /// Finished by each client.
    pub(crate) finished: Vec<u64>,
    /// Finished by each client in the second half of the time.
    pub(crate) finished_late: Vec<u64>,
    /// What a server that is always full would have finished in that time.
    pub(crate) possible: f64,
}

impl Outcome {
    /// Finished samples as a share of what an oracle that knows the window finishes.
    pub(crate) fn share(&self) -> f64 {
        self.finished.iter().sum::<u64>() as f64 / self.possible
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A client begins, or its gate may let something through.
    Look,
    Arrives(u64),
    Ends,
    Answer {
        id: u64,
        accepted: bool,
    },
    Result,
}

struct Client {
    constraints: Constraints,
    growth: Growth,
}

pub(crate) fn run(case: &Case) -> Outcome {
    let bounds = Bounds {
        slots: 400,
        bytes: u64::MAX,
        flights: 2000,
        rate: None,
        start: tinkers_limits::Start::Slow,
    };
    let mut clients: Vec<Client> = case
        .clients
        .iter()
        .map(|_| Client {
            constraints: Constraints::new(bounds),
            growth: Growth::new(1, 2000),
        })
        .collect();
    let mut heap = BinaryHeap::new();
    let mut tickets: std::collections::BTreeMap<u64, Ticket> = std::collections::BTreeMap::new();
    let mut order = 0u64;
    let mut next_id = 0u64;
    let mut running = 0u32;
    let mut unsubmitted = case.samples;
    let mut ends = vec![Vec::new(); clients.len()];
    let mut out = Outcome {
        finished: vec![0; clients.len()],
        finished_late: vec![0; clients.len()],
        ..Outcome::default()
    };
    let mut push = |heap: &mut BinaryHeap<_>, at: Duration, client: usize, what: Happens| {
        order += 1;
        heap.push(Reverse((at, order, client, what)));
    };
    for (client, begins) in case.clients.iter().enumerate() {
        push(&mut heap, *begins, client, Happens::Look);
    }
    while let Some(Reverse((now, _, c, what))) = heap.pop() {
        match what {
            Happens::Look => {}
            Happens::Arrives(id) => {
                let accepted = running < (case.window)(now, case.seed);
                if accepted {
                    running += 1;
                    out.accepted += 1;
                    push(&mut heap, now + case.sample, c, Happens::Ends);
                } else {
                    out.refused += 1;
                }
                push(
                    &mut heap,
                    now + case.way,
                    c,
                    Happens::Answer { id, accepted },
                );
            }
            Happens::Ends => {
                running -= 1;
                push(&mut heap, now + case.way, c, Happens::Result);
            }
            Happens::Answer { id, accepted } => {
                let Client {
                    constraints,
                    growth,
                } = &mut clients[c];
                let ticket = tickets.remove(&id).expect("answered once");
                let pause = case.hint.unwrap_or(Duration::from_secs(1));
                // The spread that the limiter adds.
                let spread = Duration::from_micros(id.wrapping_mul(7919) % 10_000);
                let ending = if accepted {
                    Ending::Accepted
                } else {
                    Ending::Refused {
                        until: now + pause + spread,
                    }
                };
                let level = growth.level().unwrap_or(u32::MAX);
                let settled = constraints.settle(ticket, ending, now, || level);
                let change = constraints.learn(growth, ticket, &settled, ending, now);
                if std::env::var("TRACE").is_ok() && (change.is_some() || settled.reopened) {
                    eprintln!(
                        "{now:?} c{c} {change:?} reopened {} level {:?} view {:?} running {running}",
                        settled.reopened,
                        growth.level(),
                        settled.view
                    );
                }
                if let Some(closed) = settled.closed {
                    constraints.land();
                    unsubmitted += 1;
                    out.events += u64::from(closed.first_of_its_event);
                    push(&mut heap, closed.until, c, Happens::Look);
                }
            }
            Happens::Result => {
                clients[c].constraints.land();
                out.finished[c] += 1;
                ends[c].push(now);
                out.took = now;
            }
        }
        // Everybody wants to send all the time.
        while unsubmitted > 0 {
            let Client {
                constraints,
                growth,
            } = &mut clients[c];
            let demand = Demand {
                take: Take::SlotAndFlight,
                bytes: 1,
            };
            match constraints.take_turn(demand, now, Duration::from_secs(1)) {
                Ok(ticket) => {
                    unsubmitted -= 1;
                    next_id += 1;
                    tickets.insert(next_id, ticket);
                    push(&mut heap, now + case.way, c, Happens::Arrives(next_id));
                }
                Err(Blocked::WindowFull) => {
                    let view = constraints.window().view();
                    if view.in_flight < view.limit || constraints.try_more(growth, now).is_none() {
                        break;
                    }
                }
                Err(Blocked::NotUntil(at)) => {
                    growth.held_back(now);
                    push(&mut heap, at, c, Happens::Look);
                    break;
                }
                Err(Blocked::Full) => break,
            }
        }
    }
    let mut at = Duration::ZERO;
    let step = Duration::from_millis(10);
    while at < out.took {
        out.possible += f64::from((case.window)(at, case.seed)) * step.as_secs_f64()
            / case.sample.as_secs_f64();
        at += step;
    }
    for (late, ends) in out.finished_late.iter_mut().zip(&ends) {
        *late = ends.iter().filter(|end| **end > out.took / 2).count() as u64;
    }
    out
}
