//! Checks of models, forward and backward passes, optimizer steps, and the order of calls.

use tinkers::prelude::*;

use super::text;
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, ensure};

pub(super) async fn create_model(context: &Context) -> CheckResult {
    let model = context.model().await?;
    let other = context.model().await?;
    ensure(model.model_id() != other.model_id(), || {
        format!("two models have the id {}", model.model_id())
    })?;
    Ok(match model.info().base_model() {
        Some(base) if base == context.settings.model => String::new(),
        Some(base) => format!("the model info names the base model {base}"),
        None => "the model info names no base model".to_owned(),
    })
}

pub(super) async fn loss_falls(context: &Context) -> CheckResult {
    let (before, after) = context.require_real_model().await?.losses;
    ensure(after < before * 0.9, || {
        format!("{before:.3} nats per token before, {after:.3} after")
    })?;
    Ok(format!("{before:.3} to {after:.3} nats per token"))
}

pub(super) async fn forward(context: &Context) -> CheckResult {
    let trained = context.trained().await?;
    let data = text::data(&context.settings, 2, 16);
    let once = || text::current_logprobs(&trained.client, &data);
    let (first, second) = (once().await?, once().await?);
    for logprobs in [&first, &second] {
        context.settings.check_counts(logprobs, |_| 15)?;
    }
    for (one, other) in first.iter().zip(&second) {
        ensure(text::distance(one, other) < 1e-3, || {
            format!("two equal forward passes give {one:?} and {other:?}")
        })?;
    }
    if !context.has_real_model() {
        return Ok("mock model: results were not compared".to_owned());
    }
    // If the forward pass added gradients, the step changes the weights. Some servers reject a step
    // without gradients.
    if let Err(error) = trained.client.optim_step(AdamParams::new(1e-2)).await {
        return refused_step(&trained.client, error);
    }
    let moved = text::distance(&first.concat(), &once().await?.concat());
    if moved < 1e-3 {
        return Ok(String::new());
    }
    // The momentum of earlier steps changes the weights even without gradients.
    without_momentum(context).await
}

/// Returns the verdict for a refused step after a forward pass: a server that misses the gradients shows that the pass added none.
fn refused_step(client: &TrainingClient, error: Error) -> CheckResult {
    // Later checks use the same model.
    drop(client.recover());
    let words = error.to_string().to_ascii_lowercase();
    let is_proof = words.contains("grad");
    match is_proof {
        true => Ok(format!("a step without gradients is refused: {error}")),
        false => Err(error.into()),
    }
}

/// Repeats the check of an optimizer step without gradients on a new model, whose optimizer has no
/// momentum yet.
async fn without_momentum(context: &Context) -> CheckResult {
    let fresh = context.model().await?;
    let data = text::data(&context.settings, 2, 16);
    let before = text::current_logprobs(&fresh, &data).await?.concat();
    if let Err(error) = fresh.optim_step(AdamParams::new(1e-2)).await {
        return refused_step(&fresh, error);
    }
    let moved = text::distance(
        &before,
        &text::current_logprobs(&fresh, &data).await?.concat(),
    );
    ensure(moved < 1e-3, || {
        format!("a step after only a forward pass changed log-probabilities by {moved}")
    })?;
    Ok(String::new())
}

pub(super) async fn order(context: &Context) -> CheckResult {
    const STEPS: usize = 4;
    let data = text::data(&context.settings, 2, 16);
    let (sequential, pipelined) = (context.model().await?, context.model().await?);
    let expected = text::train(&sequential, &data, STEPS).await?;
    let mut passes = Vec::new();
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        passes.push(pipelined.forward_backward(data.clone(), LossFn::CrossEntropy));
        steps.push(pipelined.optim_step(AdamParams::new(1e-2)));
    }
    passes.push(pipelined.forward(data.clone(), LossFn::CrossEntropy));
    let mut found = Vec::new();
    for pass in passes {
        found.push(text::loss(&text::logprobs(&pass.await?, data.len())?));
    }
    for step in steps {
        step.await?;
    }
    if !context.has_real_model() {
        return Ok("mock model: results were not compared".to_owned());
    }
    let near = |(one, other): (&f64, &f64)| (one - other).abs() < 0.05 * expected[0].abs().max(1.0);
    if !near((&expected[0], &found[0])) {
        return Err(CheckError::not_offered(
            "two models with the same seed start with different losses, so results cannot be compared",
        ));
    }
    ensure(expected.iter().zip(&found).all(near), || {
        format!("sequential {expected:.3?}, pipelined {found:.3?}")
    })?;
    Ok(String::new())
}

pub(super) async fn policy_losses(context: &Context) -> CheckResult {
    let trained = context.trained().await?;
    let tokens = text::tokens(&context.settings, 1, 16);
    let count = tokens.len() - 1;
    let datum = Datum::new(&tokens[..count])
        .with("target_tokens", TensorData::tokens(&tokens[1..]))
        .with("logprobs", vec![-2.0_f32; count])
        .with("advantages", vec![0.5_f32; count]);
    let mut missing = Vec::new();
    for loss in [LossFn::ImportanceSampling, LossFn::Ppo] {
        let name = loss.name().to_owned();
        let client = &trained.client;
        match client.forward([datum.clone()], loss).await {
            Ok(output) => drop(text::logprobs(&output, 1)?),
            Err(error) => match CheckError::from_optional_setting(&error) {
                CheckError::NotOffered(why) => {
                    missing.push(format!("{name}: {why}"));
                    client.recover()?;
                }
                failed => return Err(failed),
            },
        }
    }
    if missing.is_empty() {
        return Ok(String::new());
    }
    Err(CheckError::not_offered(missing.join("; ")))
}
