//! Whether all flows again once the faults are over.

use std::time::Duration;

use super::profile::Profile;
use super::verdict::Seen;

/// Seconds after the faults at which all has to flow again.
const WITHIN: f64 = 2.0;
/// Of the rate before the faults, what counts as full flow. Far from all of it, since a machine has other things to do.
const FULL: f64 = 0.5;

/// How it went on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery {
    /// Calls that ended well in a second, before the faults.
    pub(crate) clean: f64,
    /// The same after them, from [`WITHIN`] on.
    pub(crate) after: f64,
    /// Seconds after the faults from which on, for a second, it did.
    pub(crate) took: Option<f64>,
}

impl Recovery {
    /// Of a run with faults that was long enough to tell.
    pub(crate) fn of(seen: &Seen<'_>) -> Option<Self> {
        let (from, lasts) = seen.profile.trouble(seen.length)?;
        let (from, to) = (from.as_secs_f64(), (from + lasts).as_secs_f64());
        let end = seen.length.as_secs_f64();
        // The first second is the start, and another is needed to see how it goes on.
        if from < 1.5 || end < to + WITHIN + 1.0 {
            return None;
        }
        let clean = seen.rate(1.0, from);
        let flows = |at: &f64| seen.rate(*at, at + 1.0) >= FULL * clean;
        let looks = seen.looks.iter().map(|look| look.at);
        let took = looks
            .filter(|at| *at >= to && at + 1.0 <= end)
            .find(flows)
            .map(|at| at - to);
        Some(Self {
            clean,
            after: seen.rate(to + WITHIN, end),
            took,
        })
    }

    /// What does not hold.
    pub(crate) fn broken(&self) -> Option<String> {
        (self.after < FULL * self.clean).then(|| {
            format!(
                "{:.1} s after the faults {:.0} calls/s got through, {:.0} before them",
                WITHIN, self.after, self.clean
            )
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let took = match self.took {
            Some(took) => format!("full flow {took:.1} s after them"),
            None => "no full flow after them".to_owned(),
        };
        format!(
            "{:.0} calls/s before the faults, {:.0} from {:.1} s after them on; {took}",
            self.clean, self.after, WITHIN
        )
    }
}

/// The shortest run that shows it, to say so where one was too short.
pub(crate) fn shortest(profile: &Profile) -> Option<Duration> {
    let (from, lasts) = profile.trouble(Duration::from_secs(1))?;
    let (from, lasts) = (from.as_secs_f64(), lasts.as_secs_f64());
    let after = 1.0 - from - lasts;
    // Sums of parts are off by a hair.
    let seconds = (1.5 / from).max(3.0 / after) - 1e-6;
    Some(Duration::from_secs_f64(seconds.ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_long_enough_has_room_for_all_that_is_looked_at() {
        for name in ["flaky", "outage"] {
            let profile = Profile::named(name).expect("it is there");
            assert_eq!(shortest(&profile), Some(Duration::from_secs(10)), "{name}");
        }
        let clean = Profile::named("clean").expect("it is there");
        assert_eq!(shortest(&clean), None);
    }
}
