//! The fuzz target `server`: sends requests to the embedded server in process. The server must
//! answer each request with a status below 500, and must keep running.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use memchr::memmem;
use serde_json::Value;
use tinkers_core::{Jitter, ManualClock, Timestamp};
use tinkers_local::{
    Dialect, Journal, LocalConfig, LocalServer, OtherBodies, Request, Response, ScriptedEngine,
    TokioSpawn, Window,
};
use tinkers_wire::error_text;
use tokio::runtime::Runtime;

use crate::{fixtures, request_text};

/// The maximum size of a request body after decompression, in bytes.
const MAX_BODY: usize = 1 << 20;
/// A duration by which tests advance the virtual time to end a pending long poll. It is longer than
/// the maximum timeout of a long poll.
pub(crate) const LONGEST_POLL: Duration = Duration::from_secs(400);
/// The API key that the server requires if the first request of an input has the header `host:
/// keyed`.
pub(crate) const KEY: &str = "tml-fuzz";

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers");
}

/// Runs the future `work` on the tokio runtime of this thread. Then runs the tasks that `work` has
/// spawned and that are ready, so that the server can be dropped completely.
pub(crate) fn run<F: Future>(work: F) -> F::Output {
    RUNTIME.with(|runtime| {
        let done = runtime.block_on(work);
        runtime.block_on(run_ready_tasks());
        done
    })
}

/// An embedded server that runs in virtual time. The ids that it creates are the same in each run.
pub(crate) struct TestServer {
    pub(crate) server: LocalServer,
    pub(crate) clock: ManualClock,
    pub(crate) journal: Journal,
}

/// A random source that returns only zero bits, so that ids are the same in each run.
#[derive(Debug)]
struct ZeroJitter;

impl Jitter for ZeroJitter {
    fn bits(&self) -> u64 {
        0
    }
}

/// The values of the `host` header with which an input selects the configuration of the server. Any
/// other value selects the first configuration.
pub(crate) const HOSTS: [&str; 8] = [
    "tinker",
    "json-strict",
    "skyrl",
    "skyrl-main",
    "tuft",
    "keyed",
    "exchange",
    "full",
];

fn config(host: &str) -> LocalConfig {
    let mut config = LocalConfig::default();
    match host {
        "json-strict" => config.dialect = Dialect::json_strict(),
        "skyrl" => config.dialect = Dialect::skyrl(),
        "skyrl-main" => config.dialect = Dialect::skyrl_main(),
        "tuft" => config.dialect = Dialect::tuft(),
        "keyed" => config = config.with_api_key(KEY),
        "exchange" => {
            config.access = config
                .access
                .with_key(KEY)
                .with_token_exchange(Duration::from_secs(3600));
        }
        "full" => config.window = Some(Window::fixed(0)),
        _ => {}
    }
    config.max_body = MAX_BODY;
    config
}

impl TestServer {
    /// Creates a server without sessions. `host`, the value of the `host` header, selects its
    /// configuration.
    pub(crate) fn new(host: &str) -> Self {
        let (clock, journal) = (ManualClock::new(), Journal::new());
        let spawn = TokioSpawn::new(tokio::runtime::Handle::current());
        let server = LocalServer::builder(
            Arc::new(ScriptedEngine::default()),
            Arc::new(clock.clone()),
            Arc::new(spawn),
        )
        .config(config(host))
        .jitter(Arc::new(ZeroJitter))
        .journal(journal.clone())
        .build()
        .expect("the scripted engine has no checkpoints to read");
        Self {
            server,
            clock,
            journal,
        }
    }

    /// Creates the objects on the server to which inputs refer by id: a session, a model with a
    /// checkpoint, a sampling client and a sample.
    pub(crate) async fn create_fixtures(&self) {
        for (path, body) in fixtures::setup_requests() {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-api-key", KEY), ("content-type", "application/json")] {
                headers.insert(name, http::HeaderValue::from_static(value));
            }
            let request = Request {
                method: Method::POST,
                path,
                headers,
                body: Bytes::from(body),
            };
            self.respond(request).await;
        }
    }

    /// Sends a request and returns the response. If the server does not respond at once, advances
    /// the virtual time by [`LONGEST_POLL`], so that the server ends a long poll.
    pub(crate) async fn respond(&self, request: Request) -> Response {
        let mut exchange = pin!(self.server.exchange(request));
        let mut polled = std::future::poll_fn(|cx| Poll::Ready(exchange.as_mut().poll(cx))).await;
        if polled.is_pending() {
            // Gives the server the opportunity to start its timer.
            run_ready_tasks().await;
            self.clock.advance(LONGEST_POLL);
            run_ready_tasks().await;
            polled = std::future::poll_fn(|cx| Poll::Ready(exchange.as_mut().poll(cx))).await;
        }
        match polled {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(cut)) => panic!("{cut}"),
            Poll::Pending => panic!("no response within {LONGEST_POLL:?}"),
        }
    }
}

/// Yields to the runtime until the other tasks are not ready to run any more.
pub(crate) async fn run_ready_tasks() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Returns whether an input contains the id of at least one fixture (an object such as a session).
/// If not, the fixtures need not be created before the input is sent.
pub(crate) fn mentions_fixture_ids(bytes: &[u8]) -> bool {
    let names = |id: &str| memmem::find(bytes, id.as_bytes()).is_some();
    names(fixtures::SESSION) || names(fixtures::SAMPLE)
}

/// Sends the requests of an input to one new server, and checks the responses.
pub(crate) fn run_requests(bytes: &[u8]) {
    let _ = statuses(bytes);
}

