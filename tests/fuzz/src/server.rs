//! The embedded server under any requests, in process: it answers each, never with a 5xx of its own making, and goes on.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use memchr::memmem;
use serde_json::Value;
use tinkers_core::{Jitter, ManualClock, Moment};
use tinkers_local::{
    Dialect, Journal, LocalConfig, LocalServer, OtherBodies, Request, Response, ScriptedEngine,
    TokioSpawn, Window,
};
use tinkers_wire::error_text;
use tokio::runtime::Runtime;

use crate::{furniture, request};

/// The most that a body may come to.
const MAX_BODY: usize = 1 << 20;
/// Longer than any server holds a poll.
pub(crate) const LONG: Duration = Duration::from_secs(400);
/// The only key of the server that has one.
pub(crate) const KEY: &str = "tml-fuzz";

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers");
}

/// Runs on the thread's runtime, and then what is left there: the tasks of a server that is gone.
pub(crate) fn run<F: Future>(work: F) -> F::Output {
    RUNTIME.with(|runtime| {
        let done = runtime.block_on(work);
        runtime.block_on(settle());
        done
    })
}

/// A server in virtual time whose ids are known beforehand.
pub(crate) struct World {
    pub(crate) server: LocalServer,
    pub(crate) clock: ManualClock,
    pub(crate) journal: Journal,
}

/// Always zero, so that ids are the same each time.
#[derive(Debug)]
struct Zero;

impl Jitter for Zero {
    fn bits(&self) -> u64 {
        0
    }
}

/// The servers, as the header `host` names them; any other name is the first.
pub(crate) const HOSTS: [&str; 7] = [
    "tinker",
    "json-strict",
    "skyrl",
    "skyrl-main",
    "tuft",
    "keyed",
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
        "full" => config.window = Some(Window::fixed(0)),
        _ => {}
    }
    config.max_body = MAX_BODY;
    config
}

impl World {
    /// A server that has nothing yet.
    pub(crate) fn new(host: &str) -> Self {
        let (clock, journal) = (ManualClock::new(), Journal::new());
        let spawn = TokioSpawn::new(tokio::runtime::Handle::current());
        let server = LocalServer::builder(
            Arc::new(ScriptedEngine::default()),
            Arc::new(clock.clone()),
            Arc::new(spawn),
        )
        .config(config(host))
        .jitter(Arc::new(Zero))
        .journal(journal.clone())
        .build()
        .expect("an engine without checkpoints");
        Self {
            server,
            clock,
            journal,
        }
    }

    /// Makes what requests name: a session, a model in it with a checkpoint, a sampler, a sample.
    pub(crate) async fn furnish(&self) {
        for (path, body) in furniture::furniture() {
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
            self.answer(request).await;
        }
    }

    /// The answer, which comes at once or when the longest wait of a poll is over.
    pub(crate) async fn answer(&self, request: Request) -> Response {
        let mut exchange = pin!(self.server.exchange(request));
        let mut answered = std::future::poll_fn(|cx| Poll::Ready(exchange.as_mut().poll(cx))).await;
        if answered.is_pending() {
            // The timer's task sees the time pass.
            settle().await;
            self.clock.advance(LONG);
            settle().await;
            answered = std::future::poll_fn(|cx| Poll::Ready(exchange.as_mut().poll(cx))).await;
        }
        match answered {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(cut)) => panic!("{cut}"),
            Poll::Pending => panic!("no answer within {LONG:?}"),
        }
    }
}

/// Lets every task do what it can.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Whether an input speaks of what a furnished server has.
pub(crate) fn names_ids(bytes: &[u8]) -> bool {
    let names = |id: &str| memmem::find(bytes, id.as_bytes()).is_some();
    names(furniture::SESSION) || names(furniture::SAMPLE)
}

/// Some requests to one server.
pub(crate) fn any_requests(bytes: &[u8]) {
    let _ = statuses(bytes);
}

