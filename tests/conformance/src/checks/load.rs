//! Much at once, and what is given up.

use tinkers::prelude::*;

use super::text;
use crate::context::Context;
use crate::verdict::{Findings, ensure};

pub(super) async fn large_batch(context: &Context) -> Findings {
    const DATA: u32 = 256;
    const SAMPLES: u32 = 64;
    let trained = context.trained().await?;
    // Each of another length, so that one in the wrong place shows.
    let length = |number: u32| 8 + number % 9;
    let data: Vec<Datum> = (0..DATA)
        .map(|number| text::datum(&text::tokens(&context.setting, number, length(number))))
        .collect::<Result<_, _>>()?;
    let output = trained
        .client
        .forward(data.clone(), LossFn::CrossEntropy)
        .await?;
    let logprobs = text::logprobs(&output, data.len())?;
    for (number, found) in logprobs.iter().enumerate() {
        let expected = length(number as u32) as usize - 1;
        ensure(found.len() == expected, || {
            format!(
                "datum {number} has {expected} targets and {} log-probabilities",
                found.len()
            )
        })?;
    }
    let sampler = context
        .service()
        .await?
        .sampling(&context.setting.model)
        .create()
        .await?;
    let draw = |number: u32| {
        let most = 1 + number % 4;
        let prompt = text::tokens(&context.setting, number, 8);
        (most, sampler.sample(prompt).max_tokens(most).send())
    };
    let sent: Vec<_> = (0..SAMPLES).map(draw).collect();
    for (most, reply) in sent {
        let count = reply.await?.sequences[0].tokens.len();
        ensure(count <= most as usize, || {
            format!("{most} tokens were asked for and {count} came: another sample's?")
        })?;
    }
    Ok(String::new())
}

pub(super) async fn cancel(context: &Context) -> Findings {
    let service = context.service().await?;
    let sampler = service.sampling(&context.setting.model).create().await?;
    let draw = |number| {
        let prompt = text::tokens(&context.setting, number, 8);
        sampler.sample(prompt).max_tokens(4)
    };
    let given_up: Vec<_> = (0..8).map(|number| draw(number).send()).collect();
    let kept = draw(9).send();
    drop(given_up);
    kept.await?;
    draw(10).await?;
    let trained = context.trained().await?;
    let data = text::data(&context.setting, 1, 8);
    // A training call that nobody waits for keeps its place: what comes behind it is not held up.
    trained
        .client
        .forward(data.clone(), LossFn::CrossEntropy)
        .cancel();
    trained.client.forward(data, LossFn::CrossEntropy).await?;
    Ok(String::new())
}
