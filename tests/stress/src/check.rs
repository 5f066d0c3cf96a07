//! What must hold of a run, whatever was run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::log::Log;
use crate::plan::{Begins, Fate, Plan};
use crate::subject::{Counts, Held};
use crate::threads::Finished;

/// What was seen of a crowd.
#[derive(Debug)]
pub struct Seen {
    /// What was to happen.
    pub plan: Plan,
    /// Who did what.
    pub log: Arc<Log>,
    /// How the tasks ended.
    pub finished: Finished,
    /// What was taken after their end.
    pub held: Held,
    /// How many could be let in then.
    pub free: u64,
    /// How many there should be room for.
    pub limit: u64,
    /// What the subject counted itself.
    pub counts: Option<Counts>,
    /// Permits that were taken to hold the crowd back.
    pub plugs: u64,
}

/// One thing that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of which kind.
    pub kind: Kind,
    /// In numbers.
    pub what: String,
}

/// What does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Held and free are not the limit.
    Conservation,
    /// More were in at once than the limit.
    OverLimit,
    /// A later one of a client was let in before an earlier one.
    Order,
    /// More wake-ups than 1.1 for each that was let in after a wait.
    WakeUps,
    /// One client got more turns than another that waited.
    Turns,
    /// Nothing happened any more.
    Stuck,
    /// The counts of both sides do not agree.
    Counts,
    /// Something went before the server's hint.
    Undercut,
    /// Users of one key had two values, or an entry was left.
    Registry,
}

impl Fault {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// Every fault of a crowd.
pub fn crowd(seen: &Seen) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(stuck(seen.finished));
    faults.extend(conservation(seen.held, seen.free, seen.limit));
    let (peak, limit) = (seen.log.peak(), u64::from(seen.plan.shape.limit));
    if peak > limit {
        let what = format!("{peak} were in at once where {limit} may be");
        faults.push(Fault::new(Kind::OverLimit, what));
    }
    let started = seen.log.started();
    faults.extend(counts(seen, &started));
    faults.extend(order(&seen.plan, &started));
    faults.extend(turns(&seen.plan, &started));
    faults.extend(wake_ups(seen));
    faults
}

/// Nothing may be left of a run that has ended.
pub(crate) fn stuck(finished: Finished) -> Option<Fault> {
    let stuck = finished.stuck;
    (stuck > 0).then(|| {
        Fault::new(
            Kind::Stuck,
            format!("{stuck} wait and nothing happens any more"),
        )
    })
}

/// Held and free are the limit: nothing is held, and everything can be taken.
pub(crate) fn conservation(held: Held, free: u64, limit: u64) -> Option<Fault> {
    (held != Held::default() || free != limit).then(|| {
        let what = format!("{free} of {limit} are free at the end, and {held:?}");
        Fault::new(Kind::Conservation, what)
    })
}

/// Everybody who had to start did so once, and each start has one end.
fn counts(seen: &Seen, started: &[(u64, usize)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            faults.push(Fault::new(Kind::Counts, what));
        }
    };
    let log = &seen.log;
    let (settled, dropped) = (Log::read(&log.settled), Log::read(&log.dropped));
    let starts = started.len() as u64;
    must(
        starts == settled + dropped,
        format!("{starts} started, {settled} ended and {dropped} were given up"),
    );
    let once: BTreeSet<_> = started.iter().copied().collect();
    must(
        once.len() == started.len(),
        "somebody started twice".to_owned(),
    );
    let absent = seen
        .plan
        .all()
        .filter(|waiter| waiter.surely_starts() && !once.contains(&(waiter.client, waiter.index)));
    let absent = absent.count();
    must(absent == 0, format!("{absent} never started"));
    let with = |fate: fn(&Fate) -> bool| {
        let all = seen.plan.all().filter(|waiter| fate(&waiter.fate));
        all.count() as u64
    };
    let forgotten = with(|fate| *fate == Fate::Forgotten);
    let panics = with(|fate| *fate == Fate::Panics);
    let Finished {
        done,
        aborted,
        panicked,
        stuck,
    } = seen.finished;
    must(
        done + aborted + panicked + stuck + forgotten == with(|_| true),
        format!("{:?} and {forgotten} forgotten are not all", seen.finished),
    );
    must(
        panicked == panics,
        format!("{panicked} panics of {panics} that were planned"),
    );
    must(
        settled == done,
        format!("{settled} ended their work, {done} tasks were done"),
    );
    if let Some(counts) = seen.counts {
        let sure = seen.plugs + starts + Log::read(&log.given_up);
        // Those who were let in and ended before they noticed can be counted by nobody else.
        let unseen = (aborted + panicked + stuck + forgotten).saturating_sub(dropped);
        must(
            (sure..=sure + unseen).contains(&counts.grants),
            format!(
                "{} grants where {sure} were noticed and {unseen} more may be",
                counts.grants
            ),
        );
    }
    faults
}

/// When one starts to work, all earlier ones of its client that survive have started or hold a permit at that moment. So
/// they are fewer than the limit.
fn order(plan: &Plan, started: &[(u64, usize)]) -> Option<Fault> {
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
            "{worst} earlier ones were passed, {} may seem so",
            limit - 1
        );
        Fault::new(Kind::Order, what)
    })
}

/// While two clients wait, they are let in in turn. What one was let in for and has not started yet is at most the limit.
fn turns(plan: &Plan, started: &[(u64, usize)]) -> Option<Fault> {
    let all_served = plan.all().all(|waiter| waiter.fate == Fate::Served);
    if !all_served || plan.shape.begins != Begins::Complete {
        return None;
    }
    let limit = plan.shape.limit as usize;
    let mut turns: BTreeMap<u64, usize> = (1..=plan.shape.clients).map(|n| (n, 0)).collect();
    let mut worst = 0;
    for (client, _) in started {
        *turns.entry(*client).or_default() += 1;
        let waiting = turns
            .values()
            .filter(|turns| **turns + limit < plan.shape.each);
        let (least, most) = waiting.fold((usize::MAX, 0), |(least, most), turns| {
            (least.min(*turns), most.max(*turns))
        });
        worst = worst.max(most.saturating_sub(least));
    }
    (worst > limit + 1).then(|| {
        let what = format!("one client was {worst} turns ahead of another that waited");
        Fault::new(Kind::Turns, what)
    })
}

fn wake_ups(seen: &Seen) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (woken, waited) = (Log::read(&seen.log.woken), Log::read(&seen.log.after_wait));
    if woken * 10 > waited * 11 {
        let what = format!("{woken} looks of {waited} that were let in after a wait");
        faults.push(Fault::new(Kind::WakeUps, what));
    }
    let Some(counts) = seen.counts else {
        return faults;
    };
    let handed = handed_over(seen, counts);
    let Counts { wakes, watches, .. } = counts;
    // One watches at a time, for grants that stay uncollected for long: where choice decides who is polled, most do.
    if (wakes - watches) * 10 > handed * 11 || watches > handed {
        let what = format!("{wakes} wakes ({watches} to watch) for {handed} that were handed over");
        faults.push(Fault::new(Kind::WakeUps, what));
    }
    faults
}

/// Grants that somebody had waited for.
pub fn handed_over(seen: &Seen, counts: Counts) -> u64 {
    let at_once = Log::read(&seen.log.at_once) + seen.plugs;
    (counts.grants + counts.unused).saturating_sub(at_once)
}