/// The paths that were asked for, and what was answered.
fn statuses(bytes: &[u8]) -> Vec<(String, u16)> {
    let requests = request::read(bytes);
    let host = requests.first().and_then(|first| first.headers.get("host"));
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    run(async {
        let world = World::new(&host);
        if names_ids(bytes) {
            world.furnish().await;
        }
        let mut statuses = Vec::new();
        for request in requests {
            let route = request.route().to_owned();
            let said = format!("{} {:.200}", request.method, request.path);
            let crashes = crashes(&world, &request);
            let response = world.answer(request).await;
            check(&said, &response, crashes);
            statuses.push((route, response.status.as_u16()));
        }
        let health = Request {
            method: Method::GET,
            path: "/api/v1/healthz".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let health = world.answer(health).await;
        // It needs no key where there is one.
        let is_up = health.status.is_success() || health.status.as_u16() == 401;
        assert!(is_up, "{} afterwards", health.status);
        for entry in world.journal.entries() {
            let line = entry.to_json_line(Moment::ORIGIN);
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
            for secret in ["x-api-key", "authorization"] {
                assert!(
                    !entry.headers.contains_key(secret),
                    "{secret} is written down"
                );
            }
        }
        statuses
    })
}

/// One server that is copied ends such a request with a 500.
fn crashes(world: &World, request: &Request) -> bool {
    world.server.config().dialect.other_bodies == OtherBodies::Crash
        && request.route() == "/api/v1/forward_backward"
}

fn check(said: &str, response: &Response, crashes: bool) {
    let Response { status, body, .. } = response;
    let shown = String::from_utf8_lossy(&body[..body.len().min(400)]);
    if !(crashes && status.as_u16() == 500) {
        assert!(!status.is_server_error(), "{said}: {status} {shown}");
    }
    let kind = response.headers.get("content-type");
    if kind.is_some_and(|kind| kind == "application/json") {
        let read = serde_json::from_slice::<Value>(body);
        assert!(read.is_ok(), "{said}: {status}, and no JSON: {shown}");
    }
    if status.is_client_error() {
        let reason = error_text(body);
        assert!(
            reason.is_some(),
            "{said}: {status} without a reason: {shown}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tinkers_local::Route;

    use super::*;
    use crate::mutate::Mutator;
    use crate::{draw, requests};

    fn ids(world: &World) -> (usize, u16) {
        let poll = format!(r#"{{"request_id":"{}"}}"#, furniture::FUTURE);
        let request = Request {
            method: Method::POST,
            path: "/api/v1/retrieve_future".to_owned(),
            headers: HeaderMap::new(),
            body: poll.into(),
        };
        let statuses = world.journal.entries();
        let fine = statuses.iter().filter(|entry| entry.status == Some(200));
        let fine = fine.count();
        (fine, run(world.answer(request)).status.as_u16())
    }

    #[test]
    fn a_furnished_server_has_what_the_ids_name() {
        let world = run(async {
            let world = World::new("tinker");
            world.furnish().await;
            world
        });
        let made = furniture::furniture().len();
        assert_eq!(ids(&world), (made, 200));
    }

    #[test]
    fn what_is_drawn_reaches_each_route_and_meets_each_refusal() {
        let mutator = Mutator::new(1);
        let seeds = requests::requests();
        let (mut fine, mut met) = (BTreeSet::<Route>::new(), BTreeSet::new());
        for _ in 0..3000 {
            for (path, status) in statuses(&draw::requests(&mutator, &seeds)) {
                let segments: Vec<&str> = path.split('/').collect();
                if (200..300).contains(&status) {
                    let fits = |route: &&Route| fits(route.path(), &segments);
                    fine.extend(Route::ALL.iter().find(fits).copied());
                }
                met.insert(status);
            }
        }
        let missed = Route::ALL.iter().filter(|route| !fine.contains(route));
        let missed: Vec<_> = missed.collect();
        assert!(missed.is_empty(), "{missed:?}");
        let refusals = [400, 401, 404, 405, 409, 413, 415, 422, 429];
        let missed = refusals.iter().filter(|status| !met.contains(status));
        assert_eq!(missed.collect::<Vec<_>>(), Vec::<&u16>::new(), "{met:?}");
    }

    fn fits(path: &str, segments: &[&str]) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let same = |(part, segment): (&&str, &&str)| part.starts_with('{') || part == segment;
        parts.len() == segments.len() && parts.iter().zip(segments).all(same)
    }

    #[test]
    fn a_poll_that_is_held_has_its_answer_in_the_end() {
        run(async {
            let world = World::new("tinker");
            world.furnish().await;
            let poll = format!(
                r#"{{"target":{{"type":"sampling_session","sampling_session_id":"{}","cloned_sampler_id":0}},"prev_cursor":1,"timeout":1e300,"retrieved_request_ids":[]}}"#,
                furniture::SAMPLER
            );
            let request = Request {
                method: Method::POST,
                path: "/api/v1/retrieve_futures".to_owned(),
                headers: HeaderMap::new(),
                body: poll.into(),
            };
            let before = tinkers_core::Time::now(&world.clock);
            let answer = world.answer(request).await;
            assert_eq!(answer.status.as_u16(), 200, "{:?}", answer.body);
            assert!(tinkers_core::Time::now(&world.clock) > before);
        });
    }
}
