//! What the server does wrong, and what the clients ask of it.

use std::time::Duration;

use tinkers_local::{HintForm, Window};

/// One profile.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What the clients do.
    pub shape: Shape,
    /// The rules of the fault script. `AFTER` and `FOR` stand for the part of the run in which things go wrong.
    pub rules: &'static str,
    /// How many samples the server takes at once, where it says so.
    pub window: Option<u32>,
    /// How long the server works on each job, in milliseconds.
    pub latency_ms: u64,
    /// Whether one poll serves all samples of a client.
    pub session_polls: bool,
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each client trains and samples without a pause, to the end.
    Steady,
    /// The same three times, with new clients each time.
    Cycles,
    /// A hundred clients in each second are made, sample once and go.
    Churn,
    /// Four waves of 512 samples and 512 passes, over 32 sessions.
    Waves,
    /// 208 passes of some 3.3 MB and one step.
    LargeUpdate,
    /// So many samples in flight at once.
    ManySamples(u32),
    /// A thousand samples whose results are asked for one by one.
    Polls,
}

/// Answers for a while, in the middle of the run, every tenth request or so.
const FLAKY: &str = r#"
[[rule]]
name = "lost requests"
on = "train"
after_s = AFTER
for_s = FOR
probability = 0.05
fault = "cut_before"
[[rule]]
name = "lost answers"
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
name = "half answers"
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
name = "twice"
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
name = "disconnects before"
on = "*"
after_s = AFTER
for_s = FOR
probability = 0.1
fault = "cut_before"
[[rule]]
name = "disconnects after"
on = "*"
after_s = AFTER
for_s = FOR
probability = 0.1
fault = "cut_after"
"#;

const STEADY: Profile = Profile {
    name: "clean",
    about: "nothing goes wrong",
    shape: Shape::Steady,
    rules: "",
    window: None,
    latency_ms: 20,
    session_polls: true,
};

/// All of them.
pub const PROFILES: [Profile; 12] = [
    STEADY,
    Profile {
        name: "rate-limited",
        about: "the server takes 40 samples at once and refuses the rest with a hint",
        window: Some(40),
        ..STEADY
    },
    Profile {
        name: "flaky",
        about: "requests and answers are lost, cut, doubled and failed for half of the run",
        rules: FLAKY,
        ..STEADY
    },
    Profile {
        name: "capacity",
        about: "the server works on nothing for half of the run and says that it lacks capacity",
        rules: CAPACITY,
        ..STEADY
    },
    Profile {
        name: "churn",
        about: "a hundred clients in each second are made, sample once and go",
        shape: Shape::Churn,
        ..STEADY
    },
    Profile {
        name: "storm",
        about: "three in ten requests of every class are refused, whatever is in flight",
        rules: STORM,
        ..STEADY
    },
    Profile {
        name: "soak",
        about: "three times the same, with new clients, under faults",
        shape: Shape::Cycles,
        rules: FLAKY,
        ..STEADY
    },
    Profile {
        name: "waves",
        about: "four waves of 512 samples and 512 passes over 32 sessions with quick heartbeats",
        shape: Shape::Waves,
        ..STEADY
    },
    Profile {
        name: "large-update",
        about: "208 passes of some 3.3 MB each, and one step",
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
        about: "503 for half of the run under a thousand polls",
        shape: Shape::Polls,
        rules: OUTAGE,
        session_polls: false,
        ..STEADY
    },
    Profile {
        name: "disconnects",
        about: "one in five requests or answers is cut off for half of the run",
        rules: DISCONNECTS,
        ..STEADY
    },
];

impl Profile {
    /// The profile of a name.
    pub fn named(name: &str) -> Option<Self> {
        PROFILES.into_iter().find(|profile| profile.name == name)
    }

    /// The part of a run of `length` in which things go wrong: from when on, and for how long.
    pub fn trouble(&self, length: Duration) -> Option<(Duration, Duration)> {
        (!self.rules.is_empty()).then(|| (length.mul_f64(0.25), length.mul_f64(0.45)))
    }

    /// The fault script of a run.
    pub fn script(&self, seed: u64, length: Duration) -> Option<String> {
        let (after, lasts) = self.trouble(length)?;
        let rules = self
            .rules
            .replace("AFTER", &format!("{:.1}", after.as_secs_f64()))
            .replace("FOR", &format!("{:.1}", lasts.as_secs_f64()));
        Some(format!("seed = {}\n{rules}", seed & (i64::MAX as u64)))
    }

    /// Samples that a server with such a window allows in a second.
    pub(crate) fn allowed(&self, window: u32) -> f64 {
        f64::from(window) * 1000.0 / self.latency_ms as f64
    }

    /// The server's window.
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
    fn every_script_can_be_read() {
        for profile in PROFILES {
            if let Some(script) = profile.script(1 << 20, Duration::from_secs(30)) {
                Faults::from_script(&script).expect(profile.name);
            }
        }
    }
}
