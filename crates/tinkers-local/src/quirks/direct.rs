//! Responses that a quirk gives without the protocol, and the routes that a quirk takes away.

use http::header::{ALLOW, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tinkers_wire::routes;

use super::state::State;
use super::table::Quirk;
use crate::http::{LazyResponse, Request};
use crate::openapi;
use crate::read::is_protobuf;

/// The path at which some servers have their OpenAPI document.
pub(super) const DOCUMENT_ELSEWHERE: &str = "/api/v1/openapi.json";

/// The reason of a server that cannot make a model.
const NOT_SERVED: &str = "the base model is not served here";
/// The reason of a server whose operations fail.
const OUT_OF_MEMORY: &str = "CUDA out of memory";

/// The routes of the smallest servers. The `missing-*` quirks remove all other routes.
const ESSENTIAL: [&str; 17] = [
    routes::HEALTH,
    routes::CLIENT_CONFIG,
    routes::CREATE_SESSION,
    routes::SESSION_HEARTBEAT,
    routes::CAPABILITIES,
    routes::CREATE_MODEL,
    routes::GET_INFO,
    routes::UNLOAD_MODEL,
    routes::FORWARD,
    routes::FORWARD_BACKWARD,
    routes::OPTIM_STEP,
    routes::SAVE_WEIGHTS,
    routes::SAVE_WEIGHTS_FOR_SAMPLER,
    routes::LOAD_WEIGHTS,
    routes::WEIGHTS_INFO,
    routes::CREATE_SAMPLING_SESSION,
    routes::ASAMPLE,
];

/// Returns the route that a quirk removes, or `None` if it removes none.
fn removed(quirk: Quirk) -> Option<&'static str> {
    Some(match quirk {
        Quirk::NoConfig => routes::CLIENT_CONFIG,
        Quirk::NoDynamicConfig => routes::DYNAMIC_CONFIG,
        Quirk::NoHeartbeat => routes::SESSION_HEARTBEAT,
        Quirk::NoCapabilities => routes::CAPABILITIES,
        Quirk::NoGetInfo => routes::GET_INFO,
        Quirk::DocumentElsewhere | Quirk::DocumentRelative => openapi::PATH,
        _ => return None,
    })
}

/// Returns whether one of the quirks removes a route.
pub(super) fn is_missing(quirks: &[Quirk], route: &str) -> bool {
    if quirks.iter().any(|quirk| removed(*quirk) == Some(route)) {
        return true;
    }
    let is_minimal = quirks.iter().any(|quirk| missing_form(*quirk).is_some());
    is_minimal && !ESSENTIAL.contains(&route) && route != routes::RETRIEVE_FUTURE
}

/// Returns the response to requests for missing routes. Without a `missing-*` quirk, it is a 404.
pub(super) fn missing(quirks: &[Quirk]) -> LazyResponse {
    let form = quirks.iter().find_map(|quirk| missing_form(*quirk));
    form.unwrap_or_else(|| detail(StatusCode::NOT_FOUND, "Not Found"))
}

fn missing_form(quirk: Quirk) -> Option<LazyResponse> {
    Some(match quirk {
        Quirk::MissingAsPage => page(StatusCode::OK),
        Quirk::Missing400 => json_error(StatusCode::BAD_REQUEST, "unknown endpoint"),
        Quirk::Missing403 => detail(StatusCode::FORBIDDEN, "Forbidden"),
        Quirk::Missing405 => detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"),
        Quirk::Missing500 => detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
        Quirk::Missing501 => json_error(StatusCode::NOT_IMPLEMENTED, "not implemented"),
        _ => return None,
    })
}

