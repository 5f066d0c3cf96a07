//! A log of the outcomes of calls, which is compared with what the server applied.

use std::collections::BTreeMap;

/// The outcome of an API call that a client of the stress test has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The call is pending: its outcome is not known yet.
    Pending,
    /// The call succeeded and returned the result of its own request.
    Succeeded,
    /// The call returned the result of another call, which is a violation.
    WrongResult,
    /// The call failed before its request was sent.
    NotSent,
    /// The call failed after its request may have been sent. The server may have applied the call.
    Unknown,
    /// The caller cancelled the call.
    Cancelled,
}

/// The outcomes of all API calls of a run, by call number. Call numbers are consecutive and begin
/// with 1.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    outcomes: Vec<Option<CallOutcome>>,
    /// The number of calls whose outcome was recorded more than once.
    ended_again: u64,
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
            _ => self.ended_again += 1,
        }
    }

    /// Describes the contradictions between the outcomes of the calls and `applied`, the number of
    /// times that the server applied each call, by call number. The server must apply a successful
    /// call once. It must not apply a call that was not sent. It may apply any other call at most
    /// once.
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
        if self.ended_again > 0 {
            lines.push(format!("{} calls ended more than once", self.ended_again));
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

    /// Creates a log of a single call with the given outcome, which the server has applied `times`
    /// times. Returns the number of contradictions that the log reports.
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
    fn call_outcome_determines_how_often_the_call_may_be_applied() {
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
    fn call_log_reports_calls_never_made_and_calls_that_ended_twice() {
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
