//! Checks of data against a model, before a job is started.

use tinkers_wire::{
    AdamParams, Datum, InvalidInput, LossFn, ModelInput, PassRequest, TensorData, loss_input_dtype,
};

use super::losses::{self, fits_f32};
use crate::engine::BaseModel;
use crate::read::Refusal;

/// The maximum number of most likely tokens, per position, that a sample request may ask for.
pub(super) const MAX_TOP_K: u32 = 1024;

/// The maximum total number of values (including zeros) in the sparse tensors of one forward or backward request. A small request
/// body can describe huge sparse tensors, and an engine may expand them to dense tensors.
const MAX_SPARSE_CELLS: usize = 1 << 25;

/// Checks the data and the loss function of a forward or backward pass. `prefix` is the path of this input in the request body, for
/// error messages.
pub(super) fn pass(
    base: &BaseModel,
    known: &[LossFn],
    prefix: &str,
    pass: &PassRequest,
) -> Result<(), Refusal> {
    if pass.data.is_empty() {
        return Err(Refusal::field(
            &format!("{prefix}data"),
            "expected at least one datum, got none",
        ));
    }
    losses::check(known, &pass.loss).map_err(|error| Refusal::invalid(prefix, &error))?;
    let mut cells = MAX_SPARSE_CELLS;
    for (i, datum) in pass.data.iter().enumerate() {
        check_datum(base, pass, datum, &mut cells)
            .map_err(|error| Refusal::invalid(&format!("{prefix}data[{i}]."), &error))?;
    }
    Ok(())
}

/// Checks the parameters of an optimizer step.
pub(super) fn adam(params: &AdamParams) -> Result<(), InvalidInput> {
    params.validate()?;
    let fields = [
        ("learning_rate", Some(params.learning_rate)),
        ("eps", params.eps),
        ("weight_decay", params.weight_decay),
        ("grad_clip_norm", params.grad_clip_norm),
    ];
    for (field, value) in fields {
        if let Some(value) = value.filter(|value| !fits_f32(*value)) {
            let expected = format!("a number that fits 32 bits, got {value}");
            return Err(InvalidInput::new(field, expected));
        }
    }
    Ok(())
}

/// Checks a datum (a training example). Subtracts the number of values in its sparse tensors from `cells`, the number of such
/// values that the request may still contain.
fn check_datum(
    base: &BaseModel,
    pass: &PassRequest,
    datum: &Datum,
    cells: &mut usize,
) -> Result<(), InvalidInput> {
    for name in pass.loss.name.required_inputs() {
        if !datum.loss_fn_inputs.contains_key(*name) {
            let expected = format!("a tensor, which {} needs", pass.loss.name);
            return Err(InvalidInput::new(
                format!("loss_fn_inputs.{name}"),
                expected,
            ));
        }
    }
    if let Some(inputs) = pass.loss.name.inputs()
        && let Some(name) =
            (datum.loss_fn_inputs.keys()).find(|name| !inputs.contains(&name.as_str()))
    {
        let expected = format!("an input of {}: {}", pass.loss.name, inputs.join(", "));
        return Err(InvalidInput::new(
            format!("loss_fn_inputs.{name}"),
            expected,
        ));
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
    let targets = datum.loss_fn_inputs.get("target_tokens");
    for (name, tensor) in &datum.loss_fn_inputs {
        check_tensor(base, name, tensor, cells)
            .and_then(|()| same_shape(name, tensor, targets))
            .map_err(|error| error.within("loss_fn_inputs."))?;
    }
    let ids = targets.and_then(|targets| targets.as_i64());
    let beyond = ids.and_then(|ids| ids.iter().find(|id| **id >= i64::from(base.vocab_size)));
    match beyond {
        Some(id) => Err(outside("loss_fn_inputs.target_tokens", base, *id)),
        None => Ok(()),
    }
}

fn check_tensor(
    base: &BaseModel,
    name: &str,
    tensor: &TensorData,
    cells: &mut usize,
) -> Result<(), InvalidInput> {
    if let Some(dtype) = loss_input_dtype(name).filter(|dtype| *dtype != tensor.dtype()) {
        let expected = format!("{} data, got {}", dtype.name(), tensor.dtype().name());
        return Err(InvalidInput::new(name, expected));
    }
    let shape = tensor.shape();
    // A sparse tensor can have a large shape and no values, and an engine may expand it.
    if shape.is_empty()
        || shape.len() > 2
        || shape
            .get(1)
            .is_some_and(|side| *side > base.vocab_size as usize)
    {
        let expected = format!(
            "one or two dimensions, the second of {} at most, got {shape:?}",
            base.vocab_size
        );
        return Err(InvalidInput::new(name, expected));
    }
    if tensor.csr_indices().is_some() {
        let held: usize = shape.iter().fold(1, |all, side| all.saturating_mul(*side));
        *cells = cells.checked_sub(held).ok_or_else(|| {
            let expected = format!(
                "sparse tensors of at most {MAX_SPARSE_CELLS} cells in one request, zeros counted; send fewer data"
            );
            InvalidInput::new(name, expected)
        })?;
    }
    Ok(())
}

/// Checks that a tensor such as `weights` has as many columns as the target tokens. A tensor with one dimension counts as one
/// column.
fn same_shape(
    name: &str,
    tensor: &TensorData,
    targets: Option<&TensorData>,
) -> Result<(), InvalidInput> {
    let Some(targets) = targets.filter(|_| ["weights", "logprobs", "advantages"].contains(&name))
    else {
        return Ok(());
    };
    let columns = |tensor: &TensorData| tensor.shape().get(1).copied().unwrap_or(1);
    if columns(tensor) == columns(targets) {
        return Ok(());
    }
    let expected = format!(
        "the shape of target_tokens, {:?}, got {:?}",
        targets.shape(),
        tensor.shape()
    );
    Err(InvalidInput::new(name, expected))
}

/// Checks that a model input consists of text tokens only and that all of them are in the model's vocabulary.
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
