//! Outcomes of calls by number, compared with what the server applied.

use std::collections::BTreeMap;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// Pending.
    Pending,
    /// Succeeded with the expected result.
    Succeeded,
    /// Succeeded with the result of another call.
    WrongResult,
    /// Failed before the request was sent.
    NotSent,
    /// Failed otherwise; the server may have applied it.
    Unknown,
    /// Cancelled by its caller.
    Cancelled,
}

/// The outcomes of all calls of a run. Call numbers are consecutive and begin with 1.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    outcomes: Vec<Option<CallOutcome>>,
    /// Number of calls that ended more than once.
    again: u64,
}

impl CallLog {
    pub(crate) fn called(&mut self, number: u64) {
        let place = place(number);
        if self.outcomes.len() <= place {
            self.outcomes.resize(place + 1, None);
        }
        self.outcomes[place] = Some(CallOutcome::Pending);
    }

    pub(crate) fn ended(&mut self, number: u64, outcome: CallOutcome) {
        match self.outcomes.get_mut(place(number)) {
            Some(open @ Some(CallOutcome::Pending)) => *open = Some(outcome),
            _ => self.again += 1,
        }
    }

    /// Returns the contradictions with the number of times that the server applied each call. A successful call must be applied once,
    /// one that was not sent never, any other at most once.
    pub(crate) fn contradictions(&self, applied: &BTreeMap<u64, u64>) -> Vec<String> {
        let mut found = BTreeMap::<&str, Vec<u64>>::new();
        let mut note = |what, number| found.entry(what).or_default().push(number);
        for (place, outcome) in self.outcomes.iter().enumerate() {
            let (number, Some(outcome)) = (place as u64, outcome) else {
                continue;
            };
            match (outcome, applied.get(&number).copied().unwrap_or(0)) {
                (_, 2..) => note("were applied more than once", number),
                (CallOutcome::Succeeded | CallOutcome::WrongResult, 0) => {
                    note("succeeded and were not applied", number)
                }
                (CallOutcome::NotSent, 1) => note("were applied but reported as not sent", number),
                _ => {}
            }
        }
        for number in applied.keys() {
            if self
                .outcomes
                .get(place(*number))
                .copied()
                .flatten()
                .is_none()
            {
                note("were applied and never made", *number);
            }
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(what, numbers)| {
                let first = numbers.first().copied().unwrap_or_default();
                format!(
                    "{} calls {what}; the first is number {first}",
                    numbers.len()
                )
            })
            .collect();
        if self.again > 0 {
            lines.push(format!("{} calls ended more than once", self.again));
        }
        lines
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of contradictions for one call with outcome `outcome` that was applied `times` times.
    fn found(outcome: CallOutcome, times: u64) -> usize {
        let mut call_log = CallLog::default();
        call_log.called(1);
        if outcome != CallOutcome::Pending {
            call_log.ended(1, outcome);
        }
        let applied = (times > 0).then_some((1, times));
        call_log
            .contradictions(&applied.into_iter().collect())
            .len()
    }

    #[test]
    fn outcome_limits_how_often_a_call_was_applied() {
        for (outcome, allowed) in [
            (CallOutcome::Pending, [true, true, false]),
            (CallOutcome::Succeeded, [false, true, false]),
            (CallOutcome::WrongResult, [false, true, false]),
            (CallOutcome::NotSent, [true, false, false]),
            (CallOutcome::Unknown, [true, true, false]),
            (CallOutcome::Cancelled, [true, true, false]),
        ] {
            let fits = [0, 1, 2].map(|times| found(outcome, times) == 0);
            assert_eq!(fits, allowed, "{outcome:?}");
        }
    }

    #[test]
    fn unknown_calls_and_repeated_ends_are_found() {
        let mut call_log = CallLog::default();
        call_log.called(1);
        call_log.ended(1, CallOutcome::Succeeded);
        call_log.ended(1, CallOutcome::Succeeded);
        let applied = BTreeMap::from([(1, 1), (2, 1)]);
        assert_eq!(
            call_log.contradictions(&applied),
            [
                "1 calls were applied and never made; the first is number 2",
                "1 calls ended more than once"
            ]
        );
    }
}
