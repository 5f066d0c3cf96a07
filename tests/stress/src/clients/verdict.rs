//! What must hold of a run, and whether it has shown anything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::count::{Counts, Ended, Verb};
use super::probe::Look;
use super::profile::{Profile, Shape};
use super::recovery::Recovery;

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every count is as it must be.
    Holds,
    /// Some count is not.
    Broken,
    /// Nothing went wrong that should have, so nothing was shown.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Broken => "BROKEN",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// What is left when all clients have gone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Left {
    /// Held in the limiter when all calls had ended: waiting, let through, slots, bytes, flights.
    pub(crate) held: [u64; 5],
    pub(crate) tasks: usize,
    pub(crate) sockets: usize,
    pub(crate) entries: usize,
    pub(crate) threads: usize,
}

/// Everything that is known of a run.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) length: Duration,
    pub(crate) counts: &'a Counts,
    pub(crate) server: &'a Value,
    pub(crate) looks: &'a [Look],
    /// When samples or training requests were held back: from, to, in seconds.
    pub(crate) pauses: &'a [(f64, f64)],
    pub(crate) before: Left,
    pub(crate) after: Left,
    /// Memory at the end of each cycle, in bytes.
    pub(crate) cycles: &'a [u64],
    /// Of a sample in flight, in bytes, where many were.
    pub(crate) per_sample: Option<f64>,
}

/// What one sample in flight may take, in bytes, after all of them have waited to be sent at once: two kilobytes, and its prompt
/// and what the load itself keeps of it.
const MOST_PER_SAMPLE: f64 = 2048.0 + 256.0;