/// Returns the response that `quirk` gives to a request instead of the protocol.
pub(super) fn respond(quirk: Quirk, request: &Request, state: &mut State) -> Option<LazyResponse> {
    match request.route() {
        routes::CLIENT_CONFIG => match quirk {
            Quirk::ConfigGet if request.method != Method::GET => {
                let refused = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                Some(refused.with_header(ALLOW, HeaderValue::from_static("GET")))
            }
            Quirk::ConfigList => Some(LazyResponse::ok(&json!([]))),
            _ => None,
        },
        openapi::PATH if quirk == Quirk::DocumentPage => Some(page(StatusCode::OK)),
        routes::SESSION_HEARTBEAT if quirk == Quirk::HeartbeatUnknownSession => {
            Some(detail(StatusCode::NOT_FOUND, "Unknown session"))
        }
        routes::CREATE_MODEL => creation_error(quirk),
        routes::CREATE_SAMPLING_SESSION if quirk == Quirk::Sampler500 => Some(detail(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the sampling backend is not configured",
        )),
        routes::CREATE_SAMPLING_SESSION if quirk == Quirk::PathOnly => {
            let body: Value = serde_json::from_slice(&request.body).ok()?;
            let sampler = state.results.get(body["model_path"].as_str()?)?;
            Some(LazyResponse::ok(sampler))
        }
        routes::FORWARD | routes::FORWARD_BACKWARD => body_refusal(quirk, request),
        routes::OPTIM_STEP => step_without_gradients(quirk, request, state),
        routes::UNLOAD_MODEL if quirk == Quirk::UnloadDirect => {
            let in_query = request.path.contains("?model_id=");
            (!in_query).then(|| missing_field(&["query", "model_id"]))
        }
        routes::RETRIEVE_FUTURE => poll(quirk, request, state),
        _ => None,
    }
}

fn step_without_gradients(
    quirk: Quirk,
    request: &Request,
    state: &mut State,
) -> Option<LazyResponse> {
    if !matches!(
        quirk,
        Quirk::StepNeedsGradients | Quirk::StepFailsWithoutGradients
    ) {
        return None;
    }
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    if state.with_gradients.remove(body["model_id"].as_str()?) {
        return None;
    }
    let reason = "optim_step called with no accumulated grads";
    if quirk == Quirk::StepNeedsGradients {
        return Some(detail(StatusCode::BAD_REQUEST, reason));
    }
    let request_id = format!("step-{}", state.next_number());
    let failed = json!({ "type": "request_failed", "error": reason, "category": "user_error" });
    state.results.insert(request_id.clone(), failed);
    Some(LazyResponse::ok(&json!({ "request_id": request_id })))
}

fn creation_error(quirk: Quirk) -> Option<LazyResponse> {
    Some(match quirk {
        Quirk::CreateError200 => {
            LazyResponse::ok(&json!({ "error": NOT_SERVED, "category": "User" }))
        }
        Quirk::CreateErrorBody => {
            let body = json!({ "type": "RequestFailedResponse", "error_message": NOT_SERVED });
            LazyResponse::json(StatusCode::BAD_REQUEST, &body)
        }
        Quirk::CreateErrorNested => {
            let error = json!({ "code": "no_model", "reason": NOT_SERVED });
            let body = json!({ "detail": { "error": error } });
            LazyResponse::json(StatusCode::NOT_FOUND, &body)
        }
        Quirk::CreateErrorText => LazyResponse::text(StatusCode::BAD_REQUEST, NOT_SERVED),
        Quirk::CreateErrorPage => page(StatusCode::BAD_GATEWAY),
        _ => return None,
    })
}

fn body_refusal(quirk: Quirk, request: &Request) -> Option<LazyResponse> {
    if !is_protobuf(request.header("content-type")) {
        return None;
    }
    let unparsable = "There was an error parsing the body";
    Some(match quirk {
        Quirk::Protobuf400 => detail(StatusCode::BAD_REQUEST, unparsable),
        Quirk::Protobuf422 => detail(StatusCode::UNPROCESSABLE_ENTITY, unparsable),
        Quirk::Protobuf500 => {
            let trace = "Traceback (most recent call last): pydantic_core._pydantic_core.ValidationError: \
                         1 validation error for ForwardBackwardRequest: Input should be a valid dictionary";
            detail(StatusCode::INTERNAL_SERVER_ERROR, trace)
        }
        Quirk::Protobuf500Opaque => detail(StatusCode::INTERNAL_SERVER_ERROR, "worker failed"),
        _ => return None,
    })
}

/// The number of polls for a result that get a pending response, with the quirks that imitate such responses.
const PENDING_POLLS: u32 = 2;

