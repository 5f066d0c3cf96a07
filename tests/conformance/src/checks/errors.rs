//! Checks that invalid requests are refused.

use tinkers::prelude::*;
use tinkers::{ErrorKind, Sent};

use super::text;
use crate::context::Context;
use crate::verdict::{CheckError, CheckResult, chain, ensure};

pub(super) async fn errors(context: &Context) -> CheckResult {
    let mut notes = Vec::new();
    before_sending(context).await?;
    notes.extend(no_such_weights(context).await?);
    notes.extend(no_such_state(context).await?);
    notes.extend(no_such_loss(context).await?);
    Ok(notes.join("; "))
}

/// Checks that the client rejects an invalid training datum itself, without sending a request.
async fn before_sending(context: &Context) -> Result<(), CheckError> {
    let model = &context.trained().await?.client;
    let ragged = Datum::new(&[3, 4, 5][..])
        .with("target_tokens", TensorData::tokens(&[4, 5]))
        .with("weights", vec![1.0_f32; 2]);
    let Err(error) = model.forward_backward([ragged], LossFn::CrossEntropy).await else {
        return Err(CheckError::failed(
            "target_tokens that are too short were accepted",
        ));
    };
    ensure(
        error.kind() == ErrorKind::InvalidInput && error.sent() == Sent::NotSent,
        || format!("target_tokens that are too short give {}", chain(&error)),
    )
}

/// Checks that the server rejects a path to weights that do not exist, either when the sampling
/// client is created or at its first sample.
async fn no_such_weights(context: &Context) -> Result<Option<String>, CheckError> {
    let service = context.service().await?;
    let path = "tinker://no-such-run/sampler_weights/nothing";
    let made = service.create_sampling_client(path).await;
    let (error, when) = match made {
        Err(error) => (error, "at creation"),
        Ok(sampler) => {
            let prompt = text::tokens(&context.settings, 1, 8);
            match sampler.sample(prompt).max_tokens(2).await {
                Err(error) => (error, "at the first sample"),
                Ok(_) => {
                    return accepted(context, "sampling from missing weights succeeds");
                }
            }
        }
    };
    check_refusal(&error, "sampling from missing weights")?;
    Ok((when != "at creation").then(|| format!("missing weights are refused {when}")))
}

async fn no_such_state(context: &Context) -> Result<Option<String>, CheckError> {
    let model = context.model().await?;
    let loaded = model
        .load_state("tinker://no-such-run/weights/nothing")
        .await;
    let Err(error) = loaded else {
        return accepted(context, "loading a missing state succeeds");
    };
    check_refusal(&error, "loading a missing state")?;
    Ok(None)
}

async fn no_such_loss(context: &Context) -> Result<Option<String>, CheckError> {
    let model = context.model().await?;
    let data = text::data(&context.settings, 1, 8);
    let pass = model
        .forward_backward(data, LossFn::Other("no_such_loss".to_owned()))
        .await;
    let Err(error) = pass else {
        return accepted(context, "an unknown loss is accepted");
    };
    check_refusal(&error, "an unknown loss")?;
    Ok(None)
}

/// Returns the result of a check if the server has accepted an invalid request. A mock server
/// passes with a note; a server with a real model fails.
fn accepted(context: &Context, what: &str) -> Result<Option<String>, CheckError> {
    if context.has_real_model() {
        return Err(CheckError::failed(what));
    }
    Ok(Some(what.to_owned()))
}

/// Checks that the error was caused by a response in which the server explicitly rejects the
/// request, and not by a failure such as a timeout.
pub(super) fn check_refusal(error: &Error, what: &str) -> Result<(), CheckError> {
    let sound = error.sent() == Sent::Answered
        && !matches!(
            error.kind(),
            ErrorKind::OutcomeUnknown | ErrorKind::Timeout | ErrorKind::Protocol
        );
    ensure(sound, || format!("{what} gives {}", chain(error)))
}
