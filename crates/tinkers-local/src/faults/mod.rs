//! Faults by script: what goes wrong between a client and the server, and when.

mod counts;
mod fault;
mod hint;
mod rule;
#[cfg(feature = "script")]
mod script;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tinkers_core::{Clock, RouteClass, Timestamp};

pub use self::counts::{RuleCount, Struck};
pub(crate) use self::fault::Action;
pub use self::fault::Fault;
pub use self::hint::Hint;
pub use self::rule::Rule;
#[cfg(feature = "script")]
pub use self::script::InvalidScript;

/// A script of faults. Clones are the same script, to which rules can be added at any time.
///
/// Each request is struck by the first rule, in the order of adding, that matches it and is due; so one request meets one
/// fault at most, and several rules together make a bad day. Every rule counts the requests that it matches, whichever rule
/// strikes them; of its [times](Rule::times), only the requests that it strikes itself are taken. `GET /faults/counts` and `GET /scripted/counts` are never struck.
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
    rules: Vec<Entry>,
    /// How many rules were ever added.
    added: u64,
    /// The server's clock, once there is a server.
    time: Option<Arc<dyn Clock>>,
}

/// A rule in use.
#[derive(Debug)]
struct Entry {
    number: u64,
    rule: Rule,
    fault: Fault,
    since: Option<Timestamp>,
    matched: u64,
    struck: u64,
}

/// What a request is struck with.
#[derive(Debug)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) by: Struck,
}

impl Faults {
    /// An empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule and what happens to the requests that it strikes. Rules are numbered from 1 in this order.
    pub fn add(&self, rule: Rule, fault: Fault) {
        let mut script = self.lock();
        script.added += 1;
        let entry = Entry {
            number: script.added,
            rule,
            fault,
            since: script.time.as_ref().map(|time| time.now()),
            matched: 0,
            struck: 0,
        };
        script.rules.push(entry);
    }

    /// Takes all rules out, their counts with them. Those that are added later are numbered on.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// What each rule has matched and struck so far, by number. Rules that can strike no more are among them.
    pub fn counts(&self) -> Vec<RuleCount> {
        self.lock().rules.iter().map(Entry::count).collect()
    }

    /// The same as `GET /faults/counts` gives it.
    pub(crate) fn counts_json(&self) -> Value {
        let rules: Vec<Value> = self.counts().iter().map(RuleCount::json).collect();
        json!({ "rules": rules })
    }

    /// The script belongs to a server from now on, and the time of its rules begins to run. The first server's clock stays.
    pub(crate) fn install(&self, time: &Arc<dyn Clock>) {
        let mut script = self.lock();
        let now = script.time.get_or_insert_with(|| Arc::clone(time)).now();
        for entry in &mut script.rules {
            entry.since.get_or_insert(now);
        }
    }

