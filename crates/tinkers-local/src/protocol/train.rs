//! Passes and optimizer steps.

use tinkers_wire::{OptimStep, PassRequest};

use super::state::operations::Goal;
use super::{Protocol, Stamp, check};
use crate::engine::Work;
use crate::http::Answer;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// `POST /forward` and `POST /forward_backward`; `way` is the path of the input in the body.
    pub(super) fn pass(
        &mut self,
        at: Stamp,
        body: PassRequest,
        way: &str,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let model = body.model_id.clone();
        if let Some(answer) = self.repeated(at, &model, body.seq_id, digest)? {
            return Ok(answer);
        }
        let base = self.models.usable(&model)?.base();
        check::pass(base, self.catalog.losses(), way, &body)?;
        let work = Work::Pass {
            model: body.model_id,
            mode: body.mode,
            data: body.data,
            loss: body.loss,
        };
        Ok(self.accept(at, &model, body.seq_id, digest, Goal::Compute, work))
    }

    /// `POST /optim_step`.
    pub(super) fn optim_step(
        &mut self,
        at: Stamp,
        body: &OptimStep,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let model = &body.model_id;
        if let Some(answer) = self.repeated(at, model, body.seq_id, digest)? {
            return Ok(answer);
        }
        let params = body.adam_params;
        check::adam(&params).map_err(|error| Refusal::invalid("adam_params.", &error))?;
        let work = Work::OptimStep {
            model: model.clone(),
            params,
        };
        Ok(self.accept(at, model, body.seq_id, digest, Goal::Compute, work))
    }
}
