//! The quirks of one server: rewrites its requests and responses.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tinkers_wire::{CheckpointKind, PassMode, PassRequest, TinkerPath, routes};

use super::state::State;
use super::table::Quirk;
use super::{direct, hatchery_client, paths, results};
use crate::http::{LazyResponse, Request, Response};
use crate::openapi;
use crate::read::{decompressed, is_protobuf};

/// The quirks of a server, with the state that they keep between requests.
#[derive(Debug, Default)]
pub(crate) struct Quirks {
    active: Vec<Quirk>,
    state: Mutex<State>,
}

impl Quirks {
    pub(crate) fn new(active: &BTreeSet<Quirk>) -> Self {
        Self {
            active: active.iter().copied().collect(),
            state: Mutex::default(),
        }
    }

    /// Returns whether there are no quirks, so that nothing is rewritten.
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    pub(crate) fn has(&self, quirk: Quirk) -> bool {
        self.active.contains(&quirk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rewrites a request into the form that the protocol reads.
    pub(crate) fn request(&self, mut request: Request) -> Request {
        let is_elsewhere = self.has(Quirk::DocumentElsewhere) || self.has(Quirk::DocumentRelative);
        if is_elsewhere && request.route() == direct::DOCUMENT_ELSEWHERE {
            request.path = openapi::PATH.to_owned();
        }
        let state = self.state();
        let segments = request
            .path
            .split('/')
            .map(|part| state.own(part).unwrap_or(part));
        let path: Vec<&str> = segments.collect();
        request.path = path.join("/");
        if let Ok(Value::Object(mut body)) = serde_json::from_slice(&request.body) {
            let mut is_changed = false;
            for value in body.values_mut() {
                if let Some(own) = value.as_str().and_then(|text| state.own(text)) {
                    *value = own.into();
                    is_changed = true;
                }
            }
            if self.has(Quirk::PollFutureId)
                && let Some(id) = body.remove("future_id")
            {
                body.insert("request_id".to_owned(), id);
                is_changed = true;
            }
            if is_changed {
                request.body = tinkers_wire::to_json(&body);
            }
        }
        if self.has(Quirk::HatcheryClient) {
            hatchery_client::rewrite(&mut request, &state);
        }
        request
    }

    /// Returns the response to a rewritten request, if a quirk gives it instead of the protocol. `path` is the path before the rewrite.
    pub(crate) fn respond(&self, path: &str, request: &Request) -> Option<LazyResponse> {
        let route = path.split('?').next().unwrap_or(path);
        if direct::is_missing(&self.active, route) {
            return Some(direct::missing(&self.active));
        }
        let mut state = self.state();
        let counts_gradients =
            self.has(Quirk::StepNeedsGradients) || self.has(Quirk::StepFailsWithoutGradients);
        if counts_gradients
            && request.route() == routes::FORWARD_BACKWARD
            && let Some(model) = model_with_gradients(request)
        {
            state.with_gradients.insert(model);
        }
        if request.route() == routes::RETRIEVE_FUTURE
            && let Some(result) = request_id(&request.body).and_then(|id| state.results.remove(&id))
        {
            return Some(LazyResponse::ok(&result));
        }
        let mut active = self.active.iter();
        active.find_map(|quirk| direct::respond(*quirk, request, &mut state))
    }

    /// Returns the request id of an accepted request whose result the server returns at once, in place of the request id.
    pub(crate) fn resolved_at_once(
        &self,
        request: &Request,
        response: &Response,
    ) -> Option<String> {
        let quirk = match request.route() {
            routes::CREATE_MODEL => Quirk::ModelDirect,
            routes::ASAMPLE => Quirk::SampleDirect,
            routes::UNLOAD_MODEL => Quirk::UnloadDirect,
            _ => return None,
        };
        let is_accepted = response.status.is_success() && self.has(quirk);
        is_accepted.then(|| request_id(&response.body)).flatten()
    }

    /// Builds the poll for a result, as a client would send it.
    pub(crate) fn poll(request_id: &str, headers: &HeaderMap) -> Request {
        let mut headers = headers.clone();
        headers.remove(http::header::ACCEPT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.remove(http::header::CONTENT_ENCODING);
        Request {
            method: http::Method::POST,
            path: routes::RETRIEVE_FUTURE.to_owned(),
            headers,
            body: tinkers_wire::to_json(&json!({ "request_id": request_id })),
        }
    }

    /// Returns whether a response to a poll says that the result is not ready.
    pub(crate) fn is_pending(response: &Response) -> bool {
        let body: Option<Value> = serde_json::from_slice(&response.body).ok();
        let is_try_again = body.is_some_and(|body| body["type"] == "try_again");
        response.status == StatusCode::REQUEST_TIMEOUT || is_try_again
    }

    /// Rewrites the response to a request. `request` is the request in the form that the protocol read.
    pub(crate) fn response(&self, request: &Request, mut response: Response) -> Response {
        let is_json = response.header("content-type") == Some("application/json");
        if !response.status.is_success() || !is_json {
            return response;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&response.body) else {
            return response;
        };
        let before = body.clone();
        let mut state = self.state();
        let route = request.route();
        let polled = (route == routes::RETRIEVE_FUTURE && !Self::is_pending(&response))
            .then(|| request_id(&request.body))
            .flatten();
        if let Some(id) = body["request_id"].as_str() {
            state.submitted(id.to_owned(), route.to_owned());
        }
        if self.has(Quirk::HatcheryClient) {
            remember(route, &body, &mut state);
        }
        for &quirk in &self.active {
            if let Some(id) = &polled
                && let Some(submitted_to) = state.route(id)
            {
                results::rewrite(quirk, submitted_to, &mut body);
            }
            if route == routes::ASAMPLE && body.get("sequences").is_some() {
                results::rewrite(quirk, route, &mut body);
            }
            paths::to_foreign(quirk, &mut body, &mut state);
            of_route(quirk, route, polled.is_some(), &mut body, &mut state);
        }
        if body != before {
            response.body = Bytes::from(results::encode(&body));
        }
        response
    }
}

/// Remembers the sessions and sampler weights that requests of hatchery-client leave out.
fn remember(route: &str, body: &Value, state: &mut State) {
    if route == routes::CREATE_SESSION
        && let Some(session) = body["session_id"].as_str()
    {
        state.newest_session = Some(session.to_owned());
    }
    let path = body["path"]
        .as_str()
        .and_then(|path| path.parse::<TinkerPath>().ok());
    if route == routes::RETRIEVE_FUTURE
        && let Some(path) = path
        && path.kind() == Some(CheckpointKind::Sampler)
        && let Some(model) = path.run_id()
    {
        state.saved_for_sampling(model.to_owned(), path.to_string());
    }
}

/// Rewrites a response that is no result of an operation, and the fields of results that are ids.
fn of_route(quirk: Quirk, route: &str, is_result: bool, body: &mut Value, state: &mut State) {
    match (quirk, route) {
        (Quirk::IntIds, _) if !is_result => {
            for field in ["request_id", "session_id"] {
                if let Some(own) = body[field].as_str().map(str::to_owned) {
                    let number = state.next_number();
                    state.add_alias(number.to_string(), own);
                    body[field] = number.into();
                }
            }
        }
        (Quirk::LongPromise, _) if !is_result && body.get("request_id").is_some() => {
            body["future_id"] = body["request_id"].clone();
            body["operation"] = route.rsplit('/').next().unwrap_or_default().into();
            body["status"] = "pending".into();
            if route != routes::CREATE_MODEL {
                body["model_id"] = Value::Null;
            }
        }
        (Quirk::DocumentRelative, openapi::PATH) => {
            let prefix = "/api/v1";
            if let Some(paths) = body["paths"].as_object_mut() {
                let listed = std::mem::take(paths).into_iter();
                let relative = listed.map(|(path, operations)| {
                    let path = path.strip_prefix(prefix).unwrap_or(&path).to_owned();
                    (path, operations)
                });
                paths.extend(relative);
            }
            body["servers"] = json!([{ "url": prefix }]);
        }
        (Quirk::ConfigFloats, routes::CLIENT_CONFIG) => {
            body["billing_exception_max_pause_duration_sec"] = json!(3600.0);
            body["sample_dispatch_bytes_semaphore_size"] = json!(1e7);
        }
        (Quirk::ConfigStrings, routes::CLIENT_CONFIG) => {
            body["sample_max_concurrent_requests"] = "2000".into();
            body["parallel_fwdbwd_chunks"] = "true".into();
        }
        (Quirk::ConfigNegative, routes::CLIENT_CONFIG) => {
            body["sample_max_concurrent_requests"] = json!(-1);
        }
        (Quirk::CapabilitiesStrings | Quirk::CapabilitiesModelId, routes::CAPABILITIES) => {
            let models = body["supported_models"].as_array_mut();
            for model in models.into_iter().flatten() {
                let name = model["model_name"].take();
                *model = match quirk {
                    Quirk::CapabilitiesStrings => name,
                    _ => json!({ "model_id": name }),
                };
            }
        }
        (Quirk::ThinInfo, routes::GET_INFO) => {
            *body = json!({ "model_id": body["model_id"].take() });
        }
        (Quirk::SamplerPromise, routes::CREATE_SAMPLING_SESSION) => {
            let request_id = format!("sampler-{}", state.next_number());
            body["type"] = "create_sampling_session".into();
            body["model_id"] = body["sampling_session_id"].clone();
            state.results.insert(request_id.clone(), body.take());
            *body = json!({ "request_id": request_id });
        }
        (Quirk::PathAndSampler, routes::RETRIEVE_FUTURE)
            if body["sampling_session_id"].is_string() =>
        {
            body["path"] = "tinker://run/sampler_weights/unnamed".into();
        }
        (Quirk::PathOnly, routes::RETRIEVE_FUTURE) if body["sampling_session_id"].is_string() => {
            let path = format!("tinker://run/sampler_weights/{}", state.next_number());
            state.results.insert(path.clone(), body.take());
            *body = json!({ "path": path });
        }
        _ => {}
    }
}

/// The maximum size of a pass, after decompression, whose model a quirk looks up.
const MAX_BODY: usize = 64 << 20;

fn request_id(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(body["request_id"].as_str()?.to_owned())
}

/// Returns the model of a forward-backward pass, or `None` if the pass adds no gradients.
fn model_with_gradients(request: &Request) -> Option<String> {
    let body = decompressed(request, MAX_BODY).ok()?;
    let pass = match is_protobuf(request.header("content-type")) {
        true => PassRequest::from_protobuf(body),
        false => PassRequest::from_json(&body),
    };
    let pass = pass.ok()?;
    (pass.mode == PassMode::ForwardBackward).then_some(pass.model_id)
}
