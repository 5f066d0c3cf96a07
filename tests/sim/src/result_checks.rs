//! Checks that a call has returned its own result, and not that of another call.

use tinkers::{ForwardBackwardOutput, SampleResponse, SamplingClient};

use crate::call_log::CallId;
use crate::payload;
use crate::real_engine::RealEngine;

/// The part of a call's result that the program keeps for later calls.
pub(crate) enum KeptResult {
    Nothing,
    /// The path of a saved training state.
    State(String),
    Sampler(SamplingClient),
}

/// Checks that a forward or forward-backward pass has returned one output for each of its `count`
/// data.
pub(crate) fn check_pass(output: &ForwardBackwardOutput, count: u8) -> Result<KeptResult, String> {
    match output.loss_fn_outputs.len() {
        outputs if outputs == usize::from(count) => Ok(KeptResult::Nothing),
        outputs => Err(format!("{outputs} outputs for {count} data")),
    }
}

/// Checks that a save has returned the path of a checkpoint with the name that `call` has chosen.
pub(crate) fn check_save(call: CallId, path: &str) -> Result<KeptResult, String> {
    match payload::call_of_checkpoint(path) {
        Some((true, found)) if found == call => Ok(KeptResult::State(path.to_owned())),
        _ => Err(format!("call {call} saved {path}")),
    }
}

/// Checks that a sample has returned the tokens for its own prompt, which ends with `last_token`,
/// and not for another prompt.
pub(crate) fn check_sample(
    response: &SampleResponse,
    last_token: u32,
    real: Option<&RealEngine>,
) -> Result<KeptResult, String> {
    let Some(sequence) = response.sequences.first() else {
        return Err("no sequence".to_owned());
    };
    let tokens = &sequence.tokens;
    let is_own = match real {
        Some(real) => real.has_sampled(last_token, tokens),
        // The scripted engine returns consecutive tokens that follow the last token of the prompt.
        None => tokens[..] == [last_token + 1, last_token + 2].map(|token| token % 256),
    };
    match is_own {
        true => Ok(KeptResult::Nothing),
        false => Err(format!(
            "the prompt with the last token {last_token} gave {tokens:?}"
        )),
    }
}
