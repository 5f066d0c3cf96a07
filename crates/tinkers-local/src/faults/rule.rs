//! Rules: which requests get a fault, and when.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Jitter, RouteClass, SplitMix, Timestamp};

/// A rule of a fault script. It selects the requests into which a fault is injected: by default, only the first request that
/// matches its path or class.
///
/// A rule counts the requests that match its path or class while the rule is active. From this count alone, the rule decides
/// whether to inject its fault into the current request. So the same requests always get the same faults. If an earlier rule of the
/// script injects its fault into the same request, the request gets only that fault, and this rule can inject its own fault into
/// its next matching request.
#[derive(Debug, Clone)]
pub struct Rule {
    name: Option<Arc<str>>,
    target: Target,
    first: u64,
    times: u64,
    probability: Option<SeededProbability>,
    after: Duration,
    lasting: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Target {
    Path(String),
    Class(RouteClass),
}

#[derive(Debug, Clone, Copy)]
struct SeededProbability {
    probability: f64,
    seed: u64,
}

impl Rule {
    /// Creates a rule for requests with this path, without the query. A path that ends in `*` matches all paths with the prefix
    /// before the `*`.
    pub fn on(route: impl Into<String>) -> Self {
        Self::of(Target::Path(route.into()))
    }

    /// Creates a rule for the requests of a route class. Route classes are the groups of routes for which a client has separate
    /// limits. For example, `asample` belongs to the sample class. Requests that create a model or are queued for a model belong to
    /// the training class.
    pub const fn class(class: RouteClass) -> Self {
        Self::of(Target::Class(class))
    }

    /// Creates a rule for all requests.
    pub fn any() -> Self {
        Self::on("*")
    }

    const fn of(target: Target) -> Self {
        Self {
            name: None,
            target,
            first: 1,
            times: 1,
            probability: None,
            after: Duration::ZERO,
            lasting: None,
        }
    }

    /// Sets the name under which the rule appears in the journal and in the counters. The name need not be unique.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(Arc::from(name));
        self
    }

    /// Makes the rule ignore the first `n - 1` matching requests, so that the `n`th matching request (counted from 1) is the first
    /// that can get the fault. The default is 1.
    #[must_use]
    pub const fn nth(mut self, n: u64) -> Self {
        self.first = if n == 0 { 1 } else { n };
        self
    }

    /// Sets the number of requests into which the rule injects its fault. The default is 1. Requests that get the fault of an
    /// earlier rule instead do not count.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = if times == 0 { 1 } else { times };
        self
    }

    /// Removes the limit on the number of requests into which the rule injects its fault (see [`Rule::times`]).
    #[must_use]
    pub const fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Injects the fault into each matching request with this probability, which is clamped to the range from 0 to 1. The decision
    /// for the `k`th matching request depends only on `seed` and `k`.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64, seed: u64) -> Self {
        self.probability = Some(SeededProbability { probability, seed });
        self
    }

    /// Activates the rule only after `delay`. The default is no delay. The delay begins when a server is built with the script or,
    /// for a rule that is added later, when the rule is added. The clock of the server measures the time.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// Deactivates the rule after it has been active for `length`. By default, the rule stays active.
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
            Target::Class(target) => *target == class,
            Target::Path(path) => match path.strip_suffix('*') {
                Some(prefix) => route.starts_with(prefix),
                None => route == path,
            },
        }
    }

    /// Returns whether the rule is active at `now`, if it was installed in a server at `since`. An inactive rule injects no fault
    /// and counts no requests.
    pub(super) fn is_active(&self, since: Timestamp, now: Timestamp) -> bool {
        let start = since.after(self.after);
        let has_ended = |length| now >= start.after(length);
        now >= start && !self.lasting.is_some_and(has_ended)
    }

    /// Returns whether the rule should inject its fault into its matching request number `matched` (counted from 1), if it has
    /// injected the fault into `struck` requests before.
    pub(super) fn is_due(&self, matched: u64, struck: u64) -> bool {
        matched >= self.first
            && struck < self.times
            && self
                .probability
                .is_none_or(|probability| probability.selects(matched))
    }
}

impl SeededProbability {
    /// Returns whether the rule injects its fault into its matching request number `k`, by a random decision that depends only on
    /// the seed and `k`.
    fn selects(self, k: u64) -> bool {
        let state = self.seed.wrapping_add(SplitMix::GAMMA.wrapping_mul(k - 1));
        SplitMix::new(state).unit() < self.probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_selection_depends_on_the_seed_and_the_probability() {
        let numbers = SplitMix::new(11);
        let rule = Rule::any().always().with_probability(0.25, 11);
        let hits = (1..=4000)
            .filter(|k| {
                let hit = rule.is_due(*k, 0);
                assert_eq!(hit, numbers.unit() < 0.25);
                hit
            })
            .count();
        assert!((800..1200).contains(&hits), "{hits}");
        let other = Rule::any().always().with_probability(0.25, 12);
        assert!((1..=4000).any(|k| other.is_due(k, 0) != rule.is_due(k, 0)));
    }

    #[test]
    fn fault_probabilities_are_clamped_to_the_range_from_0_to_1() {
        let hits = |probability| {
            let rule = Rule::any().always().with_probability(probability, 3);
            (1..=100).filter(|k| rule.is_due(*k, 0)).count()
        };
        assert_eq!(
            [-1.0, 0.0, f64::NAN, 1.0, 7.0].map(hits),
            [0, 0, 0, 100, 100]
        );
    }
}
