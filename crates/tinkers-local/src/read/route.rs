//! Which route a request is for.

use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use tinkers_wire::{ConfigRequest, SaveWeightsForSampler, Telemetry};

use super::body::plain;
use super::json::json;
use super::{Command, Digest, Page, Refusal, pass};
use crate::config::LocalConfig;
use crate::faults::Faults;
use crate::http::{Answer, Request};
use crate::protocol::Form;

const GET: &str = "GET";
const POST: &str = "POST";
const DELETE: &str = "DELETE";
const WINDOW_COUNTS: &str = "/scripted/counts";
const FAULT_COUNTS: &str = "/faults/counts";

/// Whether the server is up is told to everybody.
const HEALTH: &str = "/api/v1/healthz";

/// Whether a path tells what the server's own tools for tests saw.
pub(crate) fn is_counts(route: &str) -> bool {
    [WINDOW_COUNTS, FAULT_COUNTS].contains(&route)
}

/// Reads a request: its key, its route, its body.
#[expect(
    clippy::result_large_err,
    reason = "the error is the answer, and is not passed on"
)]
pub(crate) fn read(config: &LocalConfig, request: &Request) -> Result<Command, Answer> {
    let segments: Vec<String> = match request.route().strip_prefix("/api/v1/") {
        // Only then are there counts.
        None if config.window.is_some() && request.route() == WINDOW_COUNTS => {
            return check_counts(config, request).map(|()| Command::WindowCounts);
        }
        Some(rest) => rest.split('/').map(unescape).collect(),
        None => Vec::new(),
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    check_key(config, request).map_err(Refusal::into_answer)?;
    let Some(allowed) = methods(&segments) else {
        let reason = format!("no route {}", request.route());
        return Err(Refusal::not_found(reason).into_answer());
    };
    if request.method.as_str() != allowed {
        return Err(wrong_method(request, allowed));
    }
    let read = match request.method {
        Method::POST => post(config, request, &segments),
        _ => bare(request, &segments),
    };
    read.map_err(Refusal::into_answer)
}

/// Whether what the server's own tools saw may be told, which is no part of the API and has its own paths.
#[expect(
    clippy::result_large_err,
    reason = "the error is the answer, and is not passed on"
)]
fn check_counts(config: &LocalConfig, request: &Request) -> Result<(), Answer> {
    check_key(config, request).map_err(Refusal::into_answer)?;
    if request.method != Method::GET {
        return Err(wrong_method(request, GET));
    }
    Ok(())
}

/// The answer to somebody who asks for the counts of the faults; `None` when the request is for something else.
pub(crate) fn fault_counts(
    config: &LocalConfig,
    request: &Request,
    faults: &Faults,
) -> Option<Answer> {
    if request.route() != FAULT_COUNTS {
        return None;
    }
    let allowed = check_counts(config, request);
    Some(allowed.map_or_else(|refused| refused, |()| Answer::ok(&faults.counts_json())))
}

fn wrong_method(request: &Request, allowed: &'static str) -> Answer {
    let reason = format!(
        "{} takes {allowed}, not {}",
        request.route(),
        request.method
    );
    let answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason).into_answer();
    answer.with_header(ALLOW, HeaderValue::from_static(allowed))
}

/// Whether the request has the server's key, or needs none. It takes no look at the body.
pub(crate) fn check_key(config: &LocalConfig, request: &Request) -> Result<(), Refusal> {
    let Some(key) = &config.api_key else {
        return Ok(());
    };
    if request.route() == HEALTH {
        return Ok(());
    }
    match request.headers.get("x-api-key") {
        None => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "no API key; send it in the header X-API-Key",
        )),
        Some(given) if key.matches(given.as_bytes()) => Ok(()),
        Some(_) => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this API key is not the server's",
        )),
    }
}

/// The method of a route; each has one.
fn methods(segments: &[&str]) -> Option<&'static str> {
    Some(match segments {
        ["healthz" | "get_server_capabilities" | "checkpoints" | "sessions" | "training_runs"]
        | ["samplers" | "sessions" | "training_runs", _]
        | ["training_runs", _, "checkpoints"] => GET,
        ["training_runs", _, "checkpoints", _] | ["training_runs", _, "checkpoints", _, _] => {
            DELETE
        }
        ["client", "config" | "dynamic_config"] | ["sessions", _, "finish"] => POST,
        [
            "create_session"
            | "session_heartbeat"
            | "create_model"
            | "get_info"
            | "unload_model"
            | "forward"
            | "forward_backward"
            | "optim_step"
            | "save_weights"
            | "save_weights_for_sampler"
            | "load_weights"
            | "weights_info"
            | "create_sampling_session"
            | "asample"
            | "retrieve_future"
            | "retrieve_futures"
            | "telemetry",
        ] => POST,
        _ => return None,
    })
}

