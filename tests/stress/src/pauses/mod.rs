//! A stress case over sockets. The server sends one 429, and the client must send no request until
//! the retry delay has passed.
//!
//! The limiter admits more calls than there are connections. When every connection has a request,
//! the server refuses one of the requests and delays the responses to the others. These responses
//! then free the connections for calls that were admitted before the refusal, and that must not be
//! sent.

mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tinkers_core::{
    Billing, BoxFuture, Call, Caller, ClientId, Clock, DepartureCheck, HttpRequest, HttpResponse,
    Jitter, RetryBudget, RouteClass, SplitMix, Transport, TransportError, TransportErrorKind,
};
use tinkers_dispatch::{Limiter, LimiterSettings};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, HttpVersions, IoRuntime};

use self::server::Server;
use crate::check::{Invariant, Violation};

/// The retry delay that the server's 429 response asks for. No request may be sent before its end.
pub(crate) const HINT: Duration = Duration::from_millis(1200);
/// The time after the server sends the 429 response within which further requests may still arrive.
/// The client sent them before it received the 429.
const ON_THE_WIRE: Duration = Duration::from_millis(100);
/// The time after which a call of a run counts as failed. It is long enough for a slow machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A scenario in which the server sends one 429 response while other calls wait for connections:
/// the properties of the connections and the number of calls.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Whether the client uses HTTP/2 instead of HTTP/1.1.
    pub is_http2: bool,
    /// The maximum number of connections of the client to the server.
    pub connections: usize,
    /// The number of concurrent streams that the server allows on each connection.
    pub streams: usize,
    /// Whether the body of the 429 response arrives after the responses to the other requests.
    pub is_body_slow: bool,
    /// The number of concurrent calls that the client makes.
    pub calls: usize,
    /// The number of calls that the client makes before the concurrent calls. Their success
    /// increases the client's adaptive limit on requests in flight.
    pub warm_up: usize,
}

/// Enables or disables a check in the transport. Just before the transport sends an admitted
/// request, it asks the rate limiter whether a 429 response has meanwhile paused the sending of
/// requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendCheck {
    /// The transport asks the rate limiter just before it sends a request, as in production.
    Enabled,
    /// The transport does not ask the rate limiter before it sends a request. This is a negative
    /// control: the test must find requests that are sent too early.
    Disabled,
}

/// What was observed in a run of a [`Scenario`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Observations {
    /// The number of concurrent calls that the client made.
    pub calls: u64,
    /// The number of requests that the server refused with 429.
    pub refusals: u64,
    /// The number of requests that arrived too early at the server: more than 100 ms after the 429
    /// response, but before the end of its retry delay.
    pub early: u64,
    /// The number of requests that arrived at the server within 100 ms after the 429 response. They
    /// were sent before the client received the 429.
    pub on_the_wire: u64,
    /// The number of requests that the rate limiter had admitted, but that the transport did not
    /// send, because the 429 response arrived first.
    pub held: u64,
    /// The number of calls that failed.
    pub failed: u64,
}

impl Scenario {
    /// Returns the number of requests that all connections together can carry at the same time
    /// (connections times streams).
    const fn capacity(&self) -> usize {
        self.connections * self.streams
    }

    /// Runs the scenario once. `seed` determines the random choices.
    pub fn run(&self, send_check: SendCheck, seed: u64) -> Observations {
        let server = Server::start(*self);
        let runtime = IoRuntime::shared().expect("a thread can be started");
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        limits.max_connections = self.connections;
        let transport = HttpTransport::builder(server.url())
            .runtime(runtime.clone())
            .class_limits(RouteClass::Sample, limits)
            .http_versions(match self.is_http2 {
                true => HttpVersions::Http2PriorKnowledge,
                false => HttpVersions::Http1,
            })
            .build()
            .expect("the settings are valid");
        let layer = Arc::new(Layer {
            below: transport,
            send_check,
            held: AtomicU64::new(0),
        });
        let transport: Arc<dyn Transport> = Arc::<Layer>::clone(&layer);
        let caller = caller(transport, &runtime, seed);
        let failed = runtime.block_on(async {
            let mut failed = 0;
            let wave = 100.min(self.warm_up.max(1));
            for _ in 0..self.warm_up / wave {
                failed += calls(&caller, wave).await;
            }
            server.start_refusing();
            failed + calls(&caller, self.calls).await
        });
        let (mut early, mut on_the_wire) = (0, 0);
        let pause = server.end();
        for after in pause.arrivals {
            if after < ON_THE_WIRE {
                on_the_wire += 1;
            } else if after < HINT {
                early += 1;
            }
        }
        Observations {
            calls: self.calls as u64,
            refusals: pause.refusals,
            early,
            on_the_wire,
            held: layer.held.load(Ordering::SeqCst),
            failed,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "{version}, {} connections", self.connections)?;
        if self.streams > 1 {
            write!(f, " of {} streams", self.streams)?;
        }
        if self.is_body_slow {
            f.write_str(", slow 429 body")?;
        }
        Ok(())
    }
}

