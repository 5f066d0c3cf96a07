//! A stress case in which a server with a varying in-flight limit sends many 429s with retry
//! delays, and some responses are lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, Jitter, ManualClock, SplitMix};

use crate::check::{Invariant, Violation, conservation, stuck};
use crate::executor;
use crate::stopwatch::short_sleep;
use crate::subject::{Counts, HeldResources, Permit, PermitOutcome, RetryStateOf, Subject};
use crate::tasks::{Finished, Tasks};
use crate::waiters::{acquire_all, yield_now};

/// The size and the seed of a run in which a simulated server refuses many requests with 429.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// The number of clients. Each client has its own queue.
    pub clients: u64,
    /// The number of tasks of each client.
    pub tasks: u64,
    /// The number of requests that each task makes one after another.
    pub requests: u64,
    /// The average limit of the simulated server on requests in flight. The limit varies between 1
    /// and almost twice this value.
    pub window: u64,
    /// The seed of the random choices.
    pub seed: u64,
}

/// The maximum number of permits of the limiter under test. It is much higher than the simulated
/// server's limit on requests in flight, so that the server refuses requests.
const CEILING: u32 = 200;

/// What was observed in a run of [`Storm`], in which a simulated server refuses many requests with
/// 429.
#[derive(Debug)]
pub struct Observations {
    storm: Storm,
    /// Counts of the attempts to send a request, as seen by the clients and by the simulated
    /// server.
    pub counters: Arc<Counters>,
    finished: Finished,
    held: HeldResources,
    free: u64,
    limit: u64,
    /// The statistics that the limiter under test kept (such as granted permits and 429 responses),
    /// or `None` if it keeps none.
    pub counts: Option<Counts>,
}

/// Counts of the attempts to send a request, as seen by the clients and by the simulated server.
#[derive(Debug, Default)]
pub struct Counters {
    inside: AtomicU64,
    /// The latest end of all retry delays in 429 responses so far, in nanoseconds since the origin
    /// of the clock.
    closed_until: AtomicU64,
    /// The number of attempts that the limiter admitted too early: before the end of a retry delay
    /// that it already knew when the attempt was queued.
    admitted_too_early: AtomicU64,
    /// The number of attempts to send a request that the limiter admitted.
    pub attempts: AtomicU64,
    /// The number of attempts to send a request that the simulated server refused with 429.
    pub refused: AtomicU64,
    /// The number of attempts to send a request that got no response, because the attempt was
    /// dropped or the response was lost.
    pub lost: AtomicU64,
    served: Mutex<BTreeSet<(u64, u64)>>,
}

/// Runs the storm (clients whose requests a simulated server often refuses) on several threads.
/// Another thread advances the clock.
pub fn on_threads<S: Subject>(storm: Storm, tasks: &Tasks) -> Observations {
    let clock = ManualClock::new();
    let (subject, counters) = (S::new(CEILING, clock.clone()), Arc::<Counters>::default());
    let is_over = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                clock.advance(Duration::from_millis(1));
                short_sleep();
            }
        });
        let mut expected = 0;
        for work in storm.tasks(&subject, &counters, &clock) {
            tasks.spawn(work, None);
            expected += 1;
        }
        let progress = || counters.attempts.load(Ordering::SeqCst) as usize;
        let finished = tasks.finish(expected, progress, || ());
        is_over.store(true, Ordering::SeqCst);
        finished
    });
    observations(storm, &subject, counters, &clock, finished)
}

/// Runs the storm (clients whose requests a simulated server often refuses) on the deterministic
/// executor, which polls one task at a time.
pub fn step_by_step<S: Subject>(storm: Storm) -> Observations {
    let clock = ManualClock::new();
    let (subject, counters) = (S::new(CEILING, clock.clone()), Arc::<Counters>::default());
    let works = storm.tasks(&subject, &counters, &clock);
    let tasks = works.map(|work| executor::Task::new(work, None)).collect();
    let finished = executor::run(tasks, &clock, &SplitMix::new(storm.seed), || 0);
    observations(storm, &subject, counters, &clock, finished)
}

fn observations<S: Subject>(
    storm: Storm,
    subject: &Arc<S>,
    counters: Arc<Counters>,
    clock: &ManualClock,
    finished: Finished,
) -> Observations {
    let (held, counts) = (subject.held(), subject.counts());
    // All retry delays are over. The first request reopens the gate.
    clock.advance(Duration::from_secs(3600));
    if let Some(probe) = acquire_all(subject).pop() {
        drop(probe.end(PermitOutcome::Accepted));
    }
    Observations {
        storm,
        counters,
        finished,
        held,
        counts,
        limit: subject.limit(),
        free: acquire_all(subject).len() as u64,
    }
}

impl Storm {
    fn tasks<'a, S: Subject>(
        self,
        subject: &'a Arc<S>,
        counters: &'a Arc<Counters>,
        clock: &'a ManualClock,
    ) -> impl Iterator<Item = BoxFuture<'static, ()>> + use<'a, S> {
        let ids = (0..self.clients * self.tasks).map(move |id| (id % self.clients + 1, id));
        ids.map(move |(client, id)| {
            let one = StormTask {
                subject: Arc::clone(subject),
                counters: Arc::clone(counters),
                clock: clock.clone(),
                // Each task has its own generator, so that its choices do not depend on the
                // interleaving.
                chance: SplitMix::new(self.seed ^ (id + 1) << 32),
                window: self.window,
                seed: self.seed,
                client,
            };
            let work: BoxFuture<'static, ()> = Box::pin(async move {
                for request in 0..self.requests {
                    one.request((id, request)).await;
                }
            });
            work
        })
    }
}