fn post(config: &LocalConfig, request: &Request, segments: &[&str]) -> Result<Command, Refusal> {
    let body = plain(request, config.max_body)?;
    Ok(match segments {
        ["client", "config"] => {
            let _: ConfigRequest = json(&body)?;
            Command::ClientConfig
        }
        ["client", "dynamic_config"] => {
            let _: ConfigRequest = json(&body)?;
            Command::DynamicConfig
        }
        ["telemetry"] => {
            let _: Telemetry = json(&body)?;
            Command::Telemetry
        }
        ["create_session"] => Command::CreateSession(json(&body)?),
        ["session_heartbeat"] => Command::Heartbeat(json(&body)?),
        ["sessions", id, "finish"] => Command::FinishSession((*id).to_owned(), json(&body)?),
        ["create_model"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("create_model", &body);
            Command::CreateModel(Box::new(body), digest)
        }
        ["get_info"] => Command::ModelInfo(json(&body)?),
        ["unload_model"] => Command::UnloadModel(json(&body)?),
        ["forward"] => pass::forward(request, &body)?,
        ["forward_backward"] => pass::forward_backward(request, &body)?,
        ["optim_step"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("optim_step", &body);
            Command::OptimStep(body, digest)
        }
        ["save_weights"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("save_weights", &body);
            Command::SaveWeights(Box::new(body), digest)
        }
        ["save_weights_for_sampler"] => save_for_sampler(&body)?,
        ["load_weights"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("load_weights", &body);
            Command::LoadWeights(Box::new(body), digest)
        }
        ["weights_info"] => Command::WeightsInfo(json(&body)?),
        ["create_sampling_session"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("create_sampling_session", &body);
            Command::CreateSamplingSession(body, digest)
        }
        ["asample"] => {
            let body = json(&body)?;
            let digest = Digest::of_body("asample", &body);
            Command::Sample(Box::new(body), digest)
        }
        ["retrieve_futures"] => Command::RetrieveAll(json(&body)?),
        _ => Command::Retrieve(json(&body)?, Form::wanted(request.header("accept"))),
    })
}

/// The official SDK takes a new `sampling_session_seq_id` for each retry, so that number does not tell requests apart.
fn save_for_sampler(body: &[u8]) -> Result<Command, Refusal> {
    let body: SaveWeightsForSampler = json(body)?;
    let mut compared = body.clone();
    compared.sampling_session_seq_id = compared.sampling_session_seq_id.map(|_| 0);
    let digest = Digest::of_body("save_weights_for_sampler", &compared);
    Ok(Command::SaveForSampler(Box::new(body), digest))
}

/// Routes without a body.
fn bare(request: &Request, segments: &[&str]) -> Result<Command, Refusal> {
    let page = |limit| page(request, limit);
    Ok(match segments {
        ["healthz"] => Command::Health,
        ["get_server_capabilities"] => Command::Capabilities,
        ["samplers", id] => Command::Sampler((*id).to_owned()),
        ["sessions"] => Command::Sessions(page(20)?),
        ["sessions", id] => Command::Session((*id).to_owned()),
        ["training_runs"] => Command::TrainingRuns(page(20)?),
        ["training_runs", id] => Command::TrainingRun((*id).to_owned()),
        ["training_runs", id, "checkpoints"] => Command::RunCheckpoints((*id).to_owned()),
        ["training_runs", run, _, checkpoint @ ..] => Command::DeleteCheckpoint {
            run: (*run).to_owned(),
            checkpoint: checkpoint.join("/"),
        },
        _ => Command::Checkpoints(page(100)?),
    })
}

fn page(request: &Request, limit: u64) -> Result<Page, Refusal> {
    let mut page = Page { offset: 0, limit };
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let place = match name {
            "offset" => &mut page.offset,
            "limit" => &mut page.limit,
            _ => continue,
        };
        *place = value.parse().map_err(|_| {
            Refusal::query(name, format!("expected a number from 0, got {value:?}"))
        })?;
    }
    Ok(page)
}

/// Ids come raw or percent-encoded; what does not decode stays as it is and matches nothing.
fn unescape(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let bytes = segment.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| segment.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(plain).unwrap_or_else(|_| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_raw_or_escaped() {
        for (given, expected) in [
            ("a:train:0", "a:train:0"),
            ("a%3Atrain%3a0", "a:train:0"),
            ("100%", "100%"),
            ("%zz", "%zz"),
            ("%ff", "%ff"),
            ("%é", "%é"),
        ] {
            assert_eq!(unescape(given), expected);
        }
    }
}
