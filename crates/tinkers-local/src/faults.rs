//! Faults by script: what goes wrong between a client and the server, and when.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::http::{Request, Response};

/// A script of faults. Clones are the same script, to which rules can be added at any time.
///
/// Each request is struck by the first rule that matches it and is due. Every rule counts the requests that it matches,
/// from the moment it was added.
///
/// ```
/// # use std::sync::Arc;
/// # use tinkers_core::{HttpRequest, ManualClock, RouteClass, Transport};
/// # use tinkers_local::{Fault, Faults, Hint, InProcess, LocalServer, Rule, ScriptedEngine, TokioSpawn};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let faults = Faults::new();
/// faults.add(Rule::on("/api/v1/healthz").nth(2), Fault::rate_limited(Hint::Milliseconds(250)));
/// let server = LocalServer::builder(
///     Arc::new(ScriptedEngine::default()),
///     Arc::new(ManualClock::new()),
///     Arc::new(TokioSpawn::new(tokio::runtime::Handle::current())),
/// )
/// .faults(faults)
/// .build()
/// .unwrap();
/// let client = InProcess::new(server);
/// let mut seen = Vec::new();
/// for _ in 0..3 {
///     let health = HttpRequest::new(http::Method::GET, "/api/v1/healthz", RouteClass::Control);
///     seen.push(client.send(health).await.unwrap().status.as_u16());
/// }
/// assert_eq!(seen, [200, 429, 200]);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Vec<Pending>>>);

#[derive(Debug)]
struct Pending {
    rule: Rule,
    fault: Fault,
    matched: u64,
}

impl Faults {
    /// An empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule and what happens to the requests that it strikes.
    pub fn add(&self, rule: Rule, fault: Fault) {
        let pending = Pending {
            rule,
            fault,
            matched: 0,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pending);
    }

    /// Takes all rules out.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// What happens to a request that has arrived.
    pub(crate) fn strike(&self, request: &Request) -> Option<Fault> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut struck = None;
        for pending in script
            .iter_mut()
            .filter(|pending| pending.rule.matches(request.route()))
        {
            pending.matched += 1;
            let past = pending.matched.saturating_sub(pending.rule.first);
            if struck.is_none()
                && pending.matched >= pending.rule.first
                && past < pending.rule.times
            {
                struck = Some(pending.fault.clone());
            }
        }
        script.retain(|pending| {
            pending.matched < pending.rule.first.saturating_add(pending.rule.times - 1)
        });
        struck
    }
}

/// Which requests a fault strikes: by default the first of its route, once.
#[derive(Debug, Clone)]
pub struct Rule {
    route: String,
    first: u64,
    times: u64,
}

impl Rule {
    /// Requests of one path, without its query; a path that ends in `*` stands for all that begin so.
    pub fn on(route: impl Into<String>) -> Self {
        Self {
            route: route.into(),
            first: 1,
            times: 1,
        }
    }

    /// All requests.
    pub fn any() -> Self {
        Self::on("*")
    }

    /// From the `n`th match on, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.first = n.max(1);
        self
    }

    /// So many matches in a row.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times.max(1);
        self
    }

    /// All matches from the first on.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn matches(&self, route: &str) -> bool {
        match self.route.strip_suffix('*') {
            Some(prefix) => route.starts_with(prefix),
            None => route == self.route,
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub struct Fault {
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Answer(Box<Response>),
    Delay(Duration),
    DelayAnswer(Duration),
    Refuse,
    CutBefore,
    CutAfter,
    Duplicate,
}

/// How a 429 says when to come back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Hint {
    /// It does not.
    None,
    /// `retry-after-ms`.
    Milliseconds(u64),
    /// `Retry-After` in seconds.
    Seconds(u64),
    /// `Retry-After` as a date.
    Date(SystemTime),
    /// `retry_after_ms` in the body.
    Body(u64),
    /// `Retry-After` with this text, such as one that cannot be read.
    Text(String),
}

