//! Replies that are lost, and requests that arrive twice.

use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::transport::{HttpResponse, RouteClass};
use tinkers::wire::routes;
use tinkers::{Deduplication, ErrorKind};
use tinkers_core::{Call, Policy};

use super::text;
use crate::context::{Context, Service};
use crate::verdict::{Findings, Stop, ensure};

pub(super) async fn idempotent(context: &Context) -> Findings {
    let data = text::data(&context.setting, 1, 12);
    let service = context.service().await?;
    // What the server makes of a repeat.
    let model = context.model().await?;
    let pass = || model.forward_backward(data.clone(), LossFn::CrossEntropy);
    pass().await?;
    context.recorder.send_twice(routes::FORWARD_BACKWARD);
    pass().await?;
    let Some((first, second)) = context.recorder.twins() else {
        return Err(Stop::failed(
            "a request that was sent twice got no second answer",
        ));
    };
    let (once, what) = repeat(service, &first, &second).await?;
    // What the client makes of a lost reply.
    let known = service.server_profile().deduplicates >= Deduplication::PassesAndSteps;
    let model = context.model().await?;
    context.recorder.lose_reply(routes::FORWARD_BACKWARD);
    let lost = context.recorder.lost();
    let pass = model
        .forward_backward(data.clone(), LossFn::CrossEntropy)
        .await;
    ensure(context.recorder.lost() == lost + 1, || {
        "no reply was lost".to_owned()
    })?;
    match pass {
        Ok(_) => ensure(known && once, || {
            format!("a repeat {what}, and the client repeated one")
        })?,
        Err(error) => ensure(!known && error.kind() == ErrorKind::OutcomeUnknown, || {
            format!(
                "the client knows that repeats are applied once: {known}; a lost reply ended in {error}"
            )
        })?,
    }
    let client = if known {
        "the client knows, and repeats what was lost"
    } else {
        "the client is not told, and says OutcomeUnknown where a reply is lost"
    };
    Ok(format!("a repeat {what}; {client}"))
}

/// Whether a repeat is applied no second time, and what it is, from the answers to both.
async fn repeat(
    service: &Service,
    first: &HttpResponse,
    second: &HttpResponse,
) -> Result<(bool, &'static str), Stop> {
    if second.status.is_client_error() {
        return Ok((true, "is refused"));
    }
    let (Some(first), Some(second)) = (request_id(first), request_id(second)) else {
        let status = second.status;
        return Err(Stop::failed(format!(
            "a repeat is answered {status} without a request id"
        )));
    };
    if first == second {
        return Ok((true, "is the same request"));
    }
    let body = json!({ "request_id": second }).to_string();
    let mut poll = Call::post(routes::RETRIEVE_FUTURE, body.into(), RouteClass::Control);
    poll.policy = Policy::ONCE;
    match service.context().caller().call(poll).await {
        Err(error) if matches!(error.status(), Some(400..=499)) => {
            Ok((true, "is refused when its turn comes"))
        }
        _ => Ok((false, "is another request, and adds its gradient again")),
    }
}

fn request_id(answer: &HttpResponse) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(body.get("request_id")?.as_str()?.to_owned())
}
