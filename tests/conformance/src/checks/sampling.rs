//! Samples and log-probabilities.

use tinkers::prelude::*;
use tinkers::wire::SampledSequence;

use super::text;
use crate::context::Context;
use crate::verdict::{Findings, Stop as Ended, ensure};

/// How far log-probabilities of one model may lie apart, computed in two ways and perhaps in half precision.
const SAME: f32 = 0.1;

/// A sequence of 1 to `most` tokens, each with a log-probability.
fn well_formed(sequence: &SampledSequence, most: usize) -> Result<(), Ended> {
    let count = sequence.tokens.len();
    ensure((1..=most).contains(&count), || {
        format!("{count} tokens came, 1 to {most} were asked for")
    })?;
    if let Some(logprobs) = &sequence.logprobs {
        let sound = logprobs.len() == count
            && logprobs
                .iter()
                .all(|value| value.is_finite() && *value <= 1e-3);
        ensure(sound, || {
            format!("the log-probabilities of {count} tokens are {logprobs:?}")
        })?;
    }
    Ok(())
}

async fn over_base(context: &Context) -> Result<SamplingClient, Ended> {
    let service = context.service().await?;
    Ok(service.sampling(&context.setting.model).create().await?)
}

async fn over_trained(context: &Context) -> Result<SamplingClient, Ended> {
    let trained = context.trained().await?;
    let name = SaveForSampler::named(context.name("sampler"));
    let saved = trained.client.save_weights_for_sampler(name).await?;
    let path = saved
        .path
        .ok_or_else(|| Ended::failed("named weights were saved without a path"))?;
    let service = context.service().await?;
    Ok(service.sampling(path.as_str()).create().await?)
}

pub(super) async fn base(context: &Context) -> Findings {
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let reply = sampler
        .sample(prompt)
        .max_tokens(8)
        .temperature(1.0)
        .await?;
    let sequence = &reply.sequences[0];
    well_formed(sequence, 8)?;
    Ok(match &sequence.logprobs {
        Some(_) => String::new(),
        None => "without log-probabilities".to_owned(),
    })
}

pub(super) async fn saved(context: &Context) -> Findings {
    let sampler = over_trained(context).await?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let reply = sampler.sample(prompt).max_tokens(8).await?;
    well_formed(&reply.sequences[0], 8)?;
    Ok(String::new())
}

pub(super) async fn unnamed(context: &Context) -> Findings {
    let trained = context.trained().await?;
    let sampler = trained.client.save_weights_and_get_sampling_client().await;
    let sampler = sampler.map_err(|error| Ended::of_optional(&error))?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let reply = sampler.sample(prompt).max_tokens(8).await?;
    well_formed(&reply.sequences[0], 8)?;
    Ok(String::new())
}

pub(super) async fn seed(context: &Context) -> Findings {
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let draw = |seed| {
        let sample = sampler.sample(prompt.clone()).max_tokens(12);
        sample.temperature(1.0).seed(seed)
    };
    let (first, second, other) = (draw(7).await?, draw(7).await?, draw(8).await?);
    let tokens = |reply: &SampleResponse| reply.sequences[0].tokens.clone();
    ensure(tokens(&first) == tokens(&second), || {
        format!(
            "seed 7 gives {:?} and {:?}",
            tokens(&first),
            tokens(&second)
        )
    })?;
    Ok(if tokens(&first) == tokens(&other) {
        "seed 8 gives the same as seed 7".to_owned()
    } else {
        String::new()
    })
}

