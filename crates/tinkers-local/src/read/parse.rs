//! Parses requests into commands.

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use tinkers_wire::{
    ConfigRequest, CreateModel, CreateSamplingSession, LoadWeights, OptimStep, SampleRequest,
    SaveWeights, SaveWeightsForSampler, Telemetry, routes,
};

use super::body::decompressed;
use super::json::json;
use super::{
    AuditQuery, AuthorizedCommand, Command, Digest, Page, Refusal, Route, UsagePeriod, is_protobuf,
    pass, unknown_options,
};
use crate::access::{Accepts, KeyHolder, Owner};
use crate::config::LocalConfig;
use crate::dialect::{Dialect, KeyNeed, Repeats};
use crate::faults::Faults;
use crate::http::{LazyResponse, Request};
use crate::openapi;
use crate::trace;

const GET: &str = "GET";
const WINDOW_COUNTS: &str = "/scripted/counts";
const FAULT_COUNTS: &str = "/faults/counts";

/// The path of the health check. Requests for it need no API key.
const HEALTH: &str = "/api/v1/healthz";

/// Returns whether `route` is `/scripted/counts`, the statistics of the limit on samples in flight, or `/faults/counts`, the
/// counters of the fault rules.
pub(crate) fn is_counts(route: &str) -> bool {
    [WINDOW_COUNTS, FAULT_COUNTS].contains(&route)
}

/// Parses a request: checks its API key, finds its route and decodes its body.
#[expect(
    clippy::result_large_err,
    reason = "the error is the response and is used at once"
)]
pub(crate) fn read(
    config: &LocalConfig,
    request: &Request,
) -> Result<AuthorizedCommand, LazyResponse> {
    if request.route() == openapi::PATH {
        return Err(document(config, request));
    }
    if let Some(secret) = request.route().strip_prefix(trace::PATH) {
        return trace_download(config, request, secret);
    }
    let caller = check_key(config, request).map_err(Refusal::into_response)?;
    let command = match config.window {
        Some(_) if request.route() == WINDOW_COUNTS => {
            check_outside_api(config, request).map(|()| Command::WindowCounts)?
        }
        _ => of_api(config, request, &caller)?,
    };
    Ok(AuthorizedCommand {
        owner: caller.grant.owner.clone(),
        command,
    })
}

/// Parses a request for a path of the API: finds its route, checks the permissions of its key, and decodes its body.
#[expect(
    clippy::result_large_err,
    reason = "the error is the response and is used at once"
)]
fn of_api(
    config: &LocalConfig,
    request: &Request,
    caller: &KeyHolder,
) -> Result<Command, LazyResponse> {
    let path = request.route().strip_prefix("/api/v1/");
    let segments: Vec<String> =
        path.map_or_else(Vec::new, |rest| rest.split('/').map(unescape).collect());
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let key = caller.key;
    let dialect = &config.dialect;
    let Some(route) = Route::of(&segments).filter(|route| config.serves(*route)) else {
        return Err(dialect.no_route(request.route()).into_response());
    };
    let methods = match route {
        Route::ApiKey => "GET, DELETE",
        Route::PublishCheckpoint => "POST, DELETE",
        other => other.method(),
    };
    if methods
        .split(", ")
        .all(|method| method != request.method.as_str())
    {
        return Err(wrong_method(request, methods));
    }
    caller
        .grant
        .permits(route)
        .map_err(Refusal::into_response)?;
    match (route, &request.method) {
        (Route::AuthToken, &Method::POST) => return Ok(Command::ExchangeKey(key)),
        (Route::ApiKey, &Method::GET) => return Ok(Command::DescribeKey(key)),
        (Route::ApiKey, &Method::DELETE) => return Ok(Command::RevokeKey(key)),
        (Route::PublishCheckpoint, method) => {
            let (run, checkpoint) = checkpoint(&segments);
            let public = method == Method::POST;
            return Ok(Command::SetPublic {
                run,
                checkpoint,
                public,
            });
        }
        _ => {}
    }
    let read = match request.method {
        Method::POST | Method::PUT => with_body(config, request, route, &segments),
        _ => without_body(request, route, &segments),
    };
    read.map_err(Refusal::into_response)
}

