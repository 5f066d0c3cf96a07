//! Recovery of the throughput after the faults.

use std::time::Duration;

use super::profile::Profile;
use super::verdict::Observations;

/// Seconds after the faults within which the throughput must recover.
const WITHIN: f64 = 2.0;
/// Fraction of the throughput before the faults that counts as recovered. Low, since the machine may have other load.
const FULL: f64 = 0.5;

/// The throughput before and after the faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery {
    /// Successful calls per second before the faults.
    pub(crate) clean: f64,
    /// Successful calls per second from [`WITHIN`] after the faults.
    pub(crate) after: f64,
    /// Seconds after the faults until the throughput of one second had recovered.
    pub(crate) took: Option<f64>,
}

impl Recovery {
    /// Measures a run; `None` if it had no faults or was too short.
    pub(crate) fn of(observed: &Observations<'_>) -> Option<Self> {
        let (from, lasts) = observed.profile.fault_period(observed.length)?;
        let (from, to) = (from.as_secs_f64(), (from + lasts).as_secs_f64());
        let end = observed.length.as_secs_f64();
        // The first second is startup, and the recovery needs one second more.
        if from < 1.5 || end < to + WITHIN + 1.0 {
            return None;
        }
        let clean = observed.rate(1.0, from);
        let flows = |at: &f64| observed.rate(*at, at + 1.0) >= FULL * clean;
        let measurements = observed
            .measurements
            .iter()
            .map(|measurement| measurement.at);
        let took = measurements
            .filter(|at| *at >= to && at + 1.0 <= end)
            .find(flows)
            .map(|at| at - to);
        Some(Self {
            clean,
            after: observed.rate(to + WITHIN, end),
            took,
        })
    }

    /// Returns a violation if the throughput did not recover.
    pub(crate) fn violations(&self) -> Option<String> {
        (self.after < FULL * self.clean).then(|| {
            format!(
                "throughput did not recover: {:.0} calls/s from {:.1} s after the faults, {:.0} calls/s before",
                self.after, WITHIN, self.clean
            )
        })
    }

    /// Returns a one-line description.
    pub(crate) fn text(&self) -> String {
        let took = match self.took {
            Some(took) => format!("recovered after {took:.1} s"),
            None => "not recovered".to_owned(),
        };
        format!(
            "{:.0} calls/s before the faults, {:.0} calls/s from {:.1} s after them; {took}",
            self.clean, self.after, WITHIN
        )
    }
}

/// Returns the minimum length of a run that measures the recovery, `None` for profiles without faults.
pub(crate) fn shortest(profile: &Profile) -> Option<Duration> {
    let (from, lasts) = profile.fault_period(Duration::from_secs(1))?;
    let (from, lasts) = (from.as_secs_f64(), lasts.as_secs_f64());
    let after = 1.0 - from - lasts;
    // Tolerance for rounding.
    let seconds = (1.5 / from).max(3.0 / after) - 1e-6;
    Some(Duration::from_secs_f64(seconds.ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_run_covers_faults_and_recovery() {
        for name in ["flaky", "outage"] {
            let profile = Profile::named(name).expect("a known profile");
            assert_eq!(shortest(&profile), Some(Duration::from_secs(10)), "{name}");
        }
        let clean = Profile::named("clean").expect("a known profile");
        assert_eq!(shortest(&clean), None);
    }
}
