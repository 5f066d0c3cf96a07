//! Fault injection by script: rules that select requests, and the faults that are applied to them.

mod counts;
mod fault;
mod hint;
mod rule;
#[cfg(feature = "script")]
mod script;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tinkers_core::{Clock, RouteClass, Timestamp};

pub use self::counts::{RuleCount, RuleId};
pub(crate) use self::fault::Action;
pub use self::fault::Fault;
pub use self::hint::Hint;
pub use self::rule::Rule;
#[cfg(feature = "script")]
pub use self::script::InvalidScript;

/// A fault script: a list of fault rules. Clones share the same script. Rules can be added at any time.
///
/// For each request, the rules are tried in the order in which they were added. Each rule that matches the request counts it and
/// decides from this count and its probability whether to inject its fault. The request gets the fault of the first rule that
/// decides so, and no other fault. Only requests that got the fault of a rule count towards its limit [`Rule::times`]. `GET
/// /faults/counts` and `GET /scripted/counts` never get a fault.
///
/// ```
/// # use std::sync::Arc;
/// # use tinkers_core::{HttpRequest, ManualClock, RouteClass, Transport};
/// # use tinkers_local::{Fault, Faults, Hint, InProcess, LocalServer, Rule, ScriptedEngine, TokioSpawn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let faults = Faults::new();
/// faults.add(Rule::on("/api/v1/healthz").nth(2), Fault::rate_limited(Hint::Milliseconds(250)));
/// let server = LocalServer::builder(
///     Arc::new(ScriptedEngine::default()),
///     Arc::new(ManualClock::new()),
///     Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
/// )
/// .faults(faults)
/// .build()
/// .unwrap();
/// let client = InProcess::new(server);
/// let mut seen = Vec::new();
/// for _ in 0..3 {
///     let health = HttpRequest::new(http::Method::GET, "/api/v1/healthz", RouteClass::Control);
///     seen.push(client.send(health).await.unwrap().status.as_u16());
/// }
/// assert_eq!(seen, [200, 429, 200]);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    rules: Vec<InstalledRule>,
    /// The number of rules that have been added so far, including rules that were removed again. It is the number of the newest
    /// rule.
    added: u64,
    /// The clock of the server in which the script is installed. `None` before the installation.
    clock: Option<Arc<dyn Clock>>,
}

/// A rule of a fault script, with its fault and its counters.
#[derive(Debug)]
struct InstalledRule {
    number: u64,
    rule: Rule,
    fault: Fault,
    /// The time at which the rule was installed in a server. `None` if the script is not installed yet.
    since: Option<Timestamp>,
    matched: u64,
    struck: u64,
}

/// A fault to inject into a request, with the number and the name of the rule that selected it.
#[derive(Debug)]
pub(crate) struct SelectedFault {
    pub(crate) fault: Fault,
    pub(crate) rule: RuleId,
}

impl Faults {
    /// Creates an empty fault script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule and the fault that the rule injects. Rules are numbered from 1 in the order in which they are added.
    pub fn add(&self, rule: Rule, fault: Fault) {
        let mut script = self.lock();
        script.added += 1;
        let rule = InstalledRule {
            number: script.added,
            rule,
            fault,
            since: script.clock.as_ref().map(|clock| clock.now()),
            matched: 0,
            struck: 0,
        };
        script.rules.push(rule);
    }

    /// Removes all rules and their counters. Rules that are added later get the next higher numbers.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Returns the counters of all rules in the order of the rule numbers, including rules that will inject no more faults.
    pub fn counts(&self) -> Vec<RuleCount> {
        self.lock().rules.iter().map(InstalledRule::count).collect()
    }

    /// Returns the response body of `GET /faults/counts`.
    pub(crate) fn counts_json(&self) -> Value {
        let rules: Vec<Value> = self.counts().iter().map(RuleCount::json).collect();
        json!({ "rules": rules })
    }

    /// Installs the script in a server. The times of its rules, such as delays before a rule becomes active, are measured from this
    /// moment. If the script is installed in a second server too, it still uses the clock of the first server.
    pub(crate) fn install(&self, clock: &Arc<dyn Clock>) {
        let mut script = self.lock();
        let now = script.clock.get_or_insert_with(|| Arc::clone(clock)).now();
        for rule in &mut script.rules {
            rule.since.get_or_insert(now);
        }
    }

