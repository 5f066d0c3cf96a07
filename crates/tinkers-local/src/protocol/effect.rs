//! The effects of a state transition.

use super::ids::ExchangeId;
use crate::engine::{Job, JobId};
use crate::http::LazyResponse;

/// An action that the host has to execute after a transition of the protocol state. The host executes the effects in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Sends the response of an exchange, exactly once.
    Respond(ExchangeId, LazyResponse),
    /// Starts a job on the engine.
    Start(Job),
    /// Cancels a job on the engine.
    Cancel(JobId),
}
