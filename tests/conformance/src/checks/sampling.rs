//! Checks of samples and log-probabilities.

use tinkers::prelude::*;
use tinkers::wire::SampledSequence;

use super::text;
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, chain, ensure};

/// The largest accepted difference between log-probabilities that a server computes in different
/// ways for the same model, possibly in half precision.
const TOLERANCE: f32 = 0.1;

/// Checks that a sampled sequence has between 1 and `most` tokens. If the sequence contains
/// log-probabilities, also checks that each token has a valid one.
fn check_sequence(sequence: &SampledSequence, most: usize) -> Result<(), CheckError> {
    let count = sequence.tokens.len();
    ensure((1..=most).contains(&count), || {
        format!("expected 1 to {most} tokens, got {count}")
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

async fn base_sampler(context: &Context) -> Result<SamplingClient, CheckError> {
    let service = context.service().await?;
    Ok(service
        .create_sampling_client(&context.settings.model)
        .await?)
}

/// The reason why weights that were saved under a name could not be sampled.
enum NamedFailure {
    /// The server refused to create a sampler from the path of the weights, or to sample with it.
    /// The text is the reason.
    Refused(String),
    /// Any other failure, such as a failed save or a server error.
    Other(CheckError),
}

impl From<CheckError> for NamedFailure {
    fn from(error: CheckError) -> Self {
        Self::Other(error)
    }
}

impl NamedFailure {
    /// Converts the error of the creation of a sampler, or of a sample. Only a response that says
    /// that the server cannot use the weights is a refusal: a 404, a 422 or a failed operation.
    fn of(error: &Error) -> Self {
        let status = error.status();
        let is_server_error = status.is_some_and(|status| status >= 500);
        let is_refused = matches!(status, Some(404 | 422))
            || (error.kind() == ErrorKind::OperationFailed && !is_server_error);
        if error.sent() == Sent::Answered && is_refused {
            return Self::Refused(chain(error));
        }
        Self::Other(CheckError::Failed(chain(error)))
    }

    fn into_error(self) -> CheckError {
        match self {
            Self::Refused(why) => CheckError::Failed(why),
            Self::Other(error) => error,
        }
    }
}

/// Saves the weights of the shared model under a name, creates a sampler from their path, and
/// samples `most` tokens with it.
async fn sample_named(
    context: &Context,
    prompt: Vec<u32>,
    most: u32,
) -> Result<(SamplingClient, SampleResponse), NamedFailure> {
    let trained = context.trained().await?;
    let name = context.name("sampler");
    let saved = trained.client.save_weights_for_sampler(name).await;
    let path = saved
        .map_err(CheckError::from)?
        .path
        .ok_or_else(|| CheckError::failed("named weights were saved without a path"))?;
    let service = context.service().await?;
    let sampler = service.create_sampling_client(path.as_str()).await;
    let sampler = sampler.map_err(|error| NamedFailure::of(&error))?;
    let reply = sample_with_seed(&sampler, prompt, most).await;
    let reply = reply.map_err(|error| NamedFailure::of(&error))?;
    Ok((sampler, reply))
}

/// Saves the weights of the shared model without a name, and samples `most` tokens from them.
async fn sample_unnamed(
    context: &Context,
    prompt: Vec<u32>,
    most: u32,
) -> Result<(SamplingClient, SampleResponse), CheckError> {
    let trained = context.trained().await?;
    let sampler = trained.client.save_weights_and_get_sampling_client().await;
    let sampler = sampler.map_err(|error| CheckError::from_optional_route(&error))?;
    let reply = sample_with_seed(&sampler, prompt, most).await?;
    Ok((sampler, reply))
}

async fn sample_with_seed(
    sampler: &SamplingClient,
    prompt: Vec<u32>,
    most: u32,
) -> Result<SampleResponse, Error> {
    let sample = sampler.sample(prompt).max_tokens(most);
    sample.temperature(1.0).seed(3).await
}

pub(super) async fn base(context: &Context) -> CheckResult {
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 2, 12);
    let reply = sampler
        .sample(prompt)
        .max_tokens(8)
        .temperature(1.0)
        .await?;
    let sequence = &reply.sequences[0];
    check_sequence(sequence, 8)?;
    Ok(match &sequence.logprobs {
        Some(_) => String::new(),
        None => "without log-probabilities".to_owned(),
    })
}

pub(super) async fn saved(context: &Context) -> CheckResult {
    let prompt = text::tokens(&context.settings, 2, 12);
    let why = match sample_named(context, prompt.clone(), 8).await {
        Ok((_, reply)) => {
            check_sequence(&reply.sequences[0], 8)?;
            return Ok(String::new());
        }
        Err(NamedFailure::Refused(why)) => why,
        Err(NamedFailure::Other(error)) => return Err(error),
    };
    let unnamed = sample_unnamed(context, prompt, 8).await;
    let (_, reply) = unnamed.map_err(|_| CheckError::failed(why.clone()))?;
    check_sequence(&reply.sequences[0], 8)?;
    Err(CheckError::not_offered(format!(
        "only weights saved without a name can be sampled: {why}"
    )))
}

pub(super) async fn unnamed(context: &Context) -> CheckResult {
    let prompt = text::tokens(&context.settings, 2, 12);
    let (_, reply) = sample_unnamed(context, prompt, 8).await?;
    check_sequence(&reply.sequences[0], 8)?;
    Ok(String::new())
}

pub(super) async fn seed(context: &Context) -> CheckResult {
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 2, 12);
    let sample = |seed| {
        let sample = sampler.sample(prompt.clone()).max_tokens(12);
        sample.temperature(1.0).seed(seed)
    };
    let (first, second, other) = (sample(7).await?, sample(7).await?, sample(8).await?);
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

pub(super) async fn agree(context: &Context) -> CheckResult {
    let trained = context.require_real_model().await?;
    let mut tokens = text::tokens(&context.settings, 0, 12);
    // The check `sample_saved` reports if weights with a name cannot be sampled from.
    let (sampler, reply) = match sample_named(context, tokens.clone(), 6).await {
        Ok(sampled) => sampled,
        Err(failure) => sample_unnamed(context, tokens.clone(), 6)
            .await
            .map_err(|_| failure.into_error())?,
    };
    let sequence = &reply.sequences[0];
    check_sequence(sequence, 6)?;
    let sampled = sequence.logprobs.clone();
    let sampled = sampled.ok_or_else(|| CheckError::failed("a sample has no log-probabilities"))?;
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
    let distances = [
        text::distance(&sampled, &computed),
        text::distance(&sampled, passed),
    ];
    let near = |distance: &f32| *distance < TOLERANCE;
    ensure(distances.iter().all(near), || {
        format!("sample {sampled:.3?}, compute_logprobs {computed:.3?}, forward pass {passed:.3?}")
    })?;
    Ok(format!(
        "differences of at most {:.4}",
        distances[0].max(distances[1])
    ))
}

pub(super) async fn greedy(context: &Context) -> CheckResult {
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 4, 12);
    let sample = |temperature, seed| {
        let sample = sampler.sample(prompt.clone()).max_tokens(6);
        sample.temperature(temperature).seed(seed)
    };
    let (one, other) = (sample(0.0, 1).await?, sample(0.0, 2).await?);
    let (one, other) = (&one.sequences[0], &other.sequences[0]);
    ensure(one.tokens == other.tokens, || {
        format!("two seeds give {:?} and {:?}", one.tokens, other.tokens)
    })?;
    let first = |sequence: &SampledSequence| sequence.logprobs.as_ref()?.first().copied();
    let Some(likeliest) = first(one).filter(|_| context.has_real_model()) else {
        return Ok("checked only that seeds make no difference".to_owned());
    };
    for seed in 1..=8 {
        let sampled = sample(1.0, seed).await?;
        let other = first(&sampled.sequences[0]).unwrap_or(f32::NEG_INFINITY);
        ensure(other <= likeliest + TOLERANCE, || {
            format!(
                "greedy sampling gave log-probability {likeliest}, but a token of log-probability {other} was sampled"
            )
        })?;
    }
    Ok(String::new())
}

pub(super) async fn stop_tokens(context: &Context) -> CheckResult {
    context.require_real_model().await?;
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 4, 12);
    let free = sampler
        .sample(prompt.clone())
        .max_tokens(6)
        .temperature(0.0)
        .await?;
    let Some(&stop) = free.sequences[0].tokens.get(2) else {
        return Err(CheckError::not_offered(
            "the model ends the sequence before the stop token",
        ));
    };
    let stopped = sampler.sample(prompt).max_tokens(6).temperature(0.0);
    let stopped = stopped.stop(Stop::Tokens(vec![stop])).await?;
    let sequence = &stopped.sequences[0];
    ensure(
        sequence.stop_reason == StopReason::Stop && sequence.tokens.len() <= 3,
        || {
            format!(
                "got {:?} with {:?}, expected a stop at {stop}",
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

pub(super) async fn several(context: &Context) -> CheckResult {
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 2, 12);
    let reply = sampler.sample(prompt).max_tokens(4).num_samples(4).await?;
    for sequence in &reply.sequences {
        check_sequence(sequence, 4)?;
    }
    Ok(String::new())
}

pub(super) async fn topk(context: &Context) -> CheckResult {
    let sampler = base_sampler(context).await?;
    let prompt = text::tokens(&context.settings, 2, 12);
    let sample = sampler
        .sample(prompt.clone())
        .max_tokens(1)
        .prompt_logprobs();
    let reply = sample.topk_prompt_logprobs(3).await;
    let reply = reply.map_err(|error| CheckError::from_optional_setting(&error))?;
    let topk = reply
        .topk_prompt_logprobs
        .ok_or_else(|| CheckError::not_offered("ignored"))?;
    ensure(topk.len() + 1 >= prompt.len(), || {
        format!(
            "got {} rows for a prompt of {} tokens",
            topk.len(),
            prompt.len()
        )
    })?;
    let last = topk.row(topk.len() - 1).count();
    ensure(last == 3, || {
        format!("the last row has {last} tokens, expected 3")
    })?;
    Ok(String::new())
}