/// Parses a download of a trace. Its address is secret, so it needs no API key.
#[expect(
    clippy::result_large_err,
    reason = "the error is the response and is used at once"
)]
fn trace_download(
    config: &LocalConfig,
    request: &Request,
    secret: &str,
) -> Result<AuthorizedCommand, LazyResponse> {
    if !config.serves(Route::TraceExport) {
        return Err(config.dialect.no_route(request.route()).into_response());
    }
    if request.method != Method::GET {
        return Err(wrong_method(request, GET));
    }
    Ok(AuthorizedCommand {
        owner: Owner::default(),
        command: Command::Trace(secret.to_owned()),
    })
}

/// Returns the response to a request for the OpenAPI document: the document, or a refusal.
fn document(config: &LocalConfig, request: &Request) -> LazyResponse {
    match (
        check_outside_api(config, request),
        openapi::open_api(config),
    ) {
        (_, None) => config.dialect.no_route(openapi::PATH).into_response(),
        (Err(refused), _) => refused,
        (Ok(()), Some(document)) => LazyResponse::ok(&document),
    }
}

/// Checks the API key and the method (GET) of a request for a path outside of `/api/v1/`.
#[expect(
    clippy::result_large_err,
    reason = "the error is the response and is used at once"
)]
fn check_outside_api(config: &LocalConfig, request: &Request) -> Result<(), LazyResponse> {
    check_key(config, request).map_err(Refusal::into_response)?;
    if request.method != Method::GET {
        return Err(wrong_method(request, GET));
    }
    Ok(())
}

/// Returns the response to a request for the counters of the fault rules, or `None` for any other request.
pub(crate) fn fault_counts(
    config: &LocalConfig,
    request: &Request,
    faults: &Faults,
) -> Option<LazyResponse> {
    if request.route() != FAULT_COUNTS {
        return None;
    }
    let allowed = check_outside_api(config, request);
    Some(allowed.map_or_else(
        |refused| refused,
        |()| LazyResponse::ok(&faults.counts_json()),
    ))
}

fn wrong_method(request: &Request, allowed: &'static str) -> LazyResponse {
    let reason = format!(
        "{} takes {allowed}, not {}",
        request.route(),
        request.method
    );
    let response = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason).into_response();
    response.with_header(ALLOW, HeaderValue::from_static(allowed))
}

/// Checks that the request has the right API key or token, if one is required, and the required headers. Returns the holder of the key.
/// Does not use the request body.
pub(crate) fn check_key(config: &LocalConfig, request: &Request) -> Result<KeyHolder, Refusal> {
    let accepts = match request.route() {
        HEALTH => return Ok(KeyHolder::default()),
        routes::AUTH_TOKEN | routes::API_KEY => Accepts::Keys,
        routes::CLIENT_CONFIG | WINDOW_COUNTS | FAULT_COUNTS | openapi::PATH => {
            Accepts::KeysAndTokens
        }
        _ => Accepts::Tokens,
    };
    let is_needed = config.dialect.key == KeyNeed::Always;
    config.access.check(&request.headers, accepts, is_needed)
}

fn with_body(
    config: &LocalConfig,
    request: &Request,
    route: Route,
    segments: &[&str],
) -> Result<Command, Refusal> {
    let dialect = &config.dialect;
    let content_type = request.header("content-type");
    dialect.check_content_type(route, content_type)?;
    let body = decompressed(request, config.max_body)?;
    dialect.check_body(route, content_type, &body)?;
    let command = command(dialect, request, route, segments, content_type, &body)?;
    if route != Route::ForwardBackward || !is_protobuf(content_type) {
        unknown_options::check(route, &body)?;
    }
    Ok(command)
}

