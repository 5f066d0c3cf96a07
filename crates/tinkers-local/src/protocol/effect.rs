//! What the host has to do after a transition.

use super::ids::ExchangeId;
use crate::engine::{Job, JobId};
use crate::http::Answer;

/// What the host has to do after a transition, in this order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Answer an exchange; each is answered once.
    Respond(ExchangeId, Answer),
    /// Hand a job to the engine.
    Start(Job),
    /// Tell the engine that a job's result is no longer wanted.
    Cancel(JobId),
}
