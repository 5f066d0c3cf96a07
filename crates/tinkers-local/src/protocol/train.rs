//! Forward and backward passes, and optimizer steps.

use tinkers_wire::{OptimStep, PassRequest};

use super::state::operations::Goal;
use super::{Protocol, Stamp, check};
use crate::engine::Work;
use crate::http::LazyResponse;
use crate::read::{Digest, Refusal};

impl Protocol {
    /// Handles `POST /forward` and `POST /forward_backward`: checks the request and queues a forward or backward pass. `prefix` is
    /// the path of the data and the loss function in the request body, for error messages.
    pub(super) fn pass(
        &mut self,
        at: Stamp,
        body: PassRequest,
        prefix: &str,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let model = body.model_id.clone();
        if let Some(response) = self.repeated(at, &model, body.seq_id, digest)? {
            return Ok(response);
        }
        let base = self.models.usable(&model)?.base();
        check::pass(base, self.catalog.losses(), prefix, &body)?;
        let data = body.data.iter();
        let tokens = data.map(|datum| datum.model_input.len().unwrap_or(0) as u64);
        let goal = Goal::Pass(body.mode, tokens.sum());
        let work = Work::Pass {
            model: body.model_id,
            mode: body.mode,
            data: body.data,
            loss: body.loss,
        };
        Ok(self.accept(at, &model, body.seq_id, digest, goal, work))
    }

    /// Handles `POST /optim_step`: checks the request and queues an optimizer step.
    pub(super) fn optim_step(
        &mut self,
        at: Stamp,
        body: &OptimStep,
        digest: Digest,
    ) -> Result<LazyResponse, Refusal> {
        let model = &body.model_id;
        if let Some(response) = self.repeated(at, model, body.seq_id, digest)? {
            return Ok(response);
        }
        let params = body.adam_params;
        check::adam(&params).map_err(|error| Refusal::invalid("adam_params.", &error))?;
        let work = Work::OptimStep {
            model: model.clone(),
            params,
        };
        Ok(self.accept(at, model, body.seq_id, digest, Goal::Step, work))
    }
}
