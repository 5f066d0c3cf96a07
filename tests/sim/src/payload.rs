//! Contents of requests that identify the call which made the request: data, learning rates,
//! prompts and checkpoint names.

use tinkers::wire::Datum;
use tinkers_local::EngineError;

use crate::call_log::CallId;

/// The radix in which the tokens of a datum encode the number of the call to which the datum
/// belongs.
const DATUM_RADIX: u32 = 200;
/// The radix in which the tokens of a prompt encode the number of the call to which the prompt
/// belongs.
const PROMPT_RADIX: u32 = 250;
/// The first token of all prompts.
const PROMPT_START: u32 = 7;

/// Returns the data with which `call` makes a forward or forward-backward pass.
pub(crate) fn data(call: CallId, count: u32) -> Vec<Datum> {
    (0..count).map_while(|index| datum(call, index)).collect()
}

/// Returns the datum with the given index in the data of a call.
pub(crate) fn datum(call: CallId, index: u32) -> Option<Datum> {
    let tokens = [1 + call / DATUM_RADIX, 1 + call % DATUM_RADIX, 1 + index, 0];
    Datum::next_token(&tokens, vec![1.0; 3]).ok()
}

/// Returns the call to which a datum belongs, and the index of the datum in this call.
///
/// # Errors
/// Returns an error if the datum was not created by [`datum`].
pub(crate) fn call_of_datum(datum: &Datum) -> Result<(CallId, u32), EngineError> {
    match datum.model_input.tokens().as_deref() {
        Some([high, low, index, ..]) => Ok(((high - 1) * DATUM_RADIX + low - 1, index - 1)),
        _ => Err(EngineError::server("the datum is not of a simulated call")),
    }
}

/// Returns the learning rate with which `call` makes an optimizer step.
pub(crate) fn learning_rate(call: CallId) -> f64 {
    f64::from(call) * 1e-6
}

/// Returns the call that made an optimizer step with this learning rate.
pub(crate) fn call_of_learning_rate(rate: f64) -> CallId {
    (rate * 1e6).round() as CallId
}

/// Returns the prompt with which `call` requests a sample.
pub(crate) fn prompt(call: CallId) -> Vec<u32> {
    vec![PROMPT_START, call / PROMPT_RADIX, last_token(call)]
}

/// Returns the last token of the prompt with which `call` requests a sample.
pub(crate) fn last_token(call: CallId) -> u32 {
    call % PROMPT_RADIX
}

/// Returns the call that requested a sample with this prompt.
pub(crate) fn call_of_prompt(tokens: &[u64]) -> Option<CallId> {
    match tokens {
        [start, high, low] if *start == u64::from(PROMPT_START) => {
            u32::try_from(high * u64::from(PROMPT_RADIX) + low).ok()
        }
        _ => None,
    }
}

/// Returns the checkpoint name under which `call` saves. `is_state` distinguishes training states
/// from weights for sampling.
pub(crate) fn checkpoint_name(is_state: bool, call: CallId) -> String {
    format!("{}-{call}", if is_state { "state" } else { "export" })
}

/// Returns the call that saved the checkpoint at this path, and whether the checkpoint is a
/// training state.
pub(crate) fn call_of_checkpoint(path: &str) -> Option<(bool, CallId)> {
    let (kind, call) = path.rsplit('/').next()?.split_once('-')?;
    Some((kind == "state", call.parse().ok()?))
}
