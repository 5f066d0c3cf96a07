//! Conversion of forward and backward requests to the engine's types, and of their results back to the wire types.

use std::collections::BTreeMap;

use tinkers_wire::{
    Datum, ForwardBackwardOutput, LossConfigValue, LossFnOutput, PassMode, TensorData, TensorValues,
};

use super::convert::{Dense, dense_f32, dense_i64};
use crate::error::{Error, Result};
use crate::loss::{LossFunction, LossInputs};
use crate::threads::Threads;
use crate::train::{Example, Mode, TrainableModel};

pub(super) fn run(
    threads: &Threads,
    trainable: &mut TrainableModel,
    mode: PassMode,
    data: &[Datum],
    loss: &tinkers_wire::Loss,
) -> Result<ForwardBackwardOutput> {
    let inputs = loss.name.inputs();
    let loss = parse(loss)?;
    let examples = data
        .iter()
        .enumerate()
        .map(|(index, datum)| example(index, datum, &loss, inputs.unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    let mode = match mode {
        PassMode::Forward => Mode::Forward,
        PassMode::ForwardBackward => Mode::ForwardBackward,
    };
    let result = trainable.pass(threads, &examples, &loss, mode)?;
    let outputs = Vec::with_capacity(examples.len());
    let output = ForwardBackwardOutput::new("ArrayRecord", outputs);
    let mut output = output.with_metrics(result.metrics);
    let values = result.log_probs.into_iter().zip(result.losses);
    for (example, (log_probs, losses)) in examples.iter().zip(values) {
        let shape = |len: usize| match len / example.tokens.len() {
            1 => vec![len],
            columns => vec![example.tokens.len(), columns],
        };
        let tensor = |values: Vec<f32>| {
            let shape = shape(values.len());
            TensorData::dense(TensorValues::F32(values.into()), shape)
                .map_err(|e| Error::Model(format!("cannot build an output tensor: {e}")))
        };
        output.loss_fn_outputs.push(LossFnOutput::from([
            ("logprobs".to_owned(), tensor(log_probs)?),
            ("elementwise_loss".to_owned(), tensor(losses)?),
        ]));
    }
    Ok(output)
}

fn parse(loss: &tinkers_wire::Loss) -> Result<LossFunction> {
    let mut options = BTreeMap::new();
    for (name, value) in &loss.config {
        match value {
            LossConfigValue::Number(number) => options.insert(name.clone(), *number),
            LossConfigValue::Text(text) => {
                return Err(Error::input(
                    format!("loss_fn_config.{name}"),
                    format!("is the string {text:?}, expected a number"),
                ));
            }
        };
    }
    LossFunction::parse(loss.name.name(), &options)
}

fn example(index: usize, datum: &Datum, loss: &LossFunction, known: &[&str]) -> Result<Example> {
    let at = |field: &str| format!("data[{index}].{field}");
    let tokens = datum.model_input.tokens().ok_or_else(|| {
        Error::input(
            at("model_input"),
            "contains other chunks than text, expected only tokens",
        )
    })?;
    if let Some(name) = datum
        .loss_fn_inputs
        .keys()
        .find(|name| !known.contains(&name.as_str()))
    {
        return Err(Error::input(
            at(&format!("loss_fn_inputs.{name}")),
            format!(
                "is not an input of this loss, expected {}",
                known.join(", ")
            ),
        ));
    }
    let input = |name: &str| datum.loss_fn_inputs.get(name);
    let needed = |name: &str| {
        let field = at(&format!("loss_fn_inputs.{name}"));
        input(name).ok_or_else(|| Error::input(field, "is missing"))
    };
    let field = at("loss_fn_inputs.target_tokens");
    let targets = dense_i64(&field, needed("target_tokens")?, -1)?;
    if targets.rows != tokens.len() {
        let (found, expected) = (targets.rows, tokens.len());
        return Err(Error::input(
            field,
            format!("has {found} rows, expected {expected}, one for each position"),
        ));
    }
    let floats = |name: &str| {
        let field = at(&format!("loss_fn_inputs.{name}"));
        let dense = dense_f32(&field, needed(name)?)?;
        check_shape(&field, &dense, &targets)?;
        Ok::<_, Error>(dense.values)
    };
    let loss_inputs = match loss.is_policy() {
        false if input("weights").is_none() => LossInputs::Weights(vec![1.0; targets.values.len()]),
        false => LossInputs::Weights(floats("weights")?),
        true => LossInputs::Policy {
            sampler: floats("logprobs")?,
            advantages: floats("advantages")?,
        },
    };
    Ok(Example {
        tokens,
        targets: target_ids(&field, &targets.values)?,
        loss_inputs,
    })
}

fn check_shape(field: &str, have: &Dense<f32>, want: &Dense<i64>) -> Result<()> {
    if (have.rows, have.values.len()) == (want.rows, want.values.len()) {
        return Ok(());
    }
    let found = have.values.len();
    let expected = want.values.len();
    Err(Error::input(
        field,
        format!("has {found} values, expected {expected}, one for each target"),
    ))
}

/// Converts target ids to target tokens. The id -1 pads sparse rows. This id becomes `None`, a missing target token.
fn target_ids(field: &str, values: &[i64]) -> Result<Vec<Option<u32>>> {
    let id = |&value: &i64| match value {
        -1 => Ok(None),
        value => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::input(field, format!("holds {value}, expected a token id"))),
    };
    values.iter().map(id).collect()
}
