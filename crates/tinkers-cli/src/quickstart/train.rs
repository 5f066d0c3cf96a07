//! The training loop and the measuring of held-out loss, as a program against any Tinker server would have them.

use anyhow::{Context, Result, bail};
use tinkers::ForwardBackwardOutput;
use tinkers::prelude::{AdamParams, ApiFuture, Datum, LossFn, TrainingClient};

/// What the learning rate falls to by the last step, as a part of the first.
const LAST_RATE: f64 = 0.1;

/// A step that is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    /// Its number, from 1.
    pub(crate) number: u32,
    /// Its loss before the step was taken, in nats per token.
    pub(crate) loss: f64,
    /// The tokens that it was trained on.
    pub(crate) tokens: usize,
}

/// Trains for `steps` steps and tells of each.
///
/// One step is always submitted behind the one that is waited for, so that the server never waits for this side.
pub(crate) async fn train(
    client: &TrainingClient,
    mut batches: impl Iterator<Item = Vec<Datum>>,
    steps: u32,
    learning_rate: f64,
    mut done: impl FnMut(Done) -> Result<()>,
) -> Result<()> {
    let mut submitted = None;
    for number in 1..=steps {
        let Some(batch) = batches.next() else { break };
        let next = Step::submit(client, batch, number, rate(learning_rate, number, steps));
        if let Some(step) = submitted.replace(next) {
            done(Step::finish(step).await?)?;
        }
    }
    if let Some(step) = submitted {
        done(step.finish().await?)?;
    }
    Ok(())
}

/// The mean loss over `pieces`, in nats per token; no gradients are computed. Passes of `batch` pieces, all under way at once.
pub(crate) async fn held_out_loss(
    client: &TrainingClient,
    pieces: &[Datum],
    batch: usize,
) -> Result<f64> {
    let passes: Vec<_> = pieces
        .chunks(batch)
        .map(|part| (client.forward(part, LossFn::CrossEntropy), tokens(part)))
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
    /// Both requests take their places now, the update right behind the pass.
    fn submit(client: &TrainingClient, batch: Vec<Datum>, number: u32, rate: f64) -> Self {
        Self {
            number,
            tokens: tokens(&batch),
            pass: client.forward_backward(batch, LossFn::CrossEntropy),
            update: client.optim_step(AdamParams::new(rate)),
        }
    }

    async fn finish(self) -> Result<Done> {
        let output = self.pass.await?;
        self.update.await?;
        let loss = finite(loss_sum(&output)? / self.tokens as f64)
            .with_context(|| format!("step {}", self.number))?;
        Ok(Done {
            number: self.number,
            loss,
            tokens: self.tokens,
        })
    }
}

/// Falls in a straight line, so that the last steps settle what the first ones learned.
fn rate(first: f64, number: u32, steps: u32) -> f64 {
    let way = f64::from(number - 1) / f64::from((steps - 1).max(1));
    first * (1.0 - (1.0 - LAST_RATE) * way)
}

fn tokens(data: &[Datum]) -> usize {
    data.iter()
        .filter_map(|datum| datum.model_input.len())
        .sum()
}

/// The sum of the loss, from the metric or, on a server that sends none, from the log-probabilities. Every weight is 1.
fn loss_sum(output: &ForwardBackwardOutput) -> Result<f64> {
    if let Some(sum) = output.loss_sum() {
        return Ok(sum);
    }
    let mut sum = 0.0;
    for one in &output.loss_fn_outputs {
        let Some(logprobs) = one.get("logprobs").and_then(|tensor| tensor.as_f32()) else {
            bail!("the server sent neither loss:sum nor logprobs");
        };
        sum -= logprobs
            .iter()
            .map(|logprob| f64::from(*logprob))
            .sum::<f64>();
    }
    if output.loss_fn_outputs.is_empty() {
        bail!("the server sent neither loss:sum nor logprobs");
    }
    Ok(sum)
}

fn finite(loss: f64) -> Result<f64> {
    if loss.is_finite() {
        return Ok(loss);
    }
    bail!("the loss is {loss}; try a lower --learning-rate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tinkers::TensorData;

    #[test]
    fn the_rate_falls_to_a_tenth_and_zero_stays_zero() {
        assert_eq!(rate(1.0, 1, 11), 1.0);
        assert!((rate(1.0, 6, 11) - 0.55).abs() < 1e-12);
        assert!((rate(1.0, 11, 11) - 0.1).abs() < 1e-12);
        assert_eq!(rate(1.0, 1, 1), 1.0);
        assert_eq!(rate(0.0, 3, 11), 0.0);
    }

    #[test]
    fn the_loss_comes_from_the_metric_or_from_the_logprobs() {
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
    fn a_loss_that_is_no_number_says_what_to_try() {
        let error = finite(f64::NAN).unwrap_err();
        assert!(error.to_string().contains("--learning-rate"));
    }
}