/// Sends the requests of an input to one new server. Returns the path and the response status of
/// each request.
fn statuses(bytes: &[u8]) -> Vec<(Method, String, u16)> {
    let requests = request_text::parse(bytes);
    let host = requests.first().and_then(|first| first.headers.get("host"));
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    run(async {
        let test_server = TestServer::new(&host);
        if mentions_fixture_ids(bytes) {
            test_server.create_fixtures().await;
        }
        let mut statuses = Vec::new();
        for request in requests {
            let (method, route) = (request.method.clone(), request.route().to_owned());
            let summary = format!("{} {:.200}", request.method, request.path);
            let crashes = crashes(&test_server, &request);
            let response = test_server.respond(request).await;
            check(&summary, &response, crashes);
            statuses.push((method, route, response.status.as_u16()));
        }
        let health = Request {
            method: Method::GET,
            path: "/api/v1/healthz".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let health = test_server.respond(health).await;
        // A server that requires an API key answers 401, because the request has no key.
        let is_up = health.status.is_success() || health.status.as_u16() == 401;
        assert!(is_up, "status {} of the health check", health.status);
        for entry in test_server.journal.entries() {
            let line = entry.to_json_line(Timestamp::ORIGIN);
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
            for secret in ["x-api-key", "authorization"] {
                assert!(
                    !entry.headers.contains_key(secret),
                    "{secret} is in the journal"
                );
            }
        }
        statuses
    })
}

/// Returns whether a 500 response to this request is correct, because the server imitates another
/// implementation that crashes on such requests.
fn crashes(test_server: &TestServer, request: &Request) -> bool {
    test_server.server.config().dialect.other_bodies == OtherBodies::Crash
        && request.route() == "/api/v1/forward_backward"
}

fn check(request: &str, response: &Response, crashes: bool) {
    let Response { status, body, .. } = response;
    let shown = String::from_utf8_lossy(&body[..body.len().min(400)]);
    if !(crashes && status.as_u16() == 500) {
        assert!(!status.is_server_error(), "{request}: {status} {shown}");
    }
    let kind = response.headers.get("content-type");
    if kind.is_some_and(|kind| kind == "application/json") {
        let read = serde_json::from_slice::<Value>(body);
        assert!(
            read.is_ok(),
            "{request}: {status} with a body that is not JSON: {shown}"
        );
    }
    if status.is_client_error() {
        let reason = error_text(body);
        assert!(
            reason.is_some(),
            "{request}: {status} without a reason: {shown}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tinkers_local::Route;

    use super::*;
    use crate::mutate::Mutator;
    use crate::{generate, request_seeds};

    fn successes_and_poll_status(test_server: &TestServer) -> (usize, u16) {
        let poll = format!(r#"{{"request_id":"{}"}}"#, fixtures::FUTURE);
        let request = Request {
            method: Method::POST,
            path: "/api/v1/retrieve_future".to_owned(),
            headers: HeaderMap::new(),
            body: poll.into(),
        };
        let entries = test_server.journal.entries();
        let succeeded = entries.iter().filter(|entry| entry.status == Some(200));
        let succeeded = succeeded.count();
        (succeeded, run(test_server.respond(request)).status.as_u16())
    }

    #[test]
    fn fuzz_fixture_ids_refer_to_existing_objects() {
        let test_server = run(async {
            let test_server = TestServer::new("tinker");
            test_server.create_fixtures().await;
            test_server
        });
        let made = fixtures::setup_requests().len();
        assert_eq!(successes_and_poll_status(&test_server), (made, 200));
    }

    #[test]
    fn generated_requests_reach_every_route_and_every_error_status() {
        let mutator = Mutator::new(1);
        let seeds = request_seeds::requests();
        let mut routes: BTreeSet<Route> = Route::ALL.iter().copied().collect();
        let mut refusals = BTreeSet::from([400, 401, 404, 405, 409, 413, 415, 422, 429]);
        // Most inputs reach something early; the rest are for the rarest.
        for _ in 0..20_000 {
            for (method, path, status) in statuses(&generate::requests(&mutator, &seeds)) {
                let segments: Vec<&str> = path.split('/').collect();
                if (200..300).contains(&status) {
                    let matches = |route: &&Route| {
                        method == route.method() && matches_route(route.path(), &segments)
                    };
                    if let Some(reached) = Route::ALL.iter().find(matches) {
                        routes.remove(reached);
                    }
                }
                refusals.remove(&status);
            }
            if routes.is_empty() && refusals.is_empty() {
                return;
            }
        }
        unreachable!("no input reached {routes:?} and {refusals:?}");
    }

    fn matches_route(path: &str, segments: &[&str]) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let same = |(part, segment): (&&str, &&str)| part.starts_with('{') || part == segment;
        parts.len() == segments.len() && parts.iter().zip(segments).all(same)
    }

    #[test]
    fn fuzz_server_answers_a_long_poll_after_its_timeout() {
        run(async {
            let test_server = TestServer::new("tinker");
            test_server.create_fixtures().await;
            let poll = format!(
                r#"{{"target":{{"type":"sampling_session","sampling_session_id":"{}","cloned_sampler_id":0}},"prev_cursor":1,"timeout":1e300,"retrieved_request_ids":[]}}"#,
                fixtures::SAMPLER
            );
            let request = Request {
                method: Method::POST,
                path: "/api/v1/retrieve_futures".to_owned(),
                headers: HeaderMap::new(),
                body: poll.into(),
            };
            let before = tinkers_core::Clock::now(&test_server.clock);
            let answer = test_server.respond(request).await;
            assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
            assert!(tinkers_core::Clock::now(&test_server.clock) > before);
        });
    }
}
