//! Storms of refusals: a server with a window refuses above it and says when to come back; some attempts are lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, Jitter, ManualClock, SplitMix};

use crate::check::{Fault, Kind, conservation, stuck};
use crate::crowd::{let_others_run, take_all};
use crate::steps;
use crate::subject::{Counts, End, Held, KeptBy, Permit, Subject};
use crate::threads::{Finished, Tasks};
use crate::watch::nap;

/// How large a storm is.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Clients, each with a line of its own.
    pub clients: u64,
    /// Tasks of each.
    pub tasks: u64,
    /// Requests of each task, one after the other.
    pub requests: u64,
    /// What the server takes at once, on average: it changes its mind again and again.
    pub window: u64,
    /// What the choices are made from.
    pub seed: u64,
}

/// The ceiling of the subject: the window is what the server says it is.
const CEILING: u32 = 200;

/// What was seen of a storm.
#[derive(Debug)]
pub struct Seen {
    storm: Storm,
    /// What the clients and the server counted.
    pub tally: Arc<Tally>,
    finished: Finished,
    held: Held,
    free: u64,
    limit: u64,
    /// What the subject counted itself.
    pub counts: Option<Counts>,
}

/// What the clients and the server counted.
#[derive(Debug, Default)]
pub struct Tally {
    inside: AtomicU64,
    /// Nothing may be let in before this, in nanoseconds of the clock.
    closed_until: AtomicU64,
    /// Attempts that went before it, though the refusal was known when they asked.
    undercut: AtomicU64,
    /// Attempts that were let in.
    pub attempts: AtomicU64,
    /// Attempts that the server refused.
    pub refused: AtomicU64,
    /// Attempts that were dropped at work, and those whose answer never came.
    pub lost: AtomicU64,
    served: Mutex<BTreeSet<(u64, u64)>>,
}

/// Runs it on threads. A thread of its own moves the clock, a thousand times as fast as real time or less.
pub fn on_threads<S: Subject>(storm: Storm, tasks: &Tasks) -> Seen {
    let clock = ManualClock::new();
    let (subject, tally) = (S::new(CEILING, clock.clone()), Arc::<Tally>::default());
    let is_over = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                clock.advance(Duration::from_millis(1));
                nap();
            }
        });
        let mut expected = 0;
        for work in storm.tasks(&subject, &tally, &clock) {
            tasks.spawn(work, None);
            expected += 1;
        }
        let progress = || tally.attempts.load(Ordering::SeqCst) as usize;
        let finished = tasks.finish(expected, progress, || ());
        is_over.store(true, Ordering::SeqCst);
        finished
    });
    seen(storm, &subject, tally, &clock, finished)
}

/// Runs it one step after the other.
pub fn step_by_step<S: Subject>(storm: Storm) -> Seen {
    let clock = ManualClock::new();
    let (subject, tally) = (S::new(CEILING, clock.clone()), Arc::<Tally>::default());
    let works = storm.tasks(&subject, &tally, &clock);
    let pieces = works.map(|work| steps::Piece::new(work, None)).collect();
    let finished = steps::run(pieces, &clock, &SplitMix::new(storm.seed), || 0);
    seen(storm, &subject, tally, &clock, finished)
}

fn seen<S: Subject>(
    storm: Storm,
    subject: &Arc<S>,
    tally: Arc<Tally>,
    clock: &ManualClock,
    finished: Finished,
) -> Seen {
    let (held, counts) = (subject.held(), subject.counts());
    // What closed the gate last is over, and whoever is first finds it out for all.
    clock.advance(Duration::from_secs(3600));
    if let Some(probe) = take_all(subject).pop() {
        drop(probe.end(End::Accepted));
    }
    Seen {
        storm,
        tally,
        finished,
        held,
        counts,
        limit: subject.limit(),
        free: take_all(subject).len() as u64,
    }
}

