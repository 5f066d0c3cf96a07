//! Profiles: each combines a load of the clients with faults of the server.

use std::time::Duration;

use tinkers_local::{HintForm, Window};

/// A profile of a stress test with complete clients: the load of the clients and the faults that
/// the server injects.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The name of the profile on the command line.
    pub name: &'static str,
    /// The description of the profile in one line.
    pub about: &'static str,
    /// The number of clients and the calls that they make.
    pub shape: Shape,
    /// The fault rules (in TOML) with which the server injects faults. Before the run, `AFTER` and
    /// `FOR` are replaced by the start and the duration of the faults.
    pub rules: &'static str,
    /// The limit of the server on samples in flight. `None` if there is no limit.
    pub window: Option<u32>,
    /// The time that the server's engine takes for each job, such as a sample or an optimizer step,
    /// in milliseconds.
    pub latency_ms: u64,
    /// Whether the server supports shared polls. With a shared poll, a client polls for all of its
    /// samples at once.
    pub session_polls: bool,
}

/// The load of the clients: the number of clients and the calls that they make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Several clients connect once. Each client trains and samples until the end of the run.
    Steady,
    /// Three steady loads run one after another, each with new clients. The run checks that the
    /// memory use does not grow.
    Cycles,
    /// A hundred clients per second connect, sample once and close.
    Churn,
    /// Four waves of calls follow each other. Each wave consists of 512 samples and 512 training
    /// passes, divided among 32 sessions.
    Waves,
    /// One client makes 208 `forward_backward` calls of about 3.3 MB each, and one optimizer step.
    LargeUpdate,
    /// One client has the given number of samples in flight at the same time.
    ManySamples(u32),
    /// One client has a thousand samples in flight and polls for each of them individually.
    Polls,
}

/// Fault rules (in TOML) with which the server injects a fault into about one in ten requests.
const FLAKY: &str = r#"
[[rule]]
name = "lost requests"
on = "train"
after_s = AFTER
for_s = FOR
probability = 0.05
fault = "cut_before"
[[rule]]
name = "lost responses"
on = "train"
after_s = AFTER
for_s = FOR
probability = 0.05
fault = "cut_after"
[[rule]]
name = "lost samples"
on = "sample"
after_s = AFTER
for_s = FOR
probability = 0.03
fault = "cut_after"
[[rule]]
name = "truncated responses"
on = "poll"
after_s = AFTER
for_s = FOR
probability = 0.05
fault = "cut_body"
[[rule]]
name = "errors"
on = "*"
after_s = AFTER
for_s = FOR
probability = 0.03
fault = "answer"
status = 500
[[rule]]
name = "duplicated requests"
on = "train"
after_s = AFTER
for_s = FOR
probability = 0.05
fault = "duplicate"
"#;

const CAPACITY: &str = r#"
[[rule]]
name = "no capacity"
on = "poll"
after_s = AFTER
fault = "pause_capacity"
pause_s = FOR
"#;

const STORM: &str = r#"
[[rule]]
name = "refusals of samples"
on = "sample"
after_s = AFTER
for_s = FOR
probability = 0.3
fault = "rate_limited"
retry_after_s = 0.3
[[rule]]
name = "refusals of training"
on = "train"
after_s = AFTER
for_s = FOR
probability = 0.3
fault = "rate_limited"
retry_after_s = 0.2
[[rule]]
name = "refusals of polls"
on = "poll"
after_s = AFTER
for_s = FOR
probability = 0.3
fault = "rate_limited"
retry_after_s = 0.1
"#;

const OUTAGE: &str = r#"
[[rule]]
name = "outage"
on = "poll"
after_s = AFTER
for_s = FOR
times = "always"
fault = "answer"
status = 503
"#;

const DISCONNECTS: &str = r#"
[[rule]]
name = "disconnects before processing"
on = "*"
after_s = AFTER
for_s = FOR
probability = 0.1
fault = "cut_before"
[[rule]]
name = "disconnects after processing"
on = "*"
after_s = AFTER
for_s = FOR
probability = 0.1
fault = "cut_after"
"#;

