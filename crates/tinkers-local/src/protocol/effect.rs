//! The effects of a state transition.

use super::ids::ExchangeId;
use crate::engine::{Job, JobId};
use crate::http::LazyResponse;
use crate::store::Change;

/// An action that follows from a change of the protocol state, such as sending a response. The protocol does no I/O itself: the
/// code that uses it has to execute the effects, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Sends the response to a request. Each request gets exactly one response.
    Respond(ExchangeId, LazyResponse),
    /// Starts a job on the engine.
    Start(Job),
    /// Cancels a job on the engine.
    Cancel(JobId),
    /// Writes these changes to the store. The responses of this transition, and those of later ones, are sent when the changes are
    /// stored.
    Store(Vec<Change>),
}
