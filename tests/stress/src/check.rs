//! Checks of what was observed in a run. The checks do not depend on the limiter under test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::log::Log;
use crate::plan::{Fate, Plan, StartWhen};
use crate::subject::{Counts, HeldResources};
use crate::tasks::Finished;

/// What was observed in a run in which many tasks (the waiters) acquired permits from the limiter
/// under test.
#[derive(Debug)]
pub struct Observations {
    /// The plan of the run. It lists the waiters (tasks that acquire a permit), and how each of
    /// them ends.
    pub plan: Plan,
    /// The counts of what the waiters (tasks that acquire a permit) did, such as permits received
    /// and released.
    pub log: Arc<Log>,
    /// The numbers of tasks that finished, were aborted, panicked or got stuck.
    pub finished: Finished,
    /// The resources that the limiter under test still held after the run, such as permits that
    /// were never released. All must be zero.
    pub held: HeldResources,
    /// The number of permits that could be acquired after the run.
    pub free: u64,
    /// The number of permits that should be available after the run, which is the limit of the
    /// limiter.
    pub limit: u64,
    /// The statistics that the limiter under test kept (such as granted permits and waits), or
    /// `None` if it keeps none.
    pub counts: Option<Counts>,
    /// The number of permits that the test itself acquired before the run. It held all permits
    /// until enough waiters had queued up.
    pub initial_permits: u64,
}

/// A violation that a check has found: the limiter under test did not have a required property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The violated invariant: a property that the limiter under test must have.
    pub invariant: Invariant,
    /// A description of the violation with the observed numbers.
    pub what: String,
}

/// A property that the limiter under test must have. The checks report its violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No permit is lost or created: at the end of a run, no permit is held, and exactly `limit`
    /// permits can be acquired.
    Conservation,
    /// At most `limit` permits are held at the same time.
    Limit,
    /// The queued tasks (waiters) of each client are admitted in the order of their arrival.
    Order,
    /// The limiter wakes few tasks in vain: at most 1.1 wake-ups for each permit that is granted to
    /// a queued task.
    WakeUps,
    /// The limiter grants permits in turn to all clients that have tasks in the queue.
    Fairness,
    /// Every task of a run ends. None waits forever for a permit.
    Progress,
    /// The events (such as permits received) that the tasks counted agree with the limiter's own
    /// statistics.
    Counts,
    /// After the server has refused a request with 429, no request is sent before the retry delay
    /// has passed.
    RetryHint,
    /// The registry, which shares limiters between threads by key, has at most one limiter for each
    /// key at a time, and no entry outlives the users of its limiter.
    Registry,
}

impl Violation {
    pub(crate) fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// Runs all checks on a run in which many tasks (the waiters) acquired permits from the limiter
/// under test. Returns the violations that the checks find.
pub fn waiters(observed: &Observations) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(stuck(observed.finished));
    violations.extend(conservation(observed.held, observed.free, observed.limit));
    let (peak, limit) = (observed.log.peak(), u64::from(observed.plan.shape.limit));
    if peak > limit {
        let what = format!("{peak} permits held at once, the limit is {limit}");
        violations.push(Violation::new(Invariant::Limit, what));
    }
    let started = observed.log.started();
    violations.extend(counts(observed, &started));
    violations.extend(order(&observed.plan, &started));
    violations.extend(turns(&observed.plan, &started));
    violations.extend(wake_ups(observed));
    violations
}

/// Returns a violation of [`Invariant::Progress`] if at least one task of a run did not end, and
/// `None` otherwise.
pub(crate) fn stuck(finished: Finished) -> Option<Violation> {
    let stuck = finished.stuck;
    (stuck > 0).then(|| {
        Violation::new(
            Invariant::Progress,
            format!("{stuck} tasks made no progress and were given up"),
        )
    })
}

/// Returns a violation of [`Invariant::Conservation`] if the limiter still holds resources after a
/// run, or if the number of available permits, `free`, differs from `limit`.
pub(crate) fn conservation(held: HeldResources, free: u64, limit: u64) -> Option<Violation> {
    (held != HeldResources::default() || free != limit).then(|| {
        let what =
            format!("{free} of {limit} permits are available at the end; still held: {held:?}");
        Violation::new(Invariant::Conservation, what)
    })
}

