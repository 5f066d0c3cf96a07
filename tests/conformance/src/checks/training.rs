//! Models, passes, steps, and their order.

use tinkers::prelude::*;

use super::text;
use crate::context::Context;
use crate::verdict::{Findings, Stop as Ended, ensure};

pub(super) async fn create_model(context: &Context) -> Findings {
    let model = context.model().await?;
    let other = context.model().await?;
    ensure(model.model_id() != other.model_id(), || {
        format!("two models have the id {}", model.model_id())
    })?;
    Ok(match model.info().base_model() {
        Some(base) if base == context.setting.model => String::new(),
        Some(base) => format!("says that it is over {base}"),
        None => "does not say what it is over".to_owned(),
    })
}

pub(super) async fn loss_falls(context: &Context) -> Findings {
    let (before, after) = context.needs_a_model().await?.losses;
    ensure(after < before * 0.9, || {
        format!("{before:.3} nats per token before, {after:.3} after")
    })?;
    Ok(format!("{before:.3} to {after:.3} nats per token"))
}

pub(super) async fn forward(context: &Context) -> Findings {
    let trained = context.trained().await?;
    let data = text::data(&context.setting, 2, 16);
    let once = || text::look(&trained.client, &data);
    let (first, second) = (once().await?, once().await?);
    for (at, (one, other)) in first.iter().zip(&second).enumerate() {
        ensure(one.len() == 15, || {
            format!(
                "datum {at} has 15 targets and {} log-probabilities",
                one.len()
            )
        })?;
        ensure(text::distance(one, other) < 1e-3, || {
            format!("the same forward pass twice gives {one:?} and {other:?}")
        })?;
    }
    if !context.compares() {
        return Ok("a mock in place of a model: only that it is done".to_owned());
    }
    // With a gradient of a forward pass a step would move the weights; with none there is nothing to step with, and servers
    // differ in what they make of that.
    let step = trained.client.optim_step(AdamParams::new(1e-2)).await;
    let moved = text::distance(&first.concat(), &once().await?.concat());
    match step {
        Ok(_) if moved < 1e-3 => Ok(String::new()),
        // The momentum of earlier steps moves weights without any gradient.
        Ok(_) => without_momentum(context).await,
        Err(error) => Ok(format!("a step without gradients is refused: {error}")),
    }
}

/// The same on a model that never had a gradient.
async fn without_momentum(context: &Context) -> Findings {
    let fresh = context.model().await?;
    let data = text::data(&context.setting, 2, 16);
    let before = text::look(&fresh, &data).await?.concat();
    fresh.optim_step(AdamParams::new(1e-2)).await?;
    let moved = text::distance(&before, &text::look(&fresh, &data).await?.concat());
    ensure(moved < 1e-3, || {
        format!("a step after a forward pass alone moved log-probabilities by {moved}")
    })?;
    Ok(String::new())
}

pub(super) async fn order(context: &Context) -> Findings {
    const STEPS: usize = 4;
    let data = text::data(&context.setting, 2, 16);
    let (one_by_one, ahead) = (context.model().await?, context.model().await?);
    let expected = text::train(&one_by_one, &data, STEPS).await?;
    let mut passes = Vec::new();
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        passes.push(ahead.forward_backward(data.clone(), LossFn::CrossEntropy));
        steps.push(ahead.optim_step(AdamParams::new(1e-2)));
    }
    passes.push(ahead.forward(data.clone(), LossFn::CrossEntropy));
    let mut found = Vec::new();
    for pass in passes {
        found.push(text::loss(&text::logprobs(&pass.await?, data.len())?));
    }
    for step in steps {
        step.await?;
    }
    if !context.compares() {
        return Ok("a mock in place of a model: only that all came".to_owned());
    }
    let near = |(one, other): (&f64, &f64)| (one - other).abs() < 0.05 * expected[0].abs().max(1.0);
    if !near((&expected[0], &found[0])) {
        return Err(Ended::not_offered(
            "two models of one seed begin differently, so that their losses cannot be compared",
        ));
    }
    ensure(expected.iter().zip(&found).all(near), || {
        format!("one by one {expected:.3?}, sent ahead {found:.3?}")
    })?;
    Ok(String::new())
}

pub(super) async fn policy_losses(context: &Context) -> Findings {
    let trained = context.trained().await?;
    let tokens = text::tokens(&context.setting, 1, 16);
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
            Err(error) => match Ended::of_choice(&error) {
                Ended::NotOffered(why) => {
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
    Err(Ended::not_offered(missing.join("; ")))
}