/// A task of a client. The task makes requests one after another.
struct StormTask<S: Subject> {
    subject: Arc<S>,
    counters: Arc<Counters>,
    clock: ManualClock,
    chance: SplitMix,
    window: u64,
    seed: u64,
    client: u64,
}

impl<S: Subject> StormTask<S> {
    /// Makes a request, and retries it until the simulated server has served it.
    async fn request(&self, id: (u64, u64)) {
        let mut retry_state = RetryStateOf::<S>::default();
        loop {
            let permit = self.admitted(std::mem::take(&mut retry_state)).await;
            // Simulates network latency.
            yield_now().await;
            let Some(place) = self.counters.try_enter(self.window()) else {
                retry_state = self.refused(permit);
                continue;
            };
            match self.chance.bits() % 100 {
                // The permit is dropped, so the next attempt starts without an in-flight permit.
                0..5 => {
                    self.counters.lost.fetch_add(1, Ordering::SeqCst);
                    drop(permit);
                }
                5..10 => {
                    self.counters.lost.fetch_add(1, Ordering::SeqCst);
                    retry_state = permit.end(PermitOutcome::Unknown);
                }
                _ => {
                    let in_flight_permit = permit.end(PermitOutcome::Accepted);
                    let time: &dyn Clock = &self.clock;
                    time.sleep(Duration::from_micros(self.chance.bits() % 10_000))
                        .await;
                    self.counters.serve(id);
                    drop(place);
                    drop(in_flight_permit);
                    return;
                }
            }
        }
    }

    /// Waits until the limiter admits the next attempt to send a request, and counts the attempt.
    /// Counts separately the attempts that are admitted before the end of a known retry delay.
    async fn admitted(&self, retry_state: RetryStateOf<S>) -> S::Permit {
        // Only delays that the limiter already knows are checked, because the clock is read after
        // the limiter has decided.
        let known = self.counters.closed_until.load(Ordering::SeqCst);
        let permit = self.subject.acquire(self.client, retry_state).await;
        self.counters.attempts.fetch_add(1, Ordering::SeqCst);
        if nanos(self.clock.now().since_origin()) < known {
            self.counters
                .admitted_too_early
                .fetch_add(1, Ordering::SeqCst);
        }
        permit
    }

    /// Returns the current limit of the simulated server on requests in flight. It changes every 64
    /// attempts, between 1 and almost twice the average limit.
    fn window(&self) -> u64 {
        let attempts = self.counters.attempts.load(Ordering::SeqCst);
        let chance = SplitMix::new(self.seed ^ (attempts / 64));
        1 + chance.bits() % (2 * self.window - 1)
    }

    fn refused(&self, permit: S::Permit) -> RetryStateOf<S> {
        self.counters.refused.fetch_add(1, Ordering::SeqCst);
        let hint = Duration::from_micros(500 + self.chance.bits() % 20_000);
        let until = self.clock.now().after(hint).since_origin();
        let retry_state = permit.end(PermitOutcome::Refused(hint));
        self.counters
            .closed_until
            .fetch_max(nanos(until), Ordering::SeqCst);
        retry_state
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// A request that the simulated server is serving. The request counts towards the server's limit
/// until this value is dropped.
struct ServedRequest<'a>(&'a AtomicU64);

impl Drop for ServedRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counters {
    fn try_enter(&self, window: u64) -> Option<ServedRequest<'_>> {
        let more = |inside| (inside < window).then_some(inside + 1);
        self.inside
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .ok()
            .map(|_| ServedRequest(&self.inside))
    }

    fn serve(&self, id: (u64, u64)) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.insert(id);
    }

    fn served(&self) -> u64 {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.len() as u64
    }
}

/// Describes all violations that the checks find in a run of [`Storm`].
pub fn check(observed: &Observations) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(stuck(observed.finished));
    violations.extend(conservation(observed.held, observed.free, observed.limit));
    let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let admitted_too_early = read(&observed.counters.admitted_too_early);
    if admitted_too_early > 0 {
        let what = format!(
            "{admitted_too_early} requests were admitted before the end of a known retry hint"
        );
        violations.push(Violation::new(Invariant::RetryHint, what));
    }
    let mut agree = |what: &str, one: u64, other: u64| {
        if one != other {
            violations.push(Violation::new(
                Invariant::Counts,
                format!("{what} differ: {one} and {other}"),
            ));
        }
    };
    let Storm {
        clients,
        tasks,
        requests,
        ..
    } = observed.storm;
    let (served, refused) = (observed.counters.served(), read(&observed.counters.refused));
    let (attempts, lost) = (
        read(&observed.counters.attempts),
        read(&observed.counters.lost),
    );
    agree(
        "requests and served requests",
        clients * tasks * requests,
        served,
    );
    agree(
        "attempts and their outcomes",
        attempts,
        served + refused + lost,
    );
    if let Some(counts) = observed.counts {
        agree("grants", counts.grants, attempts);
        agree("refusals", counts.refusals, refused);
        // Each change of the gate wakes the first waiter of every queue.
        let heads = (clients + 1) * (refused + lost);
        let Counts {
            wakes,
            watches,
            grants,
            unused,
            ..
        } = counts;
        if (wakes - watches) * 10 > (grants + unused) * 11 + heads * 10 || watches > grants {
            let what = format!(
                "{wakes} wake-ups ({watches} to monitor) for {grants} grants, {refused} refusals and {lost} lost responses"
            );
            violations.push(Violation::new(Invariant::WakeUps, what));
        }
    }
    violations
}