/// Checks that each waiter whose plan ensures its start has started to work, that no waiter has
/// started twice, that each started work has ended, and that the statistics of the limiter agree
/// with the counted events.
fn counts(observed: &Observations, started: &[(u64, usize)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            violations.push(Violation::new(Invariant::Counts, what));
        }
    };
    let log = &observed.log;
    let (settled, dropped) = (Log::read(&log.settled), Log::read(&log.dropped));
    let starts = started.len() as u64;
    must(
        starts == settled + dropped,
        format!("{starts} started, {settled} released, {dropped} dropped while held"),
    );
    let once: BTreeSet<_> = started.iter().copied().collect();
    must(
        once.len() == started.len(),
        "a waiter started twice".to_owned(),
    );
    let absent = observed
        .plan
        .all()
        .filter(|waiter| waiter.surely_starts() && !once.contains(&(waiter.client, waiter.index)));
    let absent = absent.count();
    must(absent == 0, format!("{absent} waiters never started"));
    let with = |fate: fn(&Fate) -> bool| {
        let all = observed.plan.all().filter(|waiter| fate(&waiter.fate));
        all.count() as u64
    };
    let forgotten = with(|fate| *fate == Fate::Forgotten);
    let panics = with(|fate| *fate == Fate::Panics);
    let Finished {
        done,
        aborted,
        panicked,
        stuck,
    } = observed.finished;
    must(
        done + aborted + panicked + stuck + forgotten == with(|_| true),
        format!(
            "{:?} and {forgotten} dropped waiters are not the planned total",
            observed.finished
        ),
    );
    must(
        panicked == panics,
        format!("{panicked} panics, planned {panics}"),
    );
    must(
        settled == done,
        format!("{settled} permits released by {done} finished tasks"),
    );
    if let Some(counts) = observed.counts {
        let sure = observed.initial_permits + starts + Log::read(&log.cancelled);
        // A task may end between its admission and its next poll. Only the limiter counts such
        // admissions.
        let unseen = (aborted + panicked + stuck + forgotten).saturating_sub(dropped);
        must(
            (sure..=sure + unseen).contains(&counts.grants),
            format!(
                "{} grants, expected {sure} to {}",
                counts.grants,
                sure + unseen
            ),
        );
    }
    violations
}

/// Checks that each client's waiters are admitted in order. When a waiter starts its work, all
/// earlier waiters of the same client that were not dropped have either started or hold a permit.
/// Therefore the number of earlier waiters that have not started is below the limit.
fn order(plan: &Plan, started: &[(u64, usize)]) -> Option<Violation> {
    let mut behind: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for waiter in plan.all().filter(|waiter| waiter.surely_starts()) {
        behind
            .entry(waiter.client)
            .or_default()
            .insert(waiter.index);
    }
    let mut worst = 0;
    for (client, index) in started {
        let behind = behind.entry(*client).or_default();
        worst = worst.max(behind.range(..index).count());
        behind.remove(index);
    }
    let limit = plan.shape.limit as usize;
    (worst >= limit).then(|| {
        let what = format!(
            "a waiter overtook {worst} earlier ones, at most {} can be concurrent",
            limit - 1
        );
        Violation::new(Invariant::Order, what)
    })
}

/// Checks that clients with queued waiters are admitted in turn: the numbers of their started
/// waiters differ by at most `limit + 1`. A difference is allowed, because up to `limit` admitted
/// waiters may not have started yet.
fn turns(plan: &Plan, started: &[(u64, usize)]) -> Option<Violation> {
    let all_served = plan.all().all(|waiter| waiter.fate == Fate::Served);
    if !all_served || plan.shape.start_when != StartWhen::AllQueued {
        return None;
    }
    let limit = plan.shape.limit as usize;
    let mut turns: BTreeMap<u64, usize> = (1..=plan.shape.clients).map(|n| (n, 0)).collect();
    let mut worst = 0;
    for (client, _) in started {
        *turns.entry(*client).or_default() += 1;
        let waiting = turns
            .values()
            .filter(|turns| **turns + limit < plan.shape.per_client);
        let (least, most) = waiting.fold((usize::MAX, 0), |(least, most), turns| {
            (least.min(*turns), most.max(*turns))
        });
        worst = worst.max(most.saturating_sub(least));
    }
    (worst > limit + 1).then(|| {
        let what = format!("a client was {worst} admissions ahead of another with waiters");
        Violation::new(Invariant::Fairness, what)
    })
}

fn wake_ups(observed: &Observations) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (woken, waited) = (
        Log::read(&observed.log.woken),
        Log::read(&observed.log.after_wait),
    );
    if woken * 10 > waited * 11 {
        let what = format!("{woken} polls after a wake-up for {waited} admissions after a wait");
        violations.push(Violation::new(Invariant::WakeUps, what));
    }
    let Some(counts) = observed.counts else {
        return violations;
    };
    let after_wait = grants_after_wait(observed, counts);
    let Counts { wakes, watches, .. } = counts;
    // One waiter at a time is woken to monitor admissions that are not collected. These wake-ups
    // are frequent in step-by-step runs, which delay most collections.
    if (wakes - watches) * 10 > after_wait * 11 || watches > after_wait {
        let what =
            format!("{wakes} wake-ups ({watches} to monitor) for {after_wait} grants after a wait");
        violations.push(Violation::new(Invariant::WakeUps, what));
    }
    violations
}

/// Returns the number of permits that the limiter granted to queued waiters. Leaves out the permits
/// that it granted immediately.
pub fn grants_after_wait(observed: &Observations, counts: Counts) -> u64 {
    let at_once = Log::read(&observed.log.at_once) + observed.initial_permits;
    (counts.grants + counts.unused).saturating_sub(at_once)
}
