//! Checks of lost replies and duplicate requests: whether the server applies a duplicate again, and
//! whether the client knows it.

use std::time::Duration;

use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::transport::{HttpResponse, RouteClass};
use tinkers::wire::routes;
use tinkers::{Deduplication, ErrorKind};
use tinkers_core::{Call, CallPolicy};

use super::text;
use crate::context::{Context, Service};
use crate::verdict::{CheckError, CheckResult, ensure};

/// The maximum number of polls for the result of a duplicate request. If there is still no result,
/// the check fails.
const POLLS: u32 = 50;
/// The pause between two polls for the result of a duplicate request.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn idempotent(context: &Context) -> CheckResult {
    let (applied, what) = sent_twice(context).await?;
    let client = lost_reply(context, applied).await?;
    let effect = match applied {
        Applied::Once => "",
        Applied::Twice => " and adds its gradients again",
    };
    Ok(format!("a duplicate {what}{effect}; {client}"))
}

/// How often the server applies a request that it receives twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Once,
    Twice,
}

/// Sends one `forward_backward` request twice. Determines from both responses and from the
/// resulting weights whether the server applied it once or twice. The returned text describes, for
/// the report, how the server treated the duplicate.
async fn sent_twice(context: &Context) -> Result<(Applied, &'static str), CheckError> {
    let plain = after_two_passes(context, || ()).await?;
    let recorder = &context.recorder;
    let doubled =
        after_two_passes(context, || recorder.send_twice(routes::FORWARD_BACKWARD)).await?;
    let duplicate_responses = recorder.duplicate_responses();
    let (first, second) = duplicate_responses
        .ok_or_else(|| CheckError::failed("a duplicate request got no response"))?;
    let (reported, what) = outcome_of_duplicate(context.service().await?, &first, &second).await?;
    if !context.has_real_model() {
        return Ok((reported, what));
    }
    let apart = text::distance(&plain, &doubled);
    let applied = if apart < text::TOLERANCE {
        Applied::Once
    } else {
        Applied::Twice
    };
    ensure(
        reported == Applied::Twice || applied == Applied::Once,
        || {
            format!(
                "a duplicate {what}, but log-probabilities differ by {apart} from those after one pass"
            )
        },
    )?;
    Ok((applied, what))
}

/// Trains a new model on two texts, with one `forward_backward` call each and one optimizer step,
/// and returns the log-probabilities after the step. Runs `before_the_second` between the two
/// calls.
///
/// A duplicate of the second call is only detectable with two texts: the duplicate changes the
/// direction of the summed gradient. With one text, the duplicate would only scale the gradient,
/// and the first step of Adam does not depend on the scale.
async fn after_two_passes(
    context: &Context,
    before_the_second: impl FnOnce(),
) -> Result<Vec<f32>, CheckError> {
    let (one, other) = (
        text::data(&context.settings, 1, 12),
        vec![text::datum(&text::tokens(&context.settings, 3, 12))?],
    );
    let model = context.model().await?;
    model
        .forward_backward(one.clone(), LossFn::CrossEntropy)
        .await?;
    before_the_second();
    model
        .forward_backward(other.clone(), LossFn::CrossEntropy)
        .await?;
    model.optim_step(AdamParams::new(1e-2)).await?;
    let both = [one, other].concat();
    Ok(text::current_logprobs(&model, &both).await?.concat())
}

/// Drops the response to a `forward_backward` request. The client must retry the request if it has
/// detected that the server deduplicates requests, and must report an unknown outcome otherwise.
/// The returned text describes, for the report, which of the two the client did.
async fn lost_reply(context: &Context, applied: Applied) -> Result<&'static str, CheckError> {
    let profile = context.service().await?.server_profile();
    let known = profile.deduplicates >= Deduplication::PassesAndSteps;
    let model = context.model().await?;
    let lost = context.recorder.lost_replies();
    context.recorder.lose_reply(routes::FORWARD_BACKWARD);
    let data = text::data(&context.settings, 1, 12);
    let pass = model.forward_backward(data, LossFn::CrossEntropy).await;
    ensure(context.recorder.lost_replies() == lost + 1, || {
        "the reply was not lost".to_owned()
    })?;
    match pass {
        Ok(_) => ensure(known && applied == Applied::Once, || {
            "the client retried a pass on a server that is not known to apply duplicates once"
                .to_owned()
        })?,
        Err(error) => ensure(!known && error.kind() == ErrorKind::OutcomeUnknown, || {
            format!("a lost reply ended with {error}; known to apply duplicates once: {known}")
        })?,
    }
    Ok(if known {
        "the client knows this and retries after a lost reply"
    } else {
        "the client does not know this and returns OutcomeUnknown after a lost reply"
    })
}

/// Determines from the responses to a request and to its duplicate whether the server applied the
/// duplicate. The returned text describes, for the report, how the server treated it.
async fn outcome_of_duplicate(
    service: &Service,
    first: &HttpResponse,
    second: &HttpResponse,
) -> Result<(Applied, &'static str), CheckError> {
    if is_busy(second.status.as_u16()) {
        return Err(CheckError::failed(format!(
            "a duplicate is rejected as too early or too many ({}); run the check on an idle server",
            second.status
        )));
    }
    if second.status.is_client_error() {
        return Ok((Applied::Once, "is refused"));
    }
    let (Some(first), Some(second)) = (request_id(first), request_id(second)) else {
        let status = second.status;
        return Err(CheckError::failed(format!(
            "the response to a duplicate has status {status} and no request id"
        )));
    };
    if first == second {
        return Ok((Applied::Once, "gets the same request id"));
    }
    let caller = service.context();
    let caller = caller.caller();
    for _ in 0..POLLS {
        let body = json!({ "request_id": second }).to_string();
        let mut poll = Call::post(routes::RETRIEVE_FUTURE, body.into(), RouteClass::Control);
        poll.policy = CallPolicy::ONCE;
        match caller.call(poll).await {
            Err(error) if error.status().is_some_and(is_busy) => {}
            Err(error) if matches!(error.status(), Some(400..=499)) => {
                return Ok((Applied::Once, "fails when it is executed"));
            }
            Err(error) => return Err(error.into()),
            Ok(answer) if is_pending(&answer.response) => {}
            Ok(_) => return Ok((Applied::Twice, "is executed as another request")),
        }
        caller.time.sleep(PAUSE).await;
    }
    Err(CheckError::failed(
        "a duplicate is accepted but does not complete",
    ))
}

/// Returns whether a response with this HTTP status asks the client to retry later.
fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 425 | 429)
}

/// Returns whether the response to a poll says that the result is not available yet.
fn is_pending(answer: &HttpResponse) -> bool {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    body.is_some_and(|body| body["type"] == "try_again")
}

fn request_id(answer: &HttpResponse) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body.get("request_id")?.as_str()?.to_owned())
}