/// Decodes a request body into a command, which is the parsed form of a request.
fn command(
    dialect: &Dialect,
    request: &Request,
    route: Route,
    segments: &[&str],
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<Command, Refusal> {
    Ok(match route {
        Route::ClientConfig => {
            let _: ConfigRequest = json(body)?;
            Command::ClientConfig
        }
        Route::DynamicConfig => {
            let _: ConfigRequest = json(body)?;
            Command::DynamicConfig
        }
        Route::Telemetry => {
            let _: Telemetry = json(body)?;
            Command::Telemetry
        }
        Route::CreateSession => Command::CreateSession(json(body)?),
        Route::Heartbeat => Command::Heartbeat(json(body)?),
        Route::FinishSession => Command::FinishSession(id(segments), json(body)?),
        Route::CreateModel => {
            let body: CreateModel = json(body)?;
            let digest = Digest::of_body("create_model", &body);
            Command::CreateModel(Box::new(body), digest)
        }
        Route::ModelInfo => Command::ModelInfo(json(body)?),
        Route::UnloadModel => Command::UnloadModel(json(body)?),
        Route::Forward => apply_numbering(dialect, pass::forward(content_type, body)?),
        Route::ForwardBackward => {
            apply_numbering(dialect, pass::forward_backward(content_type, body)?)
        }
        Route::OptimStep => {
            let mut body: OptimStep = json(body)?;
            if dialect.repeats == Repeats::Again {
                body.seq_id = 0;
            }
            let digest = Digest::of_body("optim_step", &body);
            Command::OptimStep(body, digest)
        }
        Route::SaveWeights => {
            let mut body: SaveWeights = json(body)?;
            if dialect.repeats != Repeats::AllOnce {
                (body.seq_id, body.overwrite) = (0, None);
            }
            let digest = Digest::of_body("save_weights", &body);
            Command::SaveWeights(Box::new(body), digest)
        }
        Route::SaveWeightsForSampler => save_for_sampler(dialect.repeats, body)?,
        Route::LoadWeights => {
            let mut body: LoadWeights = json(body)?;
            if dialect.repeats != Repeats::AllOnce {
                body.seq_id = None;
            }
            let digest = Digest::of_body("load_weights", &body);
            Command::LoadWeights(Box::new(body), digest)
        }
        Route::WeightsInfo => Command::WeightsInfo(json(body)?),
        Route::CreateSamplingSession => {
            let body: CreateSamplingSession = json(body)?;
            let digest = Digest::of_body("create_sampling_session", &body);
            Command::CreateSamplingSession(body, digest)
        }
        Route::Sample => {
            let mut body: SampleRequest = json(body)?;
            if dialect.repeats != Repeats::AllOnce {
                body.seq_id = None;
            }
            let digest = Digest::of_body("asample", &body);
            Command::Sample(Box::new(body), digest)
        }
        Route::RetrieveFutures => Command::RetrieveAll(json(body)?),
        Route::CancelFuture => Command::Cancel(json(body)?),
        Route::SearchSessions => Command::SearchSessions(json(body)?),
        Route::SearchCheckpoints => Command::SearchCheckpoints(json(body)?),
        Route::CopyWeights => Command::CopyWeights(json(body)?),
        Route::SessionProject => Command::AssignProject(id(segments), json(body)?),
        Route::CheckpointTtl => {
            let (run, checkpoint) = checkpoint(segments);
            Command::SetTtl {
                run,
                checkpoint,
                body: json(body)?,
            }
        }
        _ => Command::Retrieve(json(body)?, dialect.form(request.header("accept"))),
    })
}

/// Removes the sequence number of a forward or backward request if the imitated server ignores sequence numbers. Otherwise returns
/// the request unchanged.
fn apply_numbering(dialect: &Dialect, mut pass: Command) -> Command {
    if let Command::Pass(body, ..) = &mut pass
        && dialect.repeats == Repeats::Again
    {
        body.seq_id = 0;
    }
    pass
}

/// Returns the id in a request path such as `sessions/{session_id}`. The id is the second segment below `/api/v1/`.
fn id(segments: &[&str]) -> String {
    segments.get(1).copied().unwrap_or_default().to_owned()
}

/// Returns the id of the run and that of the checkpoint, `<kind>/<name>`, in a request path such as
/// `training_runs/{run_id}/checkpoints/{kind}/{name}/ttl`.
fn checkpoint(segments: &[&str]) -> (String, String) {
    let end = segments.len().min(5);
    (id(segments), segments[3.min(end)..end].join("/"))
}

/// Decodes the request body of `POST /save_weights_for_sampler`. To recognize repeated requests, ignores `sampling_session_seq_id`,
/// since the official SDK uses a new value for each retry.
fn save_for_sampler(repeats: Repeats, body: &[u8]) -> Result<Command, Refusal> {
    let mut body: SaveWeightsForSampler = json(body)?;
    if repeats != Repeats::AllOnce {
        body.seq_id = 0;
    }
    let mut compared = body.clone();
    compared.sampling_session_seq_id = compared.sampling_session_seq_id.map(|_| 0);
    let digest = Digest::of_body("save_weights_for_sampler", &compared);
    Ok(Command::SaveForSampler(Box::new(body), digest))
}

/// Parses a request of a route that has no request body. Takes the parameters from the path and the query.
fn without_body(request: &Request, route: Route, segments: &[&str]) -> Result<Command, Refusal> {
    let page = |limit| page(request, limit);
    Ok(match route {
        Route::Health => Command::Health,
        Route::Capabilities => Command::Capabilities,
        Route::Sampler => Command::Sampler(id(segments)),
        Route::Sessions => Command::Sessions(page(20)?),
        Route::Session => Command::Session(id(segments)),
        Route::TraceExport => {
            // A proxy in front of the server may use TLS.
            let scheme = match request.header("x-forwarded-proto") {
                Some("https") => "https",
                _ => "http",
            };
            let host = request.header("host");
            let origin = host.map(|host| format!("{scheme}://{host}"));
            Command::ExportTrace(id(segments), origin)
        }
        Route::Audit => Command::Audit(AuditQuery {
            event_type: parameter(request, "event_type"),
            day: parameter(request, "day"),
        }),
        Route::BillingUsage => Command::Usage(UsagePeriod {
            starting_on: parameter(request, "starting_on"),
            ending_before: parameter(request, "ending_before"),
        }),
        Route::CheckpointStorage => Command::Storage(parameter(request, "project_id")),
        Route::TrainingRuns => Command::TrainingRuns(page(20)?, parameter(request, "project_id")),
        Route::TrainingRun => Command::TrainingRun(id(segments)),
        Route::RunCheckpoints => Command::RunCheckpoints(id(segments)),
        Route::DeleteCheckpoint | Route::DeleteEscapedCheckpoint => Command::DeleteCheckpoint {
            run: id(segments),
            checkpoint: segments[3..].join("/"),
        },
        _ => Command::Checkpoints(page(100)?),
    })
}

fn page(request: &Request, limit: u64) -> Result<Page, Refusal> {
    let mut page = Page { offset: 0, limit };
    let query = request.path.split_once('?').map_or("", |(_, query)| query);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let field = match name {
            "offset" => &mut page.offset,
            "limit" => &mut page.limit,
            _ => continue,
        };
        *field = value.parse().map_err(|_| {
            Refusal::query(name, format!("expected a number from 0, got {value:?}"))
        })?;
    }
    Ok(page)
}

/// Returns the value of the query parameter `wanted`. Returns `None` if it is absent or empty.
fn parameter(request: &Request, wanted: &str) -> Option<String> {
    let (_, query) = request.path.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, value)| *name == wanted && !value.is_empty())?;
    Some(unescape(value))
}

/// Decodes the percent-encoding in a path segment. Invalid sequences are not changed, because no valid id contains one.
fn unescape(segment: &str) -> String {
    if !segment.contains('%') {
        return segment.to_owned();
    }
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| segment.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|_| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_paths_are_percent_decoded() {
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
