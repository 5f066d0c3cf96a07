//! Small texts, and the loss on them.

use tinkers::prelude::*;

use crate::context::Setting;
use crate::verdict::{Stop as Ended, ensure};

/// The first token that is used: those below have a meaning in many vocabularies.
const FIRST: u32 = 3;

/// `length` tokens that follow a rule, another one for each `number`, so that a model can learn them.
pub(crate) fn tokens(setting: &Setting, number: u32, length: u32) -> Vec<u32> {
    let span = setting.vocabulary.saturating_sub(FIRST).max(1);
    let token = |at: u32| FIRST + (number * 17 + at * (number % 5 + 2)) % span;
    (0..length).map(token).collect()
}

/// One text as a datum of next-token prediction, each token of weight 1.
pub(crate) fn datum(tokens: &[u32]) -> Result<Datum, Error> {
    let weights = vec![1.0; tokens.len() - 1];
    Ok(Datum::next_token(tokens, weights)?)
}

/// `count` texts of `length` tokens.
pub(crate) fn data(setting: &Setting, count: u32, length: u32) -> Vec<Datum> {
    let one = |number| datum(&tokens(setting, number, length));
    (0..count).filter_map(|number| one(number).ok()).collect()
}

/// The log-probabilities of the targets, for each datum.
pub(crate) fn logprobs(
    output: &tinkers::ForwardBackwardOutput,
    data: usize,
) -> Result<Vec<Vec<f32>>, Ended> {
    let outputs = &output.loss_fn_outputs;
    ensure(outputs.len() == data, || {
        format!(
            "{data} data were sent and outputs for {} came",
            outputs.len()
        )
    })?;
    let of = |(at, output): (usize, &tinkers::wire::LossFnOutput)| {
        let tensor = output.get("logprobs").and_then(TensorData::as_f32);
        let values = tensor.ok_or_else(|| {
            let names: Vec<&String> = output.keys().collect();
            Ended::failed(format!("output {at} has no float logprobs but {names:?}"))
        })?;
        ensure(values.iter().all(|value| value.is_finite()), || {
            format!("output {at} has log-probabilities that are no numbers: {values:?}")
        })?;
        Ok(values.to_vec())
    };
    outputs.iter().enumerate().map(of).collect()
}

/// The mean loss per token.
pub(crate) fn loss(logprobs: &[Vec<f32>]) -> f64 {
    let all = logprobs.iter().flatten();
    let count = all.clone().count().max(1);
    -all.map(|value| f64::from(*value)).sum::<f64>() / count as f64
}

/// So many passes and steps on `data`, each awaited: the loss before each step, and after the last.
pub(crate) async fn train(
    client: &TrainingClient,
    data: &[Datum],
    steps: usize,
) -> Result<Vec<f64>, Ended> {
    let mut losses = Vec::new();
    for _ in 0..steps {
        losses.push(loss(&step(client, data, 1e-2).await?));
    }
    losses.push(loss(&look(client, data).await?));
    Ok(losses)
}

/// One pass and one step of this size; the log-probabilities before it.
async fn step(client: &TrainingClient, data: &[Datum], size: f64) -> Result<Vec<Vec<f32>>, Ended> {
    let pass = client.forward_backward(data.to_vec(), LossFn::CrossEntropy);
    let step = client.optim_step(AdamParams::new(size));
    let found = logprobs(&pass.await?, data.len())?;
    step.await?;
    Ok(found)
}

/// The log-probabilities that the weights give now.
pub(crate) async fn look(client: &TrainingClient, data: &[Datum]) -> Result<Vec<Vec<f32>>, Ended> {
    let output = client.forward(data.to_vec(), LossFn::CrossEntropy).await?;
    logprobs(&output, data.len())
}

/// How far log-probabilities of the same weights may lie apart: computed in batches of another shape, in half precision.
pub(crate) const SAME: f32 = 0.02;

/// Fails unless results depend on the weights of this model alone, and these on the steps: they stay with a step that is too small to
/// see, they move with one that is not, and another model's do not.
pub(crate) async fn check_learning(
    client: &TrainingClient,
    bystander: &TrainingClient,
    data: &[Datum],
) -> Result<(), Ended> {
    let untouched = look(bystander, data).await?.concat();
    let before = step(client, data, 1e-12).await?.concat();
    let same = step(client, data, 1e-2).await?.concat();
    let moved = look(client, data).await?.concat();
    let aside = look(bystander, data).await?.concat();
    ensure(distance(&before, &same) < SAME, || {
        "a step of 1e-12 moves log-probabilities: is its learning rate read?".to_owned()
    })?;
    ensure(distance(&same, &moved) > SAME, || {
        "a step of 1e-2 moves no log-probability; for a mock in place of a model there is --mock"
            .to_owned()
    })?;
    ensure(distance(&untouched, &aside) < SAME, || {
        "the steps of one model move the log-probabilities of another; for a mock there is --mock"
            .to_owned()
    })
}

/// The greatest difference of two lists of numbers; infinite where one is longer, or has something that is no number.
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
    fn what_is_no_number_is_infinitely_far() {
        assert_eq!(distance(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
        for other in [&[1.0, f32::NAN][..], &[1.0], &[1.0, f32::INFINITY]] {
            assert_eq!(distance(&[1.0, 2.0], other), f32::INFINITY, "{other:?}");
        }
    }
}
