//! Whether data fit a model: all that can be told before a job starts.

use tinkers_wire::{Datum, InvalidInput, LossFn, ModelInput, PassRequest};

use crate::engine::BaseModel;
use crate::read::Refusal;

/// The longest list of likeliest tokens that is reported.
pub(super) const MAX_TOP_K: u32 = 1024;

/// Checks a pass; `way` leads to its input in the body.
pub(super) fn pass(base: &BaseModel, way: &str, pass: &PassRequest) -> Result<(), Refusal> {
    if pass.data.is_empty() {
        return Err(Refusal::field(
            &format!("{way}data"),
            "expected at least one datum, got none",
        ));
    }
    if let LossFn::Other(name) = &pass.loss.name
        && let Err(error) = name.parse::<LossFn>()
    {
        return Err(Refusal::invalid(way, &error));
    }
    pass.loss
        .validate()
        .map_err(|error| Refusal::invalid(way, &error))?;
    for (i, datum) in pass.data.iter().enumerate() {
        check_datum(base, pass, datum)
            .map_err(|error| Refusal::invalid(&format!("{way}data[{i}]."), &error))?;
    }
    Ok(())
}

fn check_datum(base: &BaseModel, pass: &PassRequest, datum: &Datum) -> Result<(), InvalidInput> {
    for name in pass.loss.name.required_inputs() {
        if !datum.loss_fn_inputs.contains_key(*name) {
            let expected = format!("a tensor, which {} needs", pass.loss.name);
            return Err(InvalidInput::new(
                format!("loss_fn_inputs.{name}"),
                expected,
            ));
        }
    }
    check_input(base, "model_input", &datum.model_input)?;
    let longest = base.max_context_length as usize;
    let positions = datum.model_input.len().unwrap_or(0);
    if positions > longest {
        let expected = format!(
            "at most {longest} tokens, the context of {}, got {positions}",
            base.name
        );
        return Err(InvalidInput::new("model_input", expected));
    }
    datum.validate()?;
    for (name, tensor) in &datum.loss_fn_inputs {
        let shape = tensor.shape();
        // A sparse tensor may claim any width without holding anything, and an engine may make it dense.
        if shape.len() > 2
            || shape
                .get(1)
                .is_some_and(|side| *side > base.vocab_size as usize)
        {
            let expected = format!(
                "one or two dimensions, the second of {} at most, got {shape:?}",
                base.vocab_size
            );
            return Err(InvalidInput::new(
                format!("loss_fn_inputs.{name}"),
                expected,
            ));
        }
    }
    let targets = datum
        .loss_fn_inputs
        .get("target_tokens")
        .and_then(|targets| targets.as_i64());
    let beyond = targets.and_then(|ids| ids.iter().find(|id| **id >= i64::from(base.vocab_size)));
    match beyond {
        Some(id) => Err(outside("loss_fn_inputs.target_tokens", base, *id)),
        None => Ok(()),
    }
}

/// Checks that an input is text of the model's vocabulary.
pub(super) fn check_input(
    base: &BaseModel,
    name: &str,
    input: &ModelInput,
) -> Result<(), InvalidInput> {
    for (i, chunk) in input.chunks.iter().enumerate() {
        let tinkers_wire::Chunk::EncodedText(tokens) = chunk else {
            let field = format!("{name}.chunks[{i}].type");
            return Err(InvalidInput::new(
                field,
                format_args!("encoded_text, all that {} takes", base.name),
            ));
        };
        if let Some(token) = tokens.iter().find(|token| **token >= base.vocab_size) {
            return Err(outside(
                &format!("{name}.chunks[{i}].tokens"),
                base,
                i64::from(*token),
            ));
        }
    }
    Ok(())
}

fn outside(field: &str, base: &BaseModel, token: i64) -> InvalidInput {
    let expected = format!(
        "token ids below {}, the vocabulary of {}, got {token}",
        base.vocab_size, base.name
    );
    InvalidInput::new(field, expected)
}
