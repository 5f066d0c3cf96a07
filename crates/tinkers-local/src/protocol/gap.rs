//! Numbers of a model that have no operation: refused ones pass, missing ones are waited for up to a bound.

use tinkers_core::Moment;

use super::agenda::Alarm;
use super::lane::{Failed, Gap};
use super::{Protocol, Stamp};
use crate::engine::EngineError;
use crate::read::Numbered;

impl Protocol {
    /// A request was refused: later ones of its model do not wait for its number.
    pub(crate) fn number_refused(&mut self, numbered: &Numbered) {
        if let Some(entry) = self.models.get_mut(&numbered.model) {
            entry.lane.refuse(numbered.number);
        }
    }

    /// A request came and met a fault or a full queue: its client will send it again, so the wait for its number begins anew.
    pub(crate) fn number_attempted(&mut self, at: Stamp, numbered: &Numbered) {
        if let Some(entry) = self.models.get_mut(&numbered.model) {
            let gaps = entry.lane.attempted(numbered.number, at.now);
            self.move_alarm(&numbered.model, gaps);
        }
    }

    /// Ends what will not run, and sees to it that what waits for a missing number is given up in time.
    pub(super) fn watch_gap(&mut self, at: Stamp, model: &str) {
        let Some(entry) = self.models.get_mut(model) else {
            return;
        };
        let failed = entry.lane.take_failed();
        let gaps = entry.lane.look_for_gap(at.now);
        self.move_alarm(model, gaps);
        for Failed {
            number,
            operation,
            refused,
        } in failed
        {
            let error = EngineError::user(format!(
                "seq_id {refused} of {model} was refused, so seq_id {number}, which was accepted before that, was not run; \
                 submit it again under a new number"
            ));
            self.conclude(at, operation, Err(error));
        }
    }

    fn move_alarm(&mut self, model: &str, [before, after]: [Option<Gap>; 2]) {
        if before == after {
            return;
        }
        let alarm = || Alarm::Gap(model.to_owned());
        if let Some(gap) = before {
            self.agenda.remove(self.gap_ends(gap), alarm());
        }
        if let Some(gap) = after {
            self.agenda.add(self.gap_ends(gap), alarm());
        }
    }

    fn gap_ends(&self, gap: Gap) -> Moment {
        gap.since.after(self.config.gap_timeout)
    }

    /// A number may have been waited for long enough: what waits for it fails, and the number has passed.
    pub(super) fn gap_is_due(&mut self, at: Stamp, model: &str) {
        let Some(entry) = self.models.get_mut(model) else {
            return;
        };
        let bound = self.config.gap_timeout;
        let Some(gap) = entry
            .lane
            .gap()
            .filter(|gap| gap.since.after(bound) <= at.now)
        else {
            return;
        };
        let missing = gap.number;
        let what = match entry.lane.is_refused(missing) {
            true => format!("was refused, and nothing came within {bound:?}"),
            false => format!("did not come within {bound:?}"),
        };
        let given_up = entry.lane.give_up_gap();
        tracing::warn!(
            model,
            missing,
            failed = given_up.len(),
            "a missing seq_id did not come within {bound:?}; the requests that waited for it fail"
        );
        for (number, operation) in given_up {
            let error = EngineError::user(format!(
                "seq_id {missing} of {model} {what}, so seq_id {number}, which waited for it, was not run; \
                 go on with the next number, or from the last checkpoint with a new model"
            ));
            self.conclude(at, operation, Err(error));
        }
        self.advance(model);
    }
}