impl Hint {
    /// The header that carries it, where one does and its value fits into one.
    pub(crate) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::None | Self::Body(_) => return None,
            Self::Milliseconds(ms) => (HeaderName::from_static("retry-after-ms"), ms.to_string()),
            Self::Seconds(seconds) => (RETRY_AFTER, seconds.to_string()),
            Self::Date(date) => (RETRY_AFTER, crate::protocol::http_date(*date)),
            Self::Text(text) => (RETRY_AFTER, text.clone()),
        };
        Some((name, HeaderValue::from_str(&value).ok()?))
    }

    /// Writes it into the JSON body of an answer, where that carries it.
    pub(crate) fn add_to_body(&self, body: &mut Value) {
        if let Self::Body(ms) = self {
            body["retry_after_ms"] = (*ms).into();
        }
    }
}

impl Fault {
    const fn of(action: Action) -> Self {
        Self { action }
    }

    /// This answer instead of the server's; the request is not applied.
    pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::of(Action::Answer(Box::new(Response {
            status,
            headers: HeaderMap::new(),
            body: body.into(),
        })))
    }

    /// A JSON answer instead of the server's; the request is not applied.
    pub fn json(status: StatusCode, body: &Value) -> Self {
        let json = HeaderValue::from_static("application/json");
        Self::answer(status, body.to_string()).with_header(CONTENT_TYPE, json)
    }

    /// The same with a header on its answer, when it is an answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Action::Answer(response) = &mut self.action {
            response.headers.insert(name, value);
        }
        self
    }

    /// 429.
    pub fn rate_limited(hint: Hint) -> Self {
        let mut body = json!({ "detail": "too many requests" });
        hint.add_to_body(&mut body);
        let fault = Self::json(StatusCode::TOO_MANY_REQUESTS, &body);
        match hint.header() {
            Some((name, value)) => fault.with_header(name, value),
            None => fault,
        }
    }

    /// A 400 without a body, as a proxy gives it.
    pub fn empty_400() -> Self {
        Self::answer(StatusCode::BAD_REQUEST, Bytes::new())
    }

    /// 408 with a queue state, as some servers end a long poll.
    pub fn poll_timeout(queue_state: &str, reason: &str) -> Self {
        let body = json!({ "queue_state": queue_state, "queue_state_reason": reason });
        Self::json(StatusCode::REQUEST_TIMEOUT, &body)
    }

    /// 402.
    pub fn payment_required() -> Self {
        Self::json(
            StatusCode::PAYMENT_REQUIRED,
            &json!({ "detail": "billing is not set up" }),
        )
    }

    /// 410.
    pub fn gone() -> Self {
        Self::json(
            StatusCode::GONE,
            &json!({ "detail": "the result is no longer kept" }),
        )
    }

    /// Any error status with a reason.
    pub fn status(status: StatusCode, detail: &str) -> Self {
        Self::json(status, &json!({ "detail": detail }))
    }

    /// The request waits before it is applied.
    pub fn delay(delay: Duration) -> Self {
        Self::of(Action::Delay(delay))
    }

    /// The answer waits after the request was applied.
    pub fn delay_answer(delay: Duration) -> Self {
        Self::of(Action::DelayAnswer(delay))
    }

    /// No connection: nothing was sent. Over a socket the connection is cut instead.
    pub fn refuse() -> Self {
        Self::of(Action::Refuse)
    }

    /// The connection is cut and the request is not applied.
    pub fn cut_before() -> Self {
        Self::of(Action::CutBefore)
    }

    /// The request is applied and the connection is cut instead of an answer.
    pub fn cut_after() -> Self {
        Self::of(Action::CutAfter)
    }

    /// The request is applied twice; one answer comes back.
    pub fn duplicate() -> Self {
        Self::of(Action::Duplicate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn strikes(faults: &Faults, route: &str, n: usize) -> Vec<bool> {
        let request = Request {
            method: Method::POST,
            path: format!("{route}?x=1"),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        (0..n).map(|_| faults.strike(&request).is_some()).collect()
    }

    #[test]
    fn rules_count_their_own_matches() {
        let faults = Faults::new();
        faults.add(Rule::on("/a").nth(2).times(2), Fault::empty_400());
        faults.add(Rule::on("/a").nth(3), Fault::gone());
        faults.add(Rule::on("/b*").always(), Fault::gone());
        assert_eq!(strikes(&faults, "/a", 5), [false, true, true, false, false]);
        assert_eq!(strikes(&faults, "/bcd", 2), [true, true]);
        assert_eq!(strikes(&faults, "/c", 1), [false]);
    }
}
