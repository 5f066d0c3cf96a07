//! What became of each call, by its number, and whether the server did with it what its caller was told.

use std::collections::BTreeMap;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has not ended.
    Open,
    /// It ended well, with what is its own.
    Well,
    /// It ended well, with what is not its own.
    Wrong,
    /// It failed, and is known not to have reached the server.
    NotSent,
    /// It failed otherwise: it may have been applied.
    Unknown,
    /// Its caller went away.
    GivenUp,
}

/// The calls of a run. Numbers are dense and begin with 1.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    fates: Vec<Option<Fate>>,
    /// Calls that ended once more.
    again: u64,
}

impl Ledger {
    pub(crate) fn called(&mut self, number: u64) {
        let place = place(number);
        if self.fates.len() <= place {
            self.fates.resize(place + 1, None);
        }
        self.fates[place] = Some(Fate::Open);
    }

    pub(crate) fn ended(&mut self, number: u64, fate: Fate) {
        match self.fates.get_mut(place(number)) {
            Some(open @ Some(Fate::Open)) => *open = Some(fate),
            _ => self.again += 1,
        }
    }

    /// What does not fit with how often the server has applied each call. A call that ended well was applied once, one that
    /// was not sent was not, every other once at most.
    pub(crate) fn against(&self, applied: &BTreeMap<u64, u64>) -> Vec<String> {
        let mut found = BTreeMap::<&str, Vec<u64>>::new();
        let mut note = |what, number| found.entry(what).or_default().push(number);
        for (place, fate) in self.fates.iter().enumerate() {
            let (number, Some(fate)) = (place as u64, fate) else {
                continue;
            };
            match (fate, applied.get(&number).copied().unwrap_or(0)) {
                (_, 2..) => note("were applied more than once", number),
                (Fate::Well | Fate::Wrong, 0) => note("ended well and were not applied", number),
                (Fate::NotSent, 1) => note("were applied though they were not sent", number),
                _ => {}
            }
        }
        for number in applied.keys() {
            if self.fates.get(place(*number)).copied().flatten().is_none() {
                note("were applied though nobody made them", *number);
            }
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(what, numbers)| {
                let first = numbers.first().copied().unwrap_or_default();
                format!("{} calls {what}, the first of them {first}", numbers.len())
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

    /// What is found of one call that became `fate` and was applied so often.
    fn found(fate: Fate, times: u64) -> usize {
        let mut ledger = Ledger::default();
        ledger.called(1);
        if fate != Fate::Open {
            ledger.ended(1, fate);
        }
        let applied = (times > 0).then_some((1, times));
        ledger.against(&applied.into_iter().collect()).len()
    }

    #[test]
    fn each_end_says_how_often_a_call_may_have_been_applied() {
        for (fate, allowed) in [
            (Fate::Open, [true, true, false]),
            (Fate::Well, [false, true, false]),
            (Fate::Wrong, [false, true, false]),
            (Fate::NotSent, [true, false, false]),
            (Fate::Unknown, [true, true, false]),
            (Fate::GivenUp, [true, true, false]),
        ] {
            let fits = [0, 1, 2].map(|times| found(fate, times) == 0);
            assert_eq!(fits, allowed, "{fate:?}");
        }
    }

    #[test]
    fn what_nobody_called_and_what_ends_twice_is_found() {
        let mut ledger = Ledger::default();
        ledger.called(1);
        ledger.ended(1, Fate::Well);
        ledger.ended(1, Fate::Well);
        let applied = BTreeMap::from([(1, 1), (2, 1)]);
        assert_eq!(
            ledger.against(&applied),
            [
                "1 calls were applied though nobody made them, the first of them 2",
                "1 calls ended more than once"
            ]
        );
    }
}