    /// Counts a request that arrives at `now` in all rules that match it. Returns the fault to inject into the request, or `None`
    /// if no rule injects one.
    pub(crate) fn select(
        &self,
        route: &str,
        class: RouteClass,
        now: Timestamp,
    ) -> Option<SelectedFault> {
        let mut selected = None;
        for rule in &mut self.lock().rules {
            if rule.count_request(route, class, now) && selected.is_none() {
                rule.struck += 1;
                selected = Some(SelectedFault {
                    fault: rule.fault.clone(),
                    rule: rule.id(),
                });
            }
        }
        selected
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InstalledRule {
    /// Counts a request if the rule is active and matches it. Returns whether the rule should inject its fault into this request.
    fn count_request(&mut self, route: &str, class: RouteClass, now: Timestamp) -> bool {
        let since = *self.since.get_or_insert(now);
        if !self.rule.is_active(since, now) || !self.rule.matches(route, class) {
            return false;
        }
        self.matched += 1;
        self.rule.is_due(self.matched, self.struck)
    }

    fn id(&self) -> RuleId {
        RuleId {
            number: self.number,
            name: self.rule.name().cloned(),
        }
    }

    fn count(&self) -> RuleCount {
        RuleCount {
            rule: self.id(),
            matched: self.matched,
            struck: self.struck,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tinkers_core::ManualClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(SECOND * u32::try_from(seconds).unwrap())
    }

    /// Runs a request through the fault script and returns the number of the rule that injected its fault.
    fn applied_rule(faults: &Faults, route: &str, now: Timestamp) -> Option<u64> {
        let selected = faults.select(route, RouteClass::Rest, now);
        selected.map(|selected| selected.rule.number)
    }

    fn applied_rules(faults: &Faults, route: &str, n: usize) -> Vec<Option<u64>> {
        (0..n)
            .map(|_| applied_rule(faults, route, Timestamp::ORIGIN))
            .collect()
    }

    fn counters(faults: &Faults) -> Vec<(u64, u64)> {
        let counts = faults.counts();
        counts
            .iter()
            .map(|count| (count.matched, count.struck))
            .collect()
    }

    #[test]
    fn fault_rule_counts_requests_that_get_the_fault_of_another_rule() {
        let faults = Faults::new();
        faults.add(Rule::on("/a").nth(2).times(2), Fault::empty_400());
        faults.add(Rule::on("/a").nth(3), Fault::gone());
        faults.add(Rule::on("/b*").always(), Fault::gone());
        // The second rule becomes due at a request that the first one takes, and is applied to a later one.
        assert_eq!(
            applied_rules(&faults, "/a", 5),
            [None, Some(1), Some(1), Some(2), None]
        );
        assert_eq!(applied_rules(&faults, "/bcd", 2), [Some(3), Some(3)]);
        assert_eq!(applied_rules(&faults, "/c", 1), [None]);
        assert_eq!(counters(&faults), [(5, 2), (5, 1), (2, 2)]);
        faults.clear();
        assert_eq!(faults.counts(), []);
        faults.add(Rule::any(), Fault::gone());
        assert_eq!(applied_rules(&faults, "/c", 2), [Some(4), None]);
    }

    #[test]
    fn number_of_requests_that_get_the_fault_of_a_rule_is_limited() {
        let faults = Faults::new();
        faults.add(Rule::on("/a").nth(2), Fault::empty_400());
        faults.add(Rule::on("/a").times(3), Fault::gone());
        faults.add(
            Rule::on("/a").times(2).with_probability(1.0, 1),
            Fault::gone(),
        );
        assert_eq!(
            applied_rules(&faults, "/a", 7),
            [Some(2), Some(1), Some(2), Some(2), Some(3), Some(3), None]
        );
        assert_eq!(counters(&faults), [(7, 1), (7, 3), (7, 2)]);
    }

    #[test]
    fn fault_rule_for_a_route_class_matches_every_path_of_the_class() {
        let faults = Faults::new();
        faults.add(
            Rule::class(RouteClass::Poll).always().named("polls"),
            Fault::gone(),
        );
        let selected = faults
            .select("/x", RouteClass::Poll, Timestamp::ORIGIN)
            .unwrap();
        assert_eq!(selected.rule.to_string(), "rule 1 (polls)");
        assert_eq!(applied_rule(&faults, "/x", Timestamp::ORIGIN), None);
    }

    #[test]
    fn fault_rule_is_active_only_for_its_period_on_the_server_clock() {
        let clock = ManualClock::new();
        clock.advance(SECOND * 100);
        let faults = Faults::new();
        let ten_seconds = || {
            Rule::on("/a")
                .always()
                .after(SECOND * 5)
                .lasting(SECOND * 10)
        };
        faults.add(ten_seconds(), Fault::gone());
        faults.install(&(Arc::new(clock.clone()) as Arc<dyn Clock>));
        let all = [104, 105, 114, 115].map(|now| applied_rule(&faults, "/a", at(now)));
        assert_eq!(all, [None, Some(1), Some(1), None]);
        // Requests before the activation are not counted.
        assert_eq!(counters(&faults), [(2, 2)]);
        clock.advance(SECOND * 100);
        faults.add(ten_seconds().nth(2), Fault::gone());
        let all = [204, 205, 206, 214, 215].map(|now| applied_rule(&faults, "/a", at(now)));
        assert_eq!(all, [None, None, Some(2), Some(2), None]);
    }

    #[test]
    fn same_sequence_of_requests_gets_the_same_faults() {
        let run = |seed| {
            let faults = Faults::new();
            faults.add(
                Rule::any().times(7).with_probability(0.3, seed),
                Fault::gone(),
            );
            faults.add(
                Rule::on("/b").always().with_probability(0.5, seed + 1),
                Fault::gone(),
            );
            let routes = ["/a", "/b", "/b", "/c"];
            let all: Vec<_> = (0..200)
                .map(|i| applied_rule(&faults, routes[i % 4], Timestamp::ORIGIN))
                .collect();
            (all, counters(&faults))
        };
        let (first, again, other) = (run(1), run(1), run(100));
        assert_eq!(first, again);
        assert_ne!(first.0, other.0);
        // `times` bounds a rule with a probability, too.
        assert_eq!(first.1[0], (200, 7));
        assert!(first.1[1].1 > 20, "{:?}", first.1);
    }
}