const STEADY: Profile = Profile {
    name: "clean",
    about: "no faults",
    shape: Shape::Steady,
    rules: "",
    window: None,
    latency_ms: 20,
    session_polls: true,
};

/// All profiles of the stress test with complete clients.
pub const PROFILES: [Profile; 12] = [
    STEADY,
    Profile {
        name: "rate-limited",
        about: "the server accepts 40 samples at once and refuses more with 429 and a retry hint",
        window: Some(40),
        ..STEADY
    },
    Profile {
        name: "flaky",
        about: "requests and responses are lost, truncated, duplicated or failed for about half of the run",
        rules: FLAKY,
        ..STEADY
    },
    Profile {
        name: "capacity",
        about: "the server pauses all jobs for lack of capacity for about half of the run",
        rules: CAPACITY,
        ..STEADY
    },
    Profile {
        name: "churn",
        about: "100 clients per second connect, sample once and close",
        shape: Shape::Churn,
        ..STEADY
    },
    Profile {
        name: "storm",
        about: "30 % of all samples, training requests and polls are refused with 429 for about half of the run",
        rules: STORM,
        ..STEADY
    },
    Profile {
        name: "soak",
        about: "three cycles of the steady load with new clients and the faults of flaky; checks that memory stays flat",
        shape: Shape::Cycles,
        rules: FLAKY,
        ..STEADY
    },
    Profile {
        name: "waves",
        about: "four waves of 512 samples and 512 passes over 32 sessions with a heartbeat every 250 ms",
        shape: Shape::Waves,
        ..STEADY
    },
    Profile {
        name: "large-update",
        about: "208 passes of about 3.3 MB each, and one step",
        shape: Shape::LargeUpdate,
        ..STEADY
    },
    Profile {
        name: "many-samples",
        about: "131,072 samples in flight in one process",
        shape: Shape::ManySamples(131_072),
        latency_ms: 40_000,
        ..STEADY
    },
    Profile {
        name: "outage",
        about: "polls of 1,000 samples get 503 for about half of the run",
        shape: Shape::Polls,
        rules: OUTAGE,
        session_polls: false,
        ..STEADY
    },
    Profile {
        name: "disconnects",
        about: "20 % of all requests lose their connection before or after they are processed, for about half of the run",
        rules: DISCONNECTS,
        ..STEADY
    },
];

impl Profile {
    /// Returns the profile with the given name.
    pub fn named(name: &str) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// Returns the start and the duration of the period in which the server injects faults, in a
    /// run of `length`. Returns `None` if the profile injects no faults.
    pub fn fault_period(&self, length: Duration) -> Option<(Duration, Duration)> {
        (!self.rules.is_empty()).then(|| (length.mul_f64(0.25), length.mul_f64(0.45)))
    }

    /// Returns the fault script (the rules by which the server injects faults) for a run of
    /// `length`. Returns `None` if the profile injects no faults.
    pub fn script(&self, seed: u64, length: Duration) -> Option<String> {
        let (after, lasts) = self.fault_period(length)?;
        let rules = self
            .rules
            .replace("AFTER", &format!("{:.1}", after.as_secs_f64()))
            .replace("FOR", &format!("{:.1}", lasts.as_secs_f64()));
        Some(format!("seed = {}\n{rules}", seed & (i64::MAX as u64)))
    }

    /// Returns the maximum number of samples per second that the server can complete if its limit
    /// on samples in flight is `window`.
    pub(crate) fn allowed(&self, window: u32) -> f64 {
        f64::from(window) * 1000.0 / self.latency_ms as f64
    }

    /// Returns the configuration of the server's limit on samples in flight. Returns `None` if
    /// there is no limit.
    pub(crate) fn window(&self) -> Option<Window> {
        let hint = Duration::from_millis(100);
        let window = |at_once| Window::fixed(at_once).with_hint(hint, HintForm::Milliseconds);
        self.window.map(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_local::Faults;

    #[test]
    fn every_fault_script_can_be_parsed() {
        for profile in PROFILES {
            if let Some(script) = profile.script(1 << 20, Duration::from_secs(30)) {
                Faults::from_script(&script).expect(profile.name);
            }
        }
    }
}