pub(super) async fn agree(context: &Context) -> Findings {
    let trained = context.needs_a_model().await?;
    let sampler = over_trained(context).await?;
    let mut tokens = text::tokens(&context.setting, 0, 12);
    let reply = sampler
        .sample(tokens.clone())
        .max_tokens(6)
        .temperature(1.0)
        .seed(3)
        .await?;
    let sequence = &reply.sequences[0];
    well_formed(sequence, 6)?;
    let sampled = sequence.logprobs.clone();
    let sampled = sampled.ok_or_else(|| Ended::failed("a sample has no log-probabilities"))?;
    tokens.extend(&sequence.tokens);
    let tail = tokens.len() - sequence.tokens.len();
    let computed = sampler.compute_logprobs(tokens.clone()).await?;
    let computed: Vec<f32> = computed[tail..]
        .iter()
        .map(|value| value.unwrap_or(f32::NAN))
        .collect();
    let output = trained
        .client
        .forward([text::datum(&tokens)?], LossFn::CrossEntropy)
        .await?;
    let passed = text::logprobs(&output, 1)?.concat();
    let passed = &passed[passed.len().saturating_sub(sampled.len())..];
    let apart = [
        text::distance(&sampled, &computed),
        text::distance(&sampled, passed),
    ];
    let near = |distance: &f32| *distance < SAME;
    ensure(apart.iter().all(near), || {
        format!("sampled {sampled:.3?}, computed {computed:.3?}, of a forward pass {passed:.3?}")
    })?;
    Ok(format!("at most {:.4} apart", apart[0].max(apart[1])))
}

pub(super) async fn greedy(context: &Context) -> Findings {
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 4, 12);
    let draw = |temperature, seed| {
        let sample = sampler.sample(prompt.clone()).max_tokens(6);
        sample.temperature(temperature).seed(seed)
    };
    let (one, other) = (draw(0.0, 1).await?, draw(0.0, 2).await?);
    let (one, other) = (&one.sequences[0], &other.sequences[0]);
    ensure(one.tokens == other.tokens, || {
        format!("{:?} and {:?} under two seeds", one.tokens, other.tokens)
    })?;
    let first = |sequence: &SampledSequence| sequence.logprobs.as_ref()?.first().copied();
    let Some(likeliest) = first(one).filter(|_| context.compares()) else {
        return Ok("only that seeds make no difference".to_owned());
    };
    for seed in 1..=8 {
        let drawn = draw(1.0, seed).await?;
        let other = first(&drawn.sequences[0]).unwrap_or(f32::NEG_INFINITY);
        ensure(other <= likeliest + SAME, || {
            format!(
                "a token of log-probability {other} was drawn, and the likeliest has {likeliest}"
            )
        })?;
    }
    Ok(String::new())
}

pub(super) async fn stop_tokens(context: &Context) -> Findings {
    context.needs_a_model().await?;
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 4, 12);
    let free = sampler
        .sample(prompt.clone())
        .max_tokens(6)
        .temperature(0.0)
        .await?;
    let Some(&stop) = free.sequences[0].tokens.get(2) else {
        return Err(Ended::not_offered(
            "the model ends its texts before they can be stopped",
        ));
    };
    let stopped = sampler.sample(prompt).max_tokens(6).temperature(0.0);
    let stopped = stopped.stop(Stop::Tokens(vec![stop])).await?;
    let sequence = &stopped.sequences[0];
    ensure(
        sequence.stop_reason == StopReason::Stop && sequence.tokens.len() <= 3,
        || {
            format!(
                "{:?} of {:?}, to stop at {stop}",
                sequence.tokens, sequence.stop_reason
            )
        },
    )?;
    let shown = sequence.tokens.contains(&stop);
    Ok(format!(
        "the stop token is {}among the tokens",
        if shown { "" } else { "not " }
    ))
}

pub(super) async fn several(context: &Context) -> Findings {
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let reply = sampler.sample(prompt).max_tokens(4).num_samples(4).await?;
    for sequence in &reply.sequences {
        well_formed(sequence, 4)?;
    }
    Ok(String::new())
}

pub(super) async fn topk(context: &Context) -> Findings {
    let sampler = over_base(context).await?;
    let prompt = text::tokens(&context.setting, 2, 12);
    let sample = sampler
        .sample(prompt.clone())
        .max_tokens(1)
        .prompt_logprobs();
    let reply = sample.topk_prompt_logprobs(3).await;
    let reply = reply.map_err(|error| Ended::of_choice(&error))?;
    let topk = reply
        .topk_prompt_logprobs
        .ok_or_else(|| Ended::not_offered("ignored"))?;
    ensure(topk.len() + 1 >= prompt.len(), || {
        format!(
            "{} rows for a prompt of {} tokens",
            topk.len(),
            prompt.len()
        )
    })?;
    let last = topk.row(topk.len() - 1).count();
    ensure(last == 3, || {
        format!("the last row has {last} tokens, 3 were asked for")
    })?;
    Ok(String::new())
}
