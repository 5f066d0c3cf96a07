//! Replies that are lost, and requests that arrive twice.

use std::time::Duration;

use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::transport::{HttpResponse, RouteClass};
use tinkers::wire::routes;
use tinkers::{Deduplication, ErrorKind};
use tinkers_core::{Call, Policy};

use super::text;
use crate::context::{Context, Service};
use crate::verdict::{Findings, Stop, ensure};

/// How often a repeat is asked for what became of it.
const POLLS: u32 = 50;
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn idempotent(context: &Context) -> Findings {
    let (counts, what) = sent_twice(context).await?;
    let client = lost_reply(context, counts).await?;
    let counted = match counts {
        Counts::Once => "",
        Counts::Twice => ", and adds its gradient again",
    };
    Ok(format!("a repeat {what}{counted}; {client}"))
}

/// How often a request that arrives twice is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Once,
    Twice,
}

/// What the server makes of a repeat: what it says, and, where there is a model, what became of the weights.
async fn sent_twice(context: &Context) -> Result<(Counts, &'static str), Stop> {
    let plain = after_two_passes(context, || ()).await?;
    let recorder = &context.recorder;
    let doubled =
        after_two_passes(context, || recorder.send_twice(routes::FORWARD_BACKWARD)).await?;
    let twins = recorder.twins();
    let (first, second) =
        twins.ok_or_else(|| Stop::failed("a request that was sent twice got no second answer"))?;
    let (said, what) = repeat(context.service().await?, &first, &second).await?;
    if !context.compares() {
        return Ok((said, what));
    }
    let apart = text::distance(&plain, &doubled);
    let counts = if apart < text::SAME {
        Counts::Once
    } else {
        Counts::Twice
    };
    ensure(said == Counts::Twice || counts == Counts::Once, || {
        format!(
            "a repeat {what}, and all the same log-probabilities are {apart} from where one pass leads"
        )
    })?;
    Ok((counts, what))
}

/// The log-probabilities that a model of its own has after a pass over one text, one over another, and a step. A second gradient of the
/// other leads elsewhere; twice the only one would not, since the size of a gradient means nothing to a first step of Adam.
async fn after_two_passes(
    context: &Context,
    before_the_second: impl FnOnce(),
) -> Result<Vec<f32>, Stop> {
    let (one, other) = (
        text::data(&context.setting, 1, 12),
        vec![text::datum(&text::tokens(&context.setting, 3, 12))?],
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
    Ok(text::look(&model, &both).await?.concat())
}

/// What the client makes of a lost reply, on a server that applies repeats so often.
async fn lost_reply(context: &Context, counts: Counts) -> Result<&'static str, Stop> {
    let profile = context.service().await?.server_profile();
    let known = profile.deduplicates >= Deduplication::PassesAndSteps;
    let model = context.model().await?;
    let lost = context.recorder.lost();
    context.recorder.lose_reply(routes::FORWARD_BACKWARD);
    let data = text::data(&context.setting, 1, 12);
    let pass = model.forward_backward(data, LossFn::CrossEntropy).await;
    ensure(context.recorder.lost() == lost + 1, || {
        "no reply was lost".to_owned()
    })?;
    match pass {
        Ok(_) => ensure(known && counts == Counts::Once, || {
            "the client repeated a pass on a server that is not known to apply it once".to_owned()
        })?,
        Err(error) => ensure(!known && error.kind() == ErrorKind::OutcomeUnknown, || {
            format!(
                "the client knows that repeats are applied once: {known}; a lost reply ended in {error}"
            )
        })?,
    }
    Ok(if known {
        "the client knows, and repeats what was lost"
    } else {
        "the client is not told, and says OutcomeUnknown where a reply is lost"
    })
}

/// What a repeat is by the answers to both, and how often that says the request is applied.
async fn repeat(
    service: &Service,
    first: &HttpResponse,
    second: &HttpResponse,
) -> Result<(Counts, &'static str), Stop> {
    if is_busy(second.status.as_u16()) {
        return Err(Stop::failed(format!(
            "a repeat is put off ({}): run this on an idle server",
            second.status
        )));
    }
    if second.status.is_client_error() {
        return Ok((Counts::Once, "is refused"));
    }
    let (Some(first), Some(second)) = (request_id(first), request_id(second)) else {
        let status = second.status;
        return Err(Stop::failed(format!(
            "a repeat is answered {status} without a request id"
        )));
    };
    if first == second {
        return Ok((Counts::Once, "is the same request"));
    }
    let caller = service.context();
    let caller = caller.caller();
    for _ in 0..POLLS {
        let body = json!({ "request_id": second }).to_string();
        let mut poll = Call::post(routes::RETRIEVE_FUTURE, body.into(), RouteClass::Control);
        poll.policy = Policy::ONCE;
        match caller.call(poll).await {
            Err(error) if error.status().is_some_and(is_busy) => {}
            Err(error) if matches!(error.status(), Some(400..=499)) => {
                return Ok((Counts::Once, "is refused when its turn comes"));
            }
            Err(error) => return Err(error.into()),
            Ok(answer) if is_pending(&answer.response) => {}
            Ok(_) => return Ok((Counts::Twice, "is another request")),
        }
        caller.time.sleep(PAUSE).await;
    }
    Err(Stop::failed("a repeat is accepted and never ends"))
}

/// Whether a status puts off and says nothing of the request.
fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 425 | 429)
}

/// Whether an answer to a poll says that there is no result yet.
fn is_pending(answer: &HttpResponse) -> bool {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    body.is_some_and(|body| body["type"] == "try_again")
}

fn request_id(answer: &HttpResponse) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body.get("request_id")?.as_str()?.to_owned())
}