fn poll(quirk: Quirk, request: &Request, state: &mut State) -> Option<LazyResponse> {
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    let request_id = body["request_id"].as_str()?;
    match quirk {
        Quirk::PollFutureId if body.get("future_id").is_none() => {
            return Some(missing_field(&["body", "future_id"]));
        }
        Quirk::StrictPoll => {
            let extra = body.as_object()?.keys().find(|key| *key != "request_id")?;
            let error = json!({
                "type": "extra_forbidden", "loc": ["body", extra], "msg": "Extra inputs are not permitted"
            });
            let body = json!({ "detail": [error] });
            return Some(LazyResponse::json(StatusCode::UNPROCESSABLE_ENTITY, &body));
        }
        _ => {}
    }
    if let Some(failed) = failed_poll(quirk, request_id) {
        return Some(failed);
    }
    let pending = pending_poll(quirk, request_id)?;
    let limit = match quirk {
        Quirk::Late404 => 1,
        // More than the client repeats after other 404 responses.
        Quirk::Pending404 => 8,
        _ => PENDING_POLLS,
    };
    (state.count_poll(request_id) <= limit).then_some(pending)
}

fn failed_poll(quirk: Quirk, request_id: &str) -> Option<LazyResponse> {
    let failed = json!({ "type": "RequestFailedResponse", "error_message": OUT_OF_MEMORY });
    Some(match quirk {
        Quirk::Failed400 => LazyResponse::json(StatusCode::BAD_REQUEST, &failed),
        Quirk::FailedType => LazyResponse::ok(&failed),
        Quirk::FailedCategory => {
            let error = format!("Traceback ... {OUT_OF_MEMORY}");
            LazyResponse::ok(&json!({ "error": error, "category": "Server" }))
        }
        Quirk::FailedNull => LazyResponse::ok(&json!({ "error": null, "category": "system" })),
        Quirk::Failed500 => detail(StatusCode::INTERNAL_SERVER_ERROR, OUT_OF_MEMORY),
        Quirk::Unknown200 => {
            let error = format!("unknown request_id: {request_id}");
            LazyResponse::ok(&json!({ "error": error, "category": "User" }))
        }
        _ => return None,
    })
}

fn pending_poll(quirk: Quirk, request_id: &str) -> Option<LazyResponse> {
    let after_one_second =
        |response: LazyResponse| response.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
    let pending = json!({ "status": "pending", "request_id": request_id });
    Some(match quirk {
        Quirk::Late404 => detail(StatusCode::NOT_FOUND, "Future not found"),
        Quirk::Pending202 => LazyResponse::json(StatusCode::ACCEPTED, &pending),
        Quirk::Pending204 => LazyResponse::empty(StatusCode::NO_CONTENT),
        Quirk::PendingStatus => LazyResponse::ok(&pending),
        Quirk::PendingType => {
            LazyResponse::ok(&json!({ "type": "TryAgainResponse", "queue_state": "active" }))
        }
        Quirk::Pending404 => detail(StatusCode::NOT_FOUND, "not ready"),
        Quirk::Pending408 => {
            let body = json!({ "type": "try_again", "queue_state": "active" });
            after_one_second(LazyResponse::json(StatusCode::REQUEST_TIMEOUT, &body))
        }
        Quirk::Pending408Empty => LazyResponse::text(StatusCode::REQUEST_TIMEOUT, ""),
        Quirk::Pending425 => after_one_second(detail(StatusCode::TOO_EARLY, "not ready")),
        _ => return None,
    })
}

fn detail(status: StatusCode, text: &str) -> LazyResponse {
    LazyResponse::json(status, &json!({ "detail": text }))
}

fn json_error(status: StatusCode, text: &str) -> LazyResponse {
    LazyResponse::json(status, &json!({ "error": text }))
}

fn missing_field(place: &[&str]) -> LazyResponse {
    let error = json!({ "type": "missing", "loc": place, "msg": "Field required" });
    let body = json!({ "detail": [error] });
    LazyResponse::json(StatusCode::UNPROCESSABLE_ENTITY, &body)
}

/// Returns an HTML page, as web servers and gateways send it.
fn page(status: StatusCode) -> LazyResponse {
    let html = HeaderValue::from_static("text/html");
    let title = status.canonical_reason().unwrap_or_default();
    LazyResponse::text(
        status,
        &format!("<!doctype html><html><h1>{title}</h1></html>"),
    )
    .with_header(http::header::CONTENT_TYPE, html)
}
