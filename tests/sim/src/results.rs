//! Whether the result of a call is its own, and what of it the program keeps.

use tinkers::{ForwardBackwardOutput, SampleResponse, SamplingClient};

use crate::book::CallId;
use crate::ledger;
use crate::real::RealEngine;

/// What a call gave.
pub(crate) enum Gift {
    Nothing,
    Saved(String),
    Sampler(SamplingClient),
}

/// Of a pass: an output for each datum.
pub(crate) fn passed(output: &ForwardBackwardOutput, count: u8) -> Result<Gift, String> {
    match output.loss_fn_outputs.len() {
        len if len == usize::from(count) => Ok(Gift::Nothing),
        len => Err(format!("{count} data and {len} outputs")),
    }
}

/// Of a save: the path that names its call.
pub(crate) fn saved_by(call: CallId, path: &str) -> Result<Gift, String> {
    match ledger::call_of(path) {
        Some((true, found)) if found == call => Ok(Gift::Saved(path.to_owned())),
        _ => Err(format!("call {call} saved {path}")),
    }
}

/// Of a sample: the tokens that belong to its prompt.
pub(crate) fn sampled(
    reply: &SampleResponse,
    last: u32,
    real: Option<&RealEngine>,
) -> Result<Gift, String> {
    let Some(sequence) = reply.sequences.first() else {
        return Err("no sequence".to_owned());
    };
    let is_own = match real {
        Some(real) => real.has_sampled(last, &sequence.tokens),
        None => sequence.tokens[..] == [last + 1, last + 2].map(|token| token % 256),
    };
    match is_own {
        true => Ok(Gift::Nothing),
        false => Err(format!(
            "a prompt that ends in {last} gave {:?}",
            sequence.tokens
        )),
    }
}
