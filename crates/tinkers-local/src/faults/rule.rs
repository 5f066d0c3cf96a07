//! Which requests a rule strikes, and when.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Jitter, RouteClass, SplitMix, Timestamp};

/// Which requests a fault strikes: by default the first of its route, once.
///
/// A rule counts the requests of its route that come while its window of time is open; the first of them is number 1. It is
/// due for some of them, and strikes where no rule before it is due for the same request; otherwise it stays due for the next.
/// All of this follows from counts alone, so the same requests meet the same faults, run after run.
#[derive(Debug, Clone)]
pub struct Rule {
    name: Option<Arc<str>>,
    target: Target,
    first: u64,
    times: u64,
    chance: Option<Chance>,
    after: Duration,
    lasting: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Target {
    Path(String),
    Class(RouteClass),
}

#[derive(Debug, Clone, Copy)]
struct Chance {
    probability: f64,
    seed: u64,
}

impl Rule {
    /// Requests of one path, without its query; a path that ends in `*` stands for all that begin so.
    pub fn on(route: impl Into<String>) -> Self {
        Self::of(Target::Path(route.into()))
    }

    /// Requests of one class, as the client counts them: `asample` is a sample, everything that waits for a model's turn or makes
    /// one is training, and so on.
    pub const fn class(class: RouteClass) -> Self {
        Self::of(Target::Class(class))
    }

    /// All requests.
    pub fn any() -> Self {
        Self::on("*")
    }

    const fn of(target: Target) -> Self {
        Self {
            name: None,
            target,
            first: 1,
            times: 1,
            chance: None,
            after: Duration::ZERO,
            lasting: None,
        }
    }

    /// A name for the journal and the counts; need not be unique.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(Arc::from(name));
        self
    }

    /// From the `n`th match on, counted from 1.
    #[must_use]
    pub const fn nth(mut self, n: u64) -> Self {
        self.first = if n == 0 { 1 } else { n };
        self
    }

    /// Strikes so many requests, 1 unless set. Requests that an earlier rule strikes are not counted.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = if times == 0 { 1 } else { times };
        self
    }

    /// Due for all matches from the first on.
    #[must_use]
    pub const fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Due for each match with this probability, from 0 to 1 and taken as the nearer of the two beyond them. Whether match `k` is
    /// hit follows from `seed` and `k`.
    #[must_use]
    pub const fn with_chance(mut self, probability: f64, seed: u64) -> Self {
        self.chance = Some(Chance { probability, seed });
        self
    }

    /// Opens so long after its script was installed: the server was built with it, or the rule was added later. At once unless
    /// set. Time is the server's.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// Closes so long after it opened; never unless set.
    #[must_use]
    pub const fn lasting(mut self, length: Duration) -> Self {
        self.lasting = Some(length);
        self
    }

    pub(super) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    pub(super) fn matches(&self, route: &str, class: RouteClass) -> bool {
        match &self.target {
            Target::Class(own) => *own == class,
            Target::Path(own) => match own.strip_suffix('*') {
                Some(prefix) => route.starts_with(prefix),
                None => route == own,
            },
        }
    }

    /// Whether it is open at `now`, having been installed at `since`.
    pub(super) fn is_open(&self, since: Timestamp, now: Timestamp) -> bool {
        now >= since.after(self.after) && !self.is_closed(since, now)
    }

    /// Whether it will not open again.
    pub(super) fn is_closed(&self, since: Timestamp, now: Timestamp) -> bool {
        let opens = since.after(self.after);
        self.lasting
            .is_some_and(|length| now >= opens.after(length))
    }

    /// Whether it is due for its match number `matched`, after it struck `struck` requests.
    pub(super) fn is_due(&self, matched: u64, struck: u64) -> bool {
        matched >= self.first
            && struck < self.times
            && self.chance.is_none_or(|chance| chance.hits(matched))
    }
}

impl Chance {
    /// The `k`th number of the generator of this seed, whose state moves on by a constant.
    fn hits(self, k: u64) -> bool {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let before = self.seed.wrapping_add(STEP.wrapping_mul(k - 1));
        SplitMix::new(before).unit() < self.probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_the_seeds_sequence_and_about_what_it_says() {
        let numbers = SplitMix::new(11);
        let rule = Rule::any().always().with_chance(0.25, 11);
        let hits = (1..=4000)
            .filter(|k| {
                let hit = rule.is_due(*k, 0);
                assert_eq!(hit, numbers.unit() < 0.25);
                hit
            })
            .count();
        assert!((800..1200).contains(&hits), "{hits}");
        let other = Rule::any().always().with_chance(0.25, 12);
        assert!((1..=4000).any(|k| other.is_due(k, 0) != rule.is_due(k, 0)));
    }

    #[test]
    fn probabilities_beyond_the_ends_are_the_ends() {
        let hits = |probability| {
            let rule = Rule::any().always().with_chance(probability, 3);
            (1..=100).filter(|k| rule.is_due(*k, 0)).count()
        };
        assert_eq!(
            [-1.0, 0.0, f64::NAN, 1.0, 7.0].map(hits),
            [0, 0, 0, 100, 100]
        );
    }
}
