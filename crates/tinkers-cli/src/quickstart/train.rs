//! The training loop, and the measurement of the held-out loss.

use anyhow::{Context, Result, bail};
use tinkers::ForwardBackwardOutput;
use tinkers::prelude::{AdamParams, ApiFuture, Datum, LossFn, TrainingClient};

/// The learning rate of the last step, as a fraction of the learning rate of the first step.
const FINAL_RATE: f64 = 0.1;

/// The result of a training step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepResult {
    /// The number of the step, from 1.
    pub(crate) number: u32,
    /// The loss before the weights were updated, in nats per token.
    pub(crate) loss: f64,
    /// The number of tokens in the batch.
    pub(crate) tokens: usize,
}

/// Trains for `steps` steps and calls `on_step` after each step.
///
/// The next training step is submitted before the result of the previous step is awaited, so that the server is never idle.
pub(crate) async fn train(
    client: &TrainingClient,
    mut batches: impl Iterator<Item = Vec<Datum>>,
    steps: u32,
    learning_rate: f64,
    mut on_step: impl FnMut(StepResult) -> Result<()>,
) -> Result<()> {
    let mut submitted = None;
    for number in 1..=steps {
        let Some(batch) = batches.next() else { break };
        let next = Step::submit(client, batch, number, rate(learning_rate, number, steps));
        if let Some(step) = submitted.replace(next) {
            on_step(step.finish().await?)?;
        }
    }
    if let Some(step) = submitted {
        on_step(step.finish().await?)?;
    }
    Ok(())
}

/// Returns the mean loss of `data` in nats per token. No gradients are computed. The data are divided into forward passes of
/// `batch` data. These passes are submitted concurrently.
pub(crate) async fn held_out_loss(
    client: &TrainingClient,
    data: &[Datum],
    batch: usize,
) -> Result<f64> {
    let passes: Vec<_> = data
        .chunks(batch)
        .map(|chunk| (client.forward(chunk, LossFn::CrossEntropy), tokens(chunk)))
        .collect();
    let (mut sum, mut count) = (0.0, 0);
    for (pass, tokens) in passes {
        sum += loss_sum(&pass.await?)?;
        count += tokens;
    }
    finite(sum / count as f64).context("held-out loss")
}

struct Step {
    number: u32,
    tokens: usize,
    pass: ApiFuture<ForwardBackwardOutput>,
    update: ApiFuture<tinkers::OptimStepResult>,
}

impl Step {
    /// Submits a forward-backward pass and, directly after it, an optimizer step.
    fn submit(client: &TrainingClient, batch: Vec<Datum>, number: u32, rate: f64) -> Self {
        Self {
            number,
            tokens: tokens(&batch),
            pass: client.forward_backward(batch, LossFn::CrossEntropy),
            update: client.optim_step(AdamParams::new(rate)),
        }
    }

    async fn finish(self) -> Result<StepResult> {
        let output = self.pass.await?;
        self.update.await?;
        let loss = finite(loss_sum(&output)? / self.tokens as f64)
            .with_context(|| format!("step {}", self.number))?;
        Ok(StepResult {
            number: self.number,
            loss,
            tokens: self.tokens,
        })
    }
}

/// Returns the learning rate of the training step `number`. The learning rate decreases linearly from `first` to a tenth of it.
fn rate(first: f64, number: u32, steps: u32) -> f64 {
    let progress = f64::from(number - 1) / f64::from((steps - 1).max(1));
    first * (1.0 - (1.0 - FINAL_RATE) * progress)
}

fn tokens(data: &[Datum]) -> usize {
    data.iter()
        .filter_map(|datum| datum.model_input.len())
        .sum()
}

/// Returns the sum of the loss over all target tokens. The sum is read from the metric `loss:sum`. If the server sends no such
/// metric, the sum is computed from the log-probabilities, since all weights are 1.
fn loss_sum(output: &ForwardBackwardOutput) -> Result<f64> {
    if let Some(sum) = output.loss_sum() {
        return Ok(sum);
    }
    let mut sum = 0.0;
    for output in &output.loss_fn_outputs {
        let Some(logprobs) = output.get("logprobs").and_then(|tensor| tensor.as_f32()) else {
            bail!("cannot compute the loss: the result has neither loss:sum nor logprobs");
        };
        sum -= logprobs
            .iter()
            .map(|logprob| f64::from(*logprob))
            .sum::<f64>();
    }
    if output.loss_fn_outputs.is_empty() {
        bail!("cannot compute the loss: the result has neither loss:sum nor logprobs");
    }
    Ok(sum)
}

fn finite(loss: f64) -> Result<f64> {
    if loss.is_finite() {
        return Ok(loss);
    }
    bail!("the loss is {loss}: try a lower --learning-rate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tinkers::TensorData;

    #[test]
    fn learning_rate_decreases_to_a_tenth() {
        assert_eq!(rate(1.0, 1, 11), 1.0);
        assert!((rate(1.0, 6, 11) - 0.55).abs() < 1e-12);
        assert!((rate(1.0, 11, 11) - 0.1).abs() < 1e-12);
        assert_eq!(rate(1.0, 1, 1), 1.0);
        assert_eq!(rate(0.0, 3, 11), 0.0);
    }

    #[test]
    fn loss_is_read_from_the_metric_or_the_logprobs() {
        let mut output = ForwardBackwardOutput::default();
        assert!(loss_sum(&output).is_err());
        let logprobs =
            |values: Vec<f32>| BTreeMap::from([("logprobs".to_owned(), TensorData::from(values))]);
        output.loss_fn_outputs = vec![logprobs(vec![-1.0, -2.0]), logprobs(vec![-0.5])];
        assert_eq!(loss_sum(&output).unwrap(), 3.5);
        output.metrics.insert("loss:sum".to_owned(), 4.0);
        assert_eq!(loss_sum(&output).unwrap(), 4.0);
        output.metrics.clear();
        output.loss_fn_outputs.push(BTreeMap::new());
        assert!(loss_sum(&output).is_err());
    }

    #[test]
    fn error_for_non_finite_loss_suggests_a_lower_learning_rate() {
        let error = finite(f64::NAN).unwrap_err();
        assert!(error.to_string().contains("--learning-rate"));
    }
}