impl Observations {
    /// Returns the observed numbers of requests and calls, each with the name under which it is
    /// printed.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("calls", self.calls),
            ("refusals", self.refusals),
            ("sent too early", self.early),
            ("already on the wire", self.on_the_wire),
            ("held back", self.held),
        ]
    }

    /// Returns the violations in this run of `scenario`: requests that arrived too early, failed
    /// calls, or a number of 429 responses other than one.
    pub fn violations(&self, scenario: &Scenario) -> Vec<Violation> {
        let mut violations = Vec::new();
        if self.early > 0 {
            let what = format!(
                "{} requests arrived before the end of the retry hint: {scenario}",
                self.early
            );
            violations.push(Violation::new(Invariant::RetryHint, what));
        }
        if self.failed > 0 {
            let what = format!("{} calls failed: {scenario}", self.failed);
            violations.push(Violation::new(Invariant::Progress, what));
        }
        if self.refusals != 1 {
            let what = format!("{} refusals, expected one: {scenario}", self.refusals);
            violations.push(Violation::new(Invariant::Counts, what));
        }
        violations
    }
}

fn caller(transport: Arc<dyn Transport>, runtime: &IoRuntime, seed: u64) -> Arc<Caller> {
    let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(seed));
    let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
    let admission = limiter.admission(runtime.clock(), Arc::clone(&jitter));
    Arc::new(Caller {
        transport,
        admission: Arc::new(admission),
        time: runtime.clock(),
        jitter,
        budget: Arc::new(RetryBudget::default()),
        outages: Arc::default(),
        notices: Arc::default(),
        billing: Billing::default(),
        recovered_errors: Arc::default(),
        closing: Arc::default(),
        timeouts: Default::default(),
        retries: Default::default(),
    })
}

/// Makes `count` concurrent calls. Returns the number of calls that failed.
async fn calls(caller: &Arc<Caller>, count: usize) -> u64 {
    let time: &dyn Clock = &*caller.time;
    let until = time.now().after(CALL_TIMEOUT);
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let caller = Arc::clone(caller);
            tokio::spawn(async move {
                let mut call = Call::post("/api/v1/asample", "{}".into(), RouteClass::Sample);
                call.client = ClientId(1);
                caller.call(call).await.is_ok()
            })
        })
        .collect();
    let mut failed = 0;
    for task in tasks {
        let abort = task.abort_handle();
        match time.deadline(until, task).await {
            Some(Ok(true)) => {}
            Some(_) => failed += 1,
            None => {
                abort.abort();
                failed += 1;
            }
        }
    }
    failed
}

/// A transport that counts the requests that were not sent because of the 429 response. With
/// [`SendCheck::Disabled`], it lets such requests be sent.
#[derive(Debug)]
struct Layer {
    below: HttpTransport,
    send_check: SendCheck,
    held: AtomicU64,
}

impl Transport for Layer {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if self.send_check == SendCheck::Disabled {
            request.departure = DepartureCheck::default();
        }
        Box::pin(async move {
            let result = self.below.send(request).await;
            if matches!(&result, Err(error) if error.kind == TransportErrorKind::Held) {
                self.held.fetch_add(1, Ordering::SeqCst);
            }
            result
        })
    }
}
