//! What cannot be done.

use tinkers::prelude::*;
use tinkers::{ErrorKind, Sent};

use super::text;
use crate::context::Context;
use crate::verdict::{Findings, Stop as Ended, chain, ensure};

pub(super) async fn errors(context: &Context) -> Findings {
    let mut notes = Vec::new();
    before_sending(context).await?;
    notes.extend(no_such_weights(context).await?);
    notes.extend(no_such_state(context).await?);
    notes.extend(no_such_loss(context).await?);
    Ok(notes.join("; "))
}

/// Bad input fails here.
async fn before_sending(context: &Context) -> Result<(), Ended> {
    let model = &context.trained().await?.client;
    let ragged = Datum::new(&[3, 4, 5][..])
        .with("target_tokens", TensorData::tokens(&[4, 5]))
        .with("weights", vec![1.0_f32; 2]);
    let Err(error) = model.forward_backward([ragged], LossFn::CrossEntropy).await else {
        return Err(Ended::failed("a target that is too short was accepted"));
    };
    ensure(
        error.kind() == ErrorKind::InvalidInput && error.sent() == Sent::NotSent,
        || format!("a target that is too short gives {}", chain(&error)),
    )
}

/// The server has to say so: at the sampler's creation, or at the first sample.
async fn no_such_weights(context: &Context) -> Result<Option<String>, Ended> {
    let service = context.service().await?;
    let path = "tinker://no-such-run/sampler_weights/nothing";
    let made = service.sampling(path).create().await;
    let (error, when) = match made {
        Err(error) => (error, "at creation"),
        Ok(sampler) => {
            let prompt = text::tokens(&context.setting, 1, 8);
            match sampler.sample(prompt).max_tokens(2).await {
                Err(error) => (error, "at the first sample"),
                Ok(_) => {
                    return accepted(context, "weights that are not there can be sampled from");
                }
            }
        }
    };
    told(&error, "sampling from weights that are not there")?;
    Ok((when != "at creation").then(|| format!("missing weights are told {when}")))
}

async fn no_such_state(context: &Context) -> Result<Option<String>, Ended> {
    let model = context.model().await?;
    let loaded = model
        .load_state("tinker://no-such-run/weights/nothing")
        .await;
    let Err(error) = loaded else {
        return accepted(context, "a state that is not there can be loaded");
    };
    told(&error, "loading a state that is not there")?;
    Ok(None)
}

async fn no_such_loss(context: &Context) -> Result<Option<String>, Ended> {
    let model = context.model().await?;
    let data = text::data(&context.setting, 1, 8);
    let pass = model
        .forward_backward(data, LossFn::Other("no_such_loss".to_owned()))
        .await;
    let Err(error) = pass else {
        return accepted(context, "a loss that is not there is taken");
    };
    told(&error, "a loss that is not there")?;
    Ok(None)
}

/// What cannot be was accepted: wrong, but for a mock.
fn accepted(context: &Context, what: &str) -> Result<Option<String>, Ended> {
    if context.compares() {
        return Err(Ended::failed(what));
    }
    Ok(Some(what.to_owned()))
}

/// An error of the server's that says something, and is no guess of ours.
fn told(error: &Error, what: &str) -> Result<(), Ended> {
    let sound = error.sent() == Sent::Answered
        && !matches!(
            error.kind(),
            ErrorKind::OutcomeUnknown | ErrorKind::Timeout | ErrorKind::Protocol
        );
    ensure(sound, || format!("{what} gives {}", chain(error)))
}