impl Storm {
    fn tasks<'a, S: Subject>(
        self,
        subject: &'a Arc<S>,
        tally: &'a Arc<Tally>,
        clock: &'a ManualClock,
    ) -> impl Iterator<Item = BoxFuture<'static, ()>> + use<'a, S> {
        let ids = (0..self.clients * self.tasks).map(move |id| (id % self.clients + 1, id));
        ids.map(move |(client, id)| {
            let one = One {
                subject: Arc::clone(subject),
                tally: Arc::clone(tally),
                clock: clock.clone(),
                // Each task has choices of its own, whatever the others do.
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

/// One task of a storm.
struct One<S: Subject> {
    subject: Arc<S>,
    tally: Arc<Tally>,
    clock: ManualClock,
    chance: SplitMix,
    window: u64,
    seed: u64,
    client: u64,
}

impl<S: Subject> One<S> {
    /// Tries until the request is served.
    async fn request(&self, id: (u64, u64)) {
        let mut kept = KeptBy::<S>::default();
        loop {
            let permit = self.admitted(std::mem::take(&mut kept)).await;
            // The way to the server.
            let_others_run().await;
            let Some(place) = self.tally.come_in(self.window()) else {
                kept = self.refused(permit);
                continue;
            };
            match self.chance.bits() % 100 {
                // Given up: the next attempt knows nothing of it.
                0..5 => {
                    self.tally.lost.fetch_add(1, Ordering::SeqCst);
                    drop(permit);
                }
                5..10 => {
                    self.tally.lost.fetch_add(1, Ordering::SeqCst);
                    kept = permit.end(End::Unknown);
                }
                _ => {
                    let flight = permit.end(End::Accepted);
                    let time: &dyn Clock = &self.clock;
                    time.sleep(Duration::from_micros(self.chance.bits() % 10_000))
                        .await;
                    self.tally.serve(id);
                    drop(place);
                    drop(flight);
                    return;
                }
            }
        }
    }

    /// Waits for a permit, and sees whether it comes too early.
    async fn admitted(&self, kept: KeptBy<S>) -> S::Permit {
        // A refusal that is known here is known to the subject, so it decides after it, and before the second look at the clock.
        let known = self.tally.closed_until.load(Ordering::SeqCst);
        let permit = self.subject.acquire(self.client, kept).await;
        self.tally.attempts.fetch_add(1, Ordering::SeqCst);
        if nanos(self.clock.now().since_origin()) < known {
            self.tally.undercut.fetch_add(1, Ordering::SeqCst);
        }
        permit
    }

    /// What the server takes now: from 1 to twice the window, another number after so many attempts.
    fn window(&self) -> u64 {
        let attempts = self.tally.attempts.load(Ordering::SeqCst);
        let chance = SplitMix::new(self.seed ^ (attempts / 64));
        1 + chance.bits() % (2 * self.window - 1)
    }

    fn refused(&self, permit: S::Permit) -> KeptBy<S> {
        self.tally.refused.fetch_add(1, Ordering::SeqCst);
        let hint = Duration::from_micros(500 + self.chance.bits() % 20_000);
        let until = self.clock.now().after(hint).since_origin();
        let kept = permit.end(End::Refused(hint));
        self.tally
            .closed_until
            .fetch_max(nanos(until), Ordering::SeqCst);
        kept
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// A place in the window of the server.
struct Inside<'a>(&'a AtomicU64);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Tally {
    fn come_in(&self, window: u64) -> Option<Inside<'_>> {
        let more = |inside| (inside < window).then_some(inside + 1);
        self.inside
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .ok()
            .map(|_| Inside(&self.inside))
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

/// Every fault of a storm.
pub fn check(seen: &Seen) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(stuck(seen.finished));
    faults.extend(conservation(seen.held, seen.free, seen.limit));
    let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
    let undercut = read(&seen.tally.undercut);
    if undercut > 0 {
        let what = format!("{undercut} went before the hint that was known");
        faults.push(Fault::new(Kind::Undercut, what));
    }
    let mut agree = |what: &str, one: u64, other: u64| {
        if one != other {
            faults.push(Fault::new(
                Kind::Counts,
                format!("{what}: {one} and {other}"),
            ));
        }
    };
    let Storm {
        clients,
        tasks,
        requests,
        ..
    } = seen.storm;
    let (served, refused) = (seen.tally.served(), read(&seen.tally.refused));
    let (attempts, lost) = (read(&seen.tally.attempts), read(&seen.tally.lost));
    agree("requests and served", clients * tasks * requests, served);
    agree("attempts and ends", attempts, served + refused + lost);
    if let Some(counts) = seen.counts {
        agree("grants", counts.grants, attempts);
        agree("refusals", counts.refusals, refused);
        // After each change of the gate the first of each line is woken to look at it by itself.
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
                "{wakes} wakes ({watches} to watch) for {grants} grants, {refused} refusals and {lost} lost"
            );
            faults.push(Fault::new(Kind::WakeUps, what));
        }
    }
    faults
}