impl Seen<'_> {
    /// What does not hold.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for verb in Verb::ALL {
            self.calls(verb, self.counts.of(verb), &mut broken);
        }
        let disorder = self.server["disorder"].as_u64().unwrap_or(0);
        if disorder > 0 {
            broken.push(format!(
                "{disorder} training requests were applied twice or out of order"
            ));
        }
        broken.extend(self.counts.against(&self.applied()));
        if self.after.held != [0; 5] {
            broken.push(format!(
                "the limiter still held {:?} when all calls had ended",
                self.after.held
            ));
        }
        for (what, before, after) in [
            ("tasks", self.before.tasks, self.after.tasks),
            ("sockets", self.before.sockets, self.after.sockets),
            ("registry entries", self.before.entries, self.after.entries),
            ("threads", self.before.threads, self.after.threads),
        ] {
            if after > before {
                broken.push(format!(
                    "{after} {what} are left, {before} were there at the start"
                ));
            }
        }
        let recovery = self.recovery();
        broken.extend(recovery.and_then(|recovery| recovery.broken()));
        if let [_, second, third] = self.cycles
            && *third as f64 > *second as f64 * 1.1 + 4e6
        {
            broken.push(format!(
                "memory grew from {second} to {third} bytes between cycles"
            ));
        }
        if let Some(bytes) = self.per_sample
            && bytes > MOST_PER_SAMPLE
        {
            broken.push(format!("a sample in flight takes {bytes:.0} bytes"));
        }
        broken
    }

    /// Why it has shown nothing.
    pub(crate) fn inconclusive(&self) -> Vec<String> {
        let mut why = Vec::new();
        for rule in self.server["faults"].as_array().into_iter().flatten() {
            if rule["struck"].as_u64() == Some(0) {
                why.push(format!("{} never struck", rule["rule"]));
            }
        }
        if self.profile.window.is_some() && self.server["refused"].as_u64() == Some(0) {
            why.push("the server's window was never full".to_owned());
        }
        if let Shape::ManySamples(count) = self.profile.shape {
            let most = self.looks.iter().map(|look| look.in_flight).max();
            let most = most.unwrap_or(0);
            if most < count / 100 * 99 {
                why.push(format!(
                    "{most} samples were in flight at once, not {count}"
                ));
            }
        }
        if self.counts.done() == 0 {
            why.push("no call ended well".to_owned());
        }
        why
    }

    /// How it went on after the faults, where the load is the same before and after.
    pub(crate) fn recovery(&self) -> Option<Recovery> {
        match self.profile.shape {
            Shape::Steady | Shape::Polls => Recovery::of(self),
            _ => None,
        }
    }

    /// How much of what the server's window allows was used, from the first second to the end of the load.
    pub(crate) fn share(&self) -> Option<f64> {
        let allowed = self.profile.allowed(self.profile.window?);
        let used = self.rate_of(1.0, self.length.as_secs_f64(), |look| look.samples);
        Some(used / allowed)
    }

    /// Calls that ended well in a second between two times.
    pub(crate) fn rate(&self, from: f64, to: f64) -> f64 {
        self.rate_of(from, to, |look| look.done)
    }

    fn rate_of(&self, from: f64, to: f64, of: fn(&Look) -> u64) -> f64 {
        let within = |look: &&Look| (from..=to).contains(&look.at);
        let mut looks = self.looks.iter().filter(within);
        let (Some(first), Some(last)) = (looks.next(), looks.next_back()) else {
            return 0.0;
        };
        (of(last) - of(first)) as f64 / (last.at - first.at).max(0.1)
    }

    fn calls(&self, verb: Verb, ended: Ended, broken: &mut Vec<String>) {
        if ended.open() > 0 {
            broken.push(format!(
                "{} calls of {} never ended",
                ended.open(),
                verb.name()
            ));
        }
        if ended.wrong > 0 {
            broken.push(format!(
                "{} calls of {} gave what is not theirs",
                ended.wrong,
                verb.name()
            ));
        }
        if self.profile.rules.is_empty() && ended.not_sent + ended.other > 0 {
            let failures = self.counts.failures();
            broken.push(format!(
                "{} calls of {} failed though nothing went wrong: {failures:?}",
                ended.not_sent + ended.other,
                verb.name()
            ));
        }
    }

    /// How often the server has applied each call, by its number.
    fn applied(&self) -> BTreeMap<u64, u64> {
        let all = self.server["applied"].as_array();
        let pairs = all.into_iter().flatten();
        pairs
            .filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tinkers::{Error, ErrorKind, Sent};

    /// What does not hold when two steps succeed, one is lost on its way, and the server says `server`.
    fn broken(server: &Value, after: Left, lost: bool) -> Vec<String> {
        let counts = Counts::default();
        for _ in 0..2 {
            counts.ended(&counts.call(Verb::Step), Ok(true));
        }
        let call = counts.call(Verb::Step);
        if !lost {
            let error = Error::new(ErrorKind::OutcomeUnknown, Sent::MaybeSent, "lost");
            counts.ended(&call, Err(&error));
        }
        let profile = Profile::named("flaky").expect("it is there");
        let seen = Seen {
            profile: &profile,
            length: Duration::from_secs(1),
            counts: &counts,
            server,
            looks: &[],
            pauses: &[],
            before: Left::default(),
            after,
            cycles: &[],
            per_sample: None,
        };
        seen.broken()
    }

    #[test]
    fn a_step_that_is_lost_or_doubled_a_call_without_an_end_and_a_leak_are_found() {
        let server = |applied: &[(u64, u64)], disorder: u64| json!({ "applied": applied, "disorder": disorder });
        let nothing = Left::default();
        let two = [(1, 1), (2, 1)];
        let all = [(1, 1), (2, 1), (3, 1)];
        assert!(broken(&server(&two, 0), nothing, false).is_empty());
        assert!(broken(&server(&all, 0), nothing, false).is_empty());
        let leak = Left {
            held: [0, 0, 1, 0, 0],
            tasks: 1,
            ..nothing
        };
        for (server, after, lost, count) in [
            (server(&[(1, 1), (3, 1)], 0), nothing, false, 1),
            (server(&[(1, 1), (2, 2)], 0), nothing, false, 1),
            (server(&[(1, 1), (2, 1), (4, 1)], 0), nothing, false, 1),
            (server(&all, 1), nothing, false, 1),
            (server(&all, 0), nothing, true, 1),
            (server(&all, 0), leak, false, 2),
        ] {
            let found = broken(&server, after, lost);
            assert_eq!(found.len(), count, "{found:?}");
        }
    }
}
