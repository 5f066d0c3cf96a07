//! The checks of a run, and the verdict that results from them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::counts::{Counts, Operation, OutcomeCounts};
use super::measurement::Measurement;
use super::profile::{Profile, Shape};
use super::recovery::Recovery;

/// The verdict on a stress run with complete clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All checks passed.
    Passed,
    /// A check failed.
    Failed,
    /// All checks passed, but conditions that the profile is meant to test, such as injected
    /// faults, did not occur.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// The resources, such as sockets and threads, that the process uses before the run or after all
/// clients have been closed. The comparison shows leaks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessResources {
    /// The numbers of the resources in use in the rate limiter, in this order: queued requests,
    /// permits granted to queued requests that have not been polled since, send slots, bytes and
    /// in-flight permits.
    pub(crate) held: [u64; 5],
    pub(crate) tasks: usize,
    pub(crate) sockets: usize,
    pub(crate) entries: usize,
    pub(crate) threads: usize,
}

/// What was observed in a stress run with complete clients.
#[derive(Debug)]
pub(crate) struct Observations<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) length: Duration,
    pub(crate) counts: &'a Counts,
    pub(crate) server: &'a Value,
    pub(crate) measurements: &'a [Measurement],
    /// The pauses of sample and training requests after 429 responses. Each pause is a pair of its
    /// start and its end, in seconds since the start of the run.
    pub(crate) pauses: &'a [(f64, f64)],
    pub(crate) before: ProcessResources,
    pub(crate) after: ProcessResources,
    /// The resident memory of the process, in bytes, at the end of each of the three loads of
    /// [`Shape::Cycles`]. Empty for other loads.
    pub(crate) cycles: &'a [u64],
    /// The memory that the process used for each sample in flight, in bytes. `None` unless the load
    /// is [`Shape::ManySamples`].
    pub(crate) per_sample: Option<f64>,
}

/// The maximum memory that the process may use for each sample in flight, in bytes: 2 KiB for the
/// client, and 256 bytes for the prompt and the load generator.
const MAX_BYTES_PER_SAMPLE: f64 = 2048.0 + 256.0;

