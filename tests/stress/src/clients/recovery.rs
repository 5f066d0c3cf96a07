//! Measures how the throughput recovers after the faults.

use std::time::Duration;

use super::profile::Profile;
use super::verdict::Observations;

/// The time after the end of the injected faults within which the throughput must recover, in
/// seconds.
const RECOVERY_SECONDS: f64 = 2.0;
/// The throughput counts as recovered if it reaches this fraction of the throughput before the
/// injected faults. The fraction is low, because the machine may have other load.
const RECOVERED_FRACTION: f64 = 0.5;

/// The throughput before and after the injected faults of a run, with which the recovery of the
/// clients is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery {
    /// The number of successful calls per second before the injected faults.
    pub(crate) clean: f64,
    /// The number of successful calls per second from [`RECOVERY_SECONDS`] after the injected
    /// faults to the end of the run.
    pub(crate) after: f64,
    /// The time in seconds from the end of the injected faults until the throughput, averaged over
    /// one second, had recovered. `None` if the throughput never recovered.
    pub(crate) took: Option<f64>,
}

impl Recovery {
    /// Measures how the throughput of a run recovered after the injected faults. Returns `None` if
    /// no faults were injected or the run was too short.
    pub(crate) fn of(observed: &Observations<'_>) -> Option<Self> {
        let (from, lasts) = observed.profile.fault_period(observed.length)?;
        let (from, to) = (from.as_secs_f64(), (from + lasts).as_secs_f64());
        let end = observed.length.as_secs_f64();
        // The first second is left out because the clients start up. The measurement after the
        // recovery needs one more second.
        if from < 1.5 || end < to + RECOVERY_SECONDS + 1.0 {
            return None;
        }
        let clean = observed.rate(1.0, from);
        let has_recovered = |at: &f64| observed.rate(*at, at + 1.0) >= RECOVERED_FRACTION * clean;
        let measurements = observed
            .measurements
            .iter()
            .map(|measurement| measurement.at);
        let took = measurements
            .filter(|at| *at >= to && at + 1.0 <= end)
            .find(has_recovered)
            .map(|at| at - to);
        Some(Self {
            clean,
            after: observed.rate(to + RECOVERY_SECONDS, end),
            took,
        })
    }

    /// Describes the violation if the throughput did not recover after the injected faults. Returns
    /// `None` if it did.
    pub(crate) fn violations(&self) -> Option<String> {
        (self.after < RECOVERED_FRACTION * self.clean).then(|| {
            format!(
                "throughput did not recover: {:.0} calls/s from {:.1} s after the faults, {:.0} calls/s before",
                self.after, RECOVERY_SECONDS, self.clean
            )
        })
    }

    /// Describes in one line how the throughput recovered after the injected faults.
    pub(crate) fn text(&self) -> String {
        let took = match self.took {
            Some(took) => format!("recovered after {took:.1} s"),
            None => "not recovered".to_owned(),
        };
        format!(
            "{:.0} calls/s before the faults, {:.0} calls/s from {:.1} s after them; {took}",
            self.clean, self.after, RECOVERY_SECONDS
        )
    }
}

/// Returns the minimum length of a run in which the recovery from the injected faults can be
/// measured. Returns `None` for profiles that inject no faults.
pub(crate) fn shortest(profile: &Profile) -> Option<Duration> {
    let (from, lasts) = profile.fault_period(Duration::from_secs(1))?;
    let (from, lasts) = (from.as_secs_f64(), lasts.as_secs_f64());
    let after = 1.0 - from - lasts;
    // A small tolerance allows for rounding.
    let seconds = (1.5 / from).max(3.0 / after) - 1e-6;
    Some(Duration::from_secs_f64(seconds.ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_run_of_each_profile_covers_faults_and_recovery() {
        for name in ["flaky", "outage"] {
            let profile = Profile::named(name).expect("a known profile");
            assert_eq!(shortest(&profile), Some(Duration::from_secs(10)), "{name}");
        }
        let clean = Profile::named("clean").expect("a known profile");
        assert_eq!(shortest(&clean), None);
    }
}
