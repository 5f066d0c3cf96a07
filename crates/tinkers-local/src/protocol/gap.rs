//! Sequence numbers of a model that have no operation: refused numbers are skipped, and the wait for missing ones has a timeout.

use tinkers_core::Timestamp;

use super::state::agenda::Alarm;
use super::state::model_queue::{Failed, Gap};
use super::{Protocol, Stamp};
use crate::access::Owner;
use crate::engine::EngineError;
use crate::read::Numbered;

impl Protocol {
    /// Records that a request of an owner was refused. Later requests of the same model then do not wait for the sequence number of the
    /// refused request. Has no effect on models of other owners.
    pub(crate) fn number_refused(&mut self, owner: &Owner, numbered: &Numbered) {
        if self.records.owner_of_model(&numbered.model) != Some(owner) {
            return;
        }
        if let Some(queue) = self.models.queue_mut(&numbered.model) {
            queue.refuse(numbered.number);
        }
    }

    /// Records that a request arrived but was not accepted for now, because of an injected fault or a full queue. The client will
    /// send it again, so the timeout for its sequence number restarts. Has no effect on models of other owners.
    pub(crate) fn number_attempted(&mut self, at: Stamp, owner: &Owner, numbered: &Numbered) {
        if self.records.owner_of_model(&numbered.model) != Some(owner) {
            return;
        }
        if let Some(queue) = self.models.queue_mut(&numbered.model) {
            let gaps = queue.attempted(numbered.number, at.now);
            self.move_alarm(&numbered.model, gaps);
        }
    }

    /// Fails the operations of a model that will not run because a lower sequence number was refused. If operations wait for a
    /// missing sequence number, starts the timeout for it.
    pub(super) fn update_gap(&mut self, at: Stamp, model: &str) {
        let Some(queue) = self.models.queue_mut(model) else {
            return;
        };
        let failed = queue.take_failed();
        let gaps = queue.update_gap(at.now);
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

    fn gap_ends(&self, gap: Gap) -> Timestamp {
        gap.since.after(self.config.gap_timeout)
    }

    /// Handles the timeout for a missing sequence number of a model: fails the operations that wait for it. Afterwards, no request
    /// can use the missing sequence number.
    pub(super) fn gap_is_due(&mut self, at: Stamp, model: &str) {
        let Some(queue) = self.models.queue_mut(model) else {
            return;
        };
        let bound = self.config.gap_timeout;
        let gap = queue.gap();
        let Some(gap) = gap.filter(|gap| gap.since.after(bound) <= at.now) else {
            return;
        };
        let missing = gap.number;
        let what = match queue.is_refused(missing) {
            true => format!("was refused, and nothing came within {bound:?}"),
            false => format!("did not come within {bound:?}"),
        };
        let given_up = queue.give_up_gap();
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
