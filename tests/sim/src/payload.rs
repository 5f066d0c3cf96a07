//! Contents of requests that identify the call which made the request: data, learning rates,
//! prompts and checkpoint names.

use tinkers::wire::Datum;
use tinkers_local::EngineError;

use crate::call_log::CallId;

/// The radix in which the tokens of a training datum encode the number of the call that passes the
/// datum.
const DATUM_RADIX: u32 = 200;
/// The radix in which the tokens of a prompt encode the number of the call that requests the
/// sample.
const PROMPT_RADIX: u32 = 250;
/// The first token of all prompts.
const PROMPT_START: u32 = 7;

/// Returns the training data for a forward or forward-backward pass. The tokens of the data encode
/// the number `call`, so that the engine knows which call passed them.
pub(crate) fn data(call: CallId, count: u32) -> Vec<Datum> {
    (0..count).map_while(|index| datum(call, index)).collect()
}

/// Returns the datum number `index` of a pass. Its tokens encode `call` and `index`. Returns `None`
/// if no valid datum can encode them.
pub(crate) fn datum(call: CallId, index: u32) -> Option<Datum> {
    let tokens = [1 + call / DATUM_RADIX, 1 + call % DATUM_RADIX, 1 + index, 0];
    Datum::next_token(&tokens, vec![1.0; 3]).ok()
}

/// Decodes the tokens of a datum: returns the call that passed the datum, and the index of the
/// datum in this call.
///
/// # Errors
/// Returns an error if the datum was not created by [`datum`].
pub(crate) fn call_of_datum(datum: &Datum) -> Result<(CallId, u32), EngineError> {
    match datum.model_input.tokens().as_deref() {
        Some([high, low, index, ..]) => Ok(((high - 1) * DATUM_RADIX + low - 1, index - 1)),
        _ => Err(EngineError::server("the datum is not of a simulated call")),
    }
}

/// Returns the learning rate of an optimizer step. It encodes the number `call`, so that the engine
/// knows which call made the step.
pub(crate) fn learning_rate(call: CallId) -> f64 {
    f64::from(call) * 1e-6
}

/// Decodes the learning rate of an optimizer step: returns the call that made the step.
pub(crate) fn call_of_learning_rate(rate: f64) -> CallId {
    (rate * 1e6).round() as CallId
}

/// Returns the prompt of a sample. Its tokens encode the number `call`, so that the engine knows
/// which call requested the sample.
pub(crate) fn prompt(call: CallId) -> Vec<u32> {
    vec![PROMPT_START, call / PROMPT_RADIX, last_token(call)]
}

/// Returns the last token of the prompt that encodes `call`.
pub(crate) fn last_token(call: CallId) -> u32 {
    call % PROMPT_RADIX
}

/// Decodes the prompt of a sample: returns the call that requested the sample.
pub(crate) fn call_of_prompt(tokens: &[u64]) -> Option<CallId> {
    match tokens {
        [start, high, low] if *start == u64::from(PROMPT_START) => {
            u32::try_from(high * u64::from(PROMPT_RADIX) + low).ok()
        }
        _ => None,
    }
}

/// Returns the name of the checkpoint that a call saves. It encodes the number `call`, so that the
/// engine knows which call saved the checkpoint. `is_state` distinguishes training states from
/// weights for sampling.
pub(crate) fn checkpoint_name(is_state: bool, call: CallId) -> String {
    format!("{}-{call}", if is_state { "state" } else { "export" })
}

/// Decodes the path of a checkpoint: returns whether it is a training state, and the call that
/// saved it.
pub(crate) fn call_of_checkpoint(path: &str) -> Option<(bool, CallId)> {
    let (kind, call) = path.rsplit('/').next()?.split_once('-')?;
    Some((kind == "state", call.parse().ok()?))
}
