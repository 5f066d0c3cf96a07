//! Short texts, and functions that train on them.

use tinkers::prelude::*;

use crate::context::Settings;
use crate::verdict::{CheckError, ensure};

/// The lowest token id in the training texts. Lower ids are special tokens in many vocabularies.
const FIRST: u32 = 3;

/// Returns a text of `length` tokens that follow a regular pattern, so that a model can learn to
/// predict them. `number` selects the pattern.
pub(crate) fn tokens(settings: &Settings, number: u32, length: u32) -> Vec<u32> {
    let span = settings.vocabulary.saturating_sub(FIRST).max(1);
    let token = |at: u32| FIRST + (number * 17 + at * (number % 5 + 2)) % span;
    (0..length).map(token).collect()
}

/// Creates a datum for next-token prediction in which every weight is 1.
pub(crate) fn datum(tokens: &[u32]) -> Result<Datum, Error> {
    let weights = vec![1.0; tokens.len() - 1];
    Ok(Datum::next_token(tokens, weights)?)
}

/// Creates `count` training data, each with `length` tokens.
pub(crate) fn data(settings: &Settings, count: u32, length: u32) -> Vec<Datum> {
    let one = |number| datum(&tokens(settings, number, length));
    (0..count).filter_map(|number| one(number).ok()).collect()
}

/// Extracts the log-probabilities of the target tokens of each datum from the output of a training
/// call.
pub(crate) fn logprobs(
    output: &tinkers::ForwardBackwardOutput,
    data: usize,
) -> Result<Vec<Vec<f32>>, CheckError> {
    let outputs = &output.loss_fn_outputs;
    ensure(outputs.len() == data, || {
        format!("expected outputs for {data} data, got {}", outputs.len())
    })?;
    let of = |(at, output): (usize, &tinkers::wire::LossFnOutput)| {
        let tensor = output.get("logprobs").and_then(TensorData::as_f32);
        let values = tensor.ok_or_else(|| {
            let names: Vec<&String> = output.keys().collect();
            CheckError::failed(format!(
                "output {at} has no float tensor logprobs, only {names:?}"
            ))
        })?;
        ensure(values.iter().all(|value| value.is_finite()), || {
            format!("output {at} has log-probabilities that are not finite: {values:?}")
        })?;
        Ok(values.to_vec())
    };
    outputs.iter().enumerate().map(of).collect()
}

/// Returns the mean loss per token, computed from the log-probabilities of the target tokens.
pub(crate) fn loss(logprobs: &[Vec<f32>]) -> f64 {
    let all = logprobs.iter().flatten();
    let count = all.clone().count().max(1);
    -all.map(|value| f64::from(*value)).sum::<f64>() / count as f64
}

/// Runs `steps` training steps on `data`. Returns the losses: one before each step, and one after
/// the last step.
pub(crate) async fn train(
    client: &TrainingClient,
    data: &[Datum],
    steps: usize,
) -> Result<Vec<f64>, CheckError> {
    let mut losses = Vec::new();
    for _ in 0..steps {
        losses.push(loss(&step(client, data, 1e-2).await?));
    }
    losses.push(loss(&current_logprobs(client, data).await?));
    Ok(losses)
}

/// Runs a `forward_backward` call and an optimizer step with `learning_rate`. Returns the
/// log-probabilities before the step.
async fn step(
    client: &TrainingClient,
    data: &[Datum],
    learning_rate: f64,
) -> Result<Vec<Vec<f32>>, CheckError> {
    let pass = client.forward_backward(data.to_vec(), LossFn::CrossEntropy);
    let step = client.optim_step(AdamParams::new(learning_rate));
    let found = logprobs(&pass.await?, data.len())?;
    step.await?;
    Ok(found)
}

/// Returns the log-probabilities that the current weights give to `data`.
pub(crate) async fn current_logprobs(
    client: &TrainingClient,
    data: &[Datum],
) -> Result<Vec<Vec<f32>>, CheckError> {
    let output = client.forward(data.to_vec(), LossFn::CrossEntropy).await?;
    logprobs(&output, data.len())
}

/// The largest accepted difference between log-probabilities of the same weights. A server may
/// compute them in batches of other shapes and in half precision.
pub(crate) const TOLERANCE: f32 = 0.02;

/// Checks that the server trains a real model. An optimizer step with a normal learning rate must
/// change the log-probabilities of the trained model, and a step with a tiny learning rate must
/// not. The log-probabilities of another model, `other`, must not change.
pub(crate) async fn check_learning(
    client: &TrainingClient,
    other: &TrainingClient,
    data: &[Datum],
) -> Result<(), CheckError> {
    let untouched = current_logprobs(other, data).await?.concat();
    let before = step(client, data, 1e-12).await?.concat();
    let same = step(client, data, 1e-2).await?.concat();
    let moved = current_logprobs(client, data).await?.concat();
    let unchanged = current_logprobs(other, data).await?.concat();
    ensure(distance(&before, &same) < TOLERANCE, || {
        "a step with learning rate 1e-12 changes log-probabilities; the server may ignore the learning rate".to_owned()
    })?;
    ensure(distance(&same, &moved) > TOLERANCE, || {
        "a step with learning rate 1e-2 changes no log-probability; use --mock if the server has no real model"
            .to_owned()
    })?;
    ensure(distance(&untouched, &unchanged) < TOLERANCE, || {
        "steps of one model change log-probabilities of another; use --mock if the server has no real model"
            .to_owned()
    })
}

/// Returns the largest absolute difference between corresponding elements of two slices. Returns
/// infinity if the lengths differ or if a value is not finite.
pub(crate) fn distance(one: &[f32], other: &[f32]) -> f32 {
    if one.len() != other.len() {
        return f32::INFINITY;
    }
    let apart = |(one, other): (&f32, &f32)| match (one - other).abs() {
        apart if apart.is_nan() => f32::INFINITY,
        apart => apart,
    };
    one.iter().zip(other).map(apart).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_of_vectors_with_nan_or_unequal_lengths_is_infinite() {
        assert_eq!(distance(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
        for other in [&[1.0, f32::NAN][..], &[1.0], &[1.0, f32::INFINITY]] {
            assert_eq!(distance(&[1.0, 2.0], other), f32::INFINITY, "{other:?}");
        }
    }
}