impl Observations<'_> {
    /// Describes all violations that the checks find in the run.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for operation in Operation::ALL {
            self.calls(operation, self.counts.of(operation), &mut violations);
        }
        let out_of_order = self.server["out_of_order"].as_u64().unwrap_or(0);
        if out_of_order > 0 {
            violations.push(format!(
                "{out_of_order} training requests were applied twice or out of order"
            ));
        }
        violations.extend(self.counts.contradictions(&self.applied()));
        if self.after.held != [0; 5] {
            violations.push(format!(
                "the limiter still holds [waiters, uncollected grants, slots, bytes, in-flight requests] = {:?} after all calls",
                self.after.held
            ));
        }
        for (resource, before, after) in [
            ("tasks", self.before.tasks, self.after.tasks),
            ("sockets", self.before.sockets, self.after.sockets),
            ("registry entries", self.before.entries, self.after.entries),
            ("threads", self.before.threads, self.after.threads),
        ] {
            if after > before {
                violations.push(format!(
                    "leaked {resource}: {after} after the run, {before} before"
                ));
            }
        }
        let recovery = self.recovery();
        violations.extend(recovery.and_then(|recovery| recovery.violations()));
        if let [_, second, third] = self.cycles
            && *third as f64 > *second as f64 * 1.1 + 4e6
        {
            violations.push(format!(
                "resident memory grew from {second} to {third} bytes between the last two cycles"
            ));
        }
        if let Some(bytes) = self.per_sample
            && bytes > MAX_BYTES_PER_SAMPLE
        {
            violations.push(format!(
                "each sample in flight takes {bytes:.0} bytes, allowed {MAX_BYTES_PER_SAMPLE:.0}"
            ));
        }
        violations
    }

    /// Describes the conditions, such as injected faults, that the profile is meant to test but
    /// that did not occur in the run.
    pub(crate) fn inconclusive(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for rule in self.server["faults"].as_array().into_iter().flatten() {
            if rule["struck"].as_u64() == Some(0) {
                reasons.push(format!("the fault {} never occurred", rule["rule"]));
            }
        }
        if self.profile.window.is_some() && self.server["refused"].as_u64() == Some(0) {
            reasons.push("the server's window was never full".to_owned());
        }
        if let Shape::ManySamples(count) = self.profile.shape {
            let most = self
                .measurements
                .iter()
                .map(|measurement| measurement.in_flight)
                .max();
            let most = most.unwrap_or(0);
            if most < count / 100 * 99 {
                reasons.push(format!(
                    "only {most} of {count} samples were in flight at once"
                ));
            }
        }
        if self.counts.done() == 0 {
            reasons.push("no call succeeded".to_owned());
        }
        reasons
    }

    /// Measures how the throughput recovered after the injected faults. Returns `None` for loads
    /// that vary during the run.
    pub(crate) fn recovery(&self) -> Option<Recovery> {
        match self.profile.shape {
            Shape::Steady | Shape::Polls => Recovery::of(self),
            _ => None,
        }
    }

    /// Returns the throughput of samples as a fraction of the maximum that the server's limit on
    /// samples in flight allows. Leaves out the first second of the run. Returns `None` if the
    /// server has no limit.
    pub(crate) fn throughput_fraction(&self) -> Option<f64> {
        let allowed = self.profile.allowed(self.profile.window?);
        let used = self.rate_of(1.0, self.length.as_secs_f64(), |measurement| {
            measurement.samples
        });
        Some(used / allowed)
    }

    /// Returns the number of successful calls per second between the times `from` and `to`, in
    /// seconds since the start of the run.
    pub(crate) fn rate(&self, from: f64, to: f64) -> f64 {
        self.rate_of(from, to, |measurement| measurement.done)
    }

    fn rate_of(&self, from: f64, to: f64, of: fn(&Measurement) -> u64) -> f64 {
        let within = |measurement: &&Measurement| (from..=to).contains(&measurement.at);
        let mut measurements = self.measurements.iter().filter(within);
        let (Some(first), Some(last)) = (measurements.next(), measurements.next_back()) else {
            return 0.0;
        };
        (of(last) - of(first)) as f64 / (last.at - first.at).max(0.1)
    }

    fn calls(&self, operation: Operation, ended: OutcomeCounts, violations: &mut Vec<String>) {
        if ended.pending() > 0 {
            violations.push(format!(
                "{} {} calls never ended",
                ended.pending(),
                operation.name()
            ));
        }
        if ended.wrong > 0 {
            violations.push(format!(
                "{} {} calls returned the result of another call",
                ended.wrong,
                operation.name()
            ));
        }
        if self.profile.rules.is_empty() && ended.not_sent + ended.other > 0 {
            let failures = self.counts.failures();
            violations.push(format!(
                "{} {} calls failed without an injected fault: {failures:?}",
                ended.not_sent + ended.other,
                operation.name()
            ));
        }
    }

    /// Returns the number of times that the server applied each call, by call number.
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

    /// Returns the violations that the checks find in a simulated run of three optimizer steps. Two
    /// steps have succeeded. The third step is still pending if `lost` is true, and otherwise its
    /// outcome is unknown.
    fn violations(server: &Value, after: ProcessResources, lost: bool) -> Vec<String> {
        let counts = Counts::default();
        for _ in 0..2 {
            counts.ended(&counts.call(Operation::Step), Ok(true));
        }
        let call = counts.call(Operation::Step);
        if !lost {
            let error = Error::new(ErrorKind::OutcomeUnknown, Sent::MaybeSent, "lost");
            counts.ended(&call, Err(&error));
        }
        let profile = Profile::named("flaky").expect("a known profile");
        let observed = Observations {
            profile: &profile,
            length: Duration::from_secs(1),
            counts: &counts,
            server,
            measurements: &[],
            pauses: &[],
            before: ProcessResources::default(),
            after,
            cycles: &[],
            per_sample: None,
        };
        observed.violations()
    }

    #[test]
    fn verdict_reports_lost_repeated_and_pending_calls_and_leaks() {
        let server = |applied: &[(u64, u64)], out_of_order: u64| json!({ "applied": applied, "out_of_order": out_of_order });
        let nothing = ProcessResources::default();
        let two = [(1, 1), (2, 1)];
        let all = [(1, 1), (2, 1), (3, 1)];
        assert!(violations(&server(&two, 0), nothing, false).is_empty());
        assert!(violations(&server(&all, 0), nothing, false).is_empty());
        let leak = ProcessResources {
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
            let found = violations(&server, after, lost);
            assert_eq!(found.len(), count, "{found:?}");
        }
    }
}