    /// What happens to a request that has arrived at `now`.
    pub(crate) fn strike(&self, route: &str, class: RouteClass, now: Timestamp) -> Option<Strike> {
        let mut struck = None;
        for entry in &mut self.lock().rules {
            if entry.meets(route, class, now) && struck.is_none() {
                entry.struck += 1;
                struck = Some(Strike {
                    fault: entry.fault.clone(),
                    by: entry.named(),
                });
            }
        }
        struck
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Counts a request, and says whether the rule is due for it.
    fn meets(&mut self, route: &str, class: RouteClass, now: Timestamp) -> bool {
        let since = *self.since.get_or_insert(now);
        if !self.rule.is_open(since, now) || !self.rule.matches(route, class) {
            return false;
        }
        self.matched += 1;
        self.rule.is_due(self.matched, self.struck)
    }

    fn named(&self) -> Struck {
        Struck {
            number: self.number,
            name: self.rule.name().cloned(),
        }
    }

    fn count(&self) -> RuleCount {
        RuleCount {
            rule: self.named(),
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

    fn hits(faults: &Faults, route: &str, now: Timestamp) -> Option<u64> {
        let strike = faults.strike(route, RouteClass::Rest, now);
        strike.map(|strike| strike.by.number)
    }

    fn strikes(faults: &Faults, route: &str, n: usize) -> Vec<Option<u64>> {
        (0..n)
            .map(|_| hits(faults, route, Timestamp::ORIGIN))
            .collect()
    }

    fn struck(faults: &Faults) -> Vec<(u64, u64)> {
        let counts = faults.counts();
        counts
            .iter()
            .map(|count| (count.matched, count.struck))
            .collect()
    }

    #[test]
    fn rules_count_their_own_matches() {
        let faults = Faults::new();
        faults.add(Rule::on("/a").nth(2).times(2), Fault::empty_400());
        faults.add(Rule::on("/a").nth(3), Fault::gone());
        faults.add(Rule::on("/b*").always(), Fault::gone());
        // The second rule is due first where the first one strikes, and strikes at the next request.
        assert_eq!(
            strikes(&faults, "/a", 5),
            [None, Some(1), Some(1), Some(2), None]
        );
        assert_eq!(strikes(&faults, "/bcd", 2), [Some(3), Some(3)]);
        assert_eq!(strikes(&faults, "/c", 1), [None]);
        assert_eq!(struck(&faults), [(5, 2), (5, 1), (2, 2)]);
        faults.clear();
        assert_eq!(faults.counts(), []);
        faults.add(Rule::any(), Fault::gone());
        assert_eq!(strikes(&faults, "/c", 2), [Some(4), None]);
    }

    #[test]
    fn a_rule_strikes_as_often_as_it_says() {
        let faults = Faults::new();
        faults.add(Rule::on("/a").nth(2), Fault::empty_400());
        faults.add(Rule::on("/a").times(3), Fault::gone());
        faults.add(Rule::on("/a").times(2).with_chance(1.0, 1), Fault::gone());
        assert_eq!(
            strikes(&faults, "/a", 7),
            [Some(2), Some(1), Some(2), Some(2), Some(3), Some(3), None]
        );
        assert_eq!(struck(&faults), [(7, 1), (7, 3), (7, 2)]);
    }

    #[test]
    fn a_class_is_met_whatever_the_path() {
        let faults = Faults::new();
        faults.add(
            Rule::class(RouteClass::Poll).always().named("polls"),
            Fault::gone(),
        );
        let strike = faults
            .strike("/x", RouteClass::Poll, Timestamp::ORIGIN)
            .unwrap();
        assert_eq!(strike.by.to_string(), "rule 1 (polls)");
        assert_eq!(hits(&faults, "/x", Timestamp::ORIGIN), None);
    }

    #[test]
    fn a_window_opens_and_closes_on_the_servers_clock() {
        let clock = ManualClock::new();
        clock.advance(SECOND * 100);
        let faults = Faults::new();
        let window = || {
            Rule::on("/a")
                .always()
                .after(SECOND * 5)
                .lasting(SECOND * 10)
        };
        faults.add(window(), Fault::gone());
        faults.install(&(Arc::new(clock.clone()) as Arc<dyn Clock>));
        let all = [104, 105, 114, 115].map(|now| hits(&faults, "/a", at(now)));
        assert_eq!(all, [None, Some(1), Some(1), None]);
        // What comes before it opens is not counted.
        assert_eq!(struck(&faults), [(2, 2)]);
        clock.advance(SECOND * 100);
        faults.add(window().nth(2), Fault::gone());
        let all = [204, 205, 206, 214, 215].map(|now| hits(&faults, "/a", at(now)));
        assert_eq!(all, [None, None, Some(2), Some(2), None]);
    }

    #[test]
    fn the_same_requests_meet_the_same_faults() {
        let run = |seed| {
            let faults = Faults::new();
            faults.add(Rule::any().times(7).with_chance(0.3, seed), Fault::gone());
            faults.add(
                Rule::on("/b").always().with_chance(0.5, seed + 1),
                Fault::gone(),
            );
            let routes = ["/a", "/b", "/b", "/c"];
            let all: Vec<_> = (0..200)
                .map(|i| hits(&faults, routes[i % 4], Timestamp::ORIGIN))
                .collect();
            (all, struck(&faults))
        };
        let (first, again, other) = (run(1), run(1), run(100));
        assert_eq!(first, again);
        assert_ne!(first.0, other.0);
        // A chance is due so many times and no more.
        assert_eq!(first.1[0], (200, 7));
        assert!(first.1[1].1 > 20, "{:?}", first.1);
    }
}
