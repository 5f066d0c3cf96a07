//! Checks of large batches, concurrent samples and cancelled calls.

use tinkers::prelude::*;

use super::text;
use crate::context::Context;
use crate::verdict::{CheckResult, ensure};

pub(super) async fn large_batch(context: &Context) -> CheckResult {
    const DATA: u32 = 256;
    const SAMPLES: u32 = 64;
    let trained = context.trained().await?;
    // Different lengths make results in the wrong order detectable.
    let length = |number: u32| 8 + number % 9;
    let data: Vec<Datum> = (0..DATA)
        .map(|number| text::datum(&text::tokens(&context.settings, number, length(number))))
        .collect::<Result<_, _>>()?;
    let output = trained
        .client
        .forward(data.clone(), LossFn::CrossEntropy)
        .await?;
    let logprobs = text::logprobs(&output, data.len())?;
    let expected = |number: usize| length(number as u32) as usize - 1;
    context.settings.check_counts(&logprobs, expected)?;
    let sampler = context
        .service()
        .await?
        .create_sampling_client(&context.settings.model)
        .await?;
    let sample = |number: u32| {
        let most = 1 + number % 4;
        let prompt = text::tokens(&context.settings, number, 8);
        (most, sampler.sample(prompt).max_tokens(most).send())
    };
    let sent: Vec<_> = (0..SAMPLES).map(sample).collect();
    for (most, reply) in sent {
        let count = reply.await?.sequences[0].tokens.len();
        ensure(count <= most as usize, || {
            format!(
                "expected at most {most} tokens, got {count}; this may be the result of another sample"
            )
        })?;
    }
    Ok(String::new())
}

pub(super) async fn cancel(context: &Context) -> CheckResult {
    let service = context.service().await?;
    let sampler = service
        .create_sampling_client(&context.settings.model)
        .await?;
    let sample = |number| {
        let prompt = text::tokens(&context.settings, number, 8);
        sampler.sample(prompt).max_tokens(4)
    };
    let cancelled: Vec<_> = (0..8).map(|number| sample(number).send()).collect();
    let kept = sample(9).send();
    drop(cancelled);
    kept.await?;
    sample(10).await?;
    let trained = context.trained().await?;
    let data = text::data(&context.settings, 1, 8);
    // A cancelled training call keeps its position in the queue and must not block later calls.
    trained
        .client
        .forward(data.clone(), LossFn::CrossEntropy)
        .cancel();
    trained.client.forward(data, LossFn::CrossEntropy).await?;
    Ok(String::new())
}
