//! Calls over real sockets before a server that asks for a pause: no request leaves from its 429 to the end of its hint.
//!
//! The limiter admits more calls than the connections carry. When every connection carries one, the server refuses one of them and
//! holds the others, whose answers then free the connections for calls that were admitted before the refusal.

mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tinkers_core::{
    BoxFuture, Call, Caller, ClientId, Clock, Departure, HttpRequest, HttpResponse, Jitter,
    RouteClass, SplitMix, Transport, TransportError, TransportErrorKind,
};
use tinkers_dispatch::{Limiter, LimiterSettings, SharedRetryBudget};
use tinkers_transport::{ClassConnectionLimits, HttpTransport, IoRuntime, Protocol};

use self::server::Server;
use crate::check::{Fault, Kind};

/// What the server asks for.
pub(crate) const HINT: Duration = Duration::from_millis(1200);
/// What arrives so soon after the head of the refusal was on the wire already.
const ON_THE_WIRE: Duration = Duration::from_millis(100);
/// All calls are over by then, whatever the machine does meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// One kind of connections, and how many calls.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// Over HTTP/2, and HTTP/1.1 otherwise.
    pub is_http2: bool,
    /// Connections.
    pub connections: usize,
    /// Streams that the server allows on each.
    pub streams: usize,
    /// The body of the refusal takes longer than the answers to the other requests.
    pub is_body_slow: bool,
    /// Calls that are made at once.
    pub calls: usize,
    /// Calls that are made before, so that the limiter admits a quarter of them at once.
    pub warm_up: usize,
}

/// Whether the transport asks the limiter when a request leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// As it does.
    Yes,
    /// It is kept from it: the control.
    No,
}

/// What was seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Calls that were made at once.
    pub calls: u64,
    /// Requests that the server refused.
    pub refusals: u64,
    /// Requests that arrived more than 100 ms after the refusal and before the end of its hint.
    pub early: u64,
    /// Requests that arrived within 100 ms after the refusal, so that they had left before the client could know of it.
    pub on_the_wire: u64,
    /// Requests that were admitted and did not leave.
    pub held: u64,
    /// Calls that did not end well.
    pub failed: u64,
}

impl Scene {
    /// Requests under way when every connection is full.
    const fn capacity(&self) -> usize {
        self.connections * self.streams
    }

    /// Runs it once.
    pub fn run(&self, asks: Asks, seed: u64) -> Seen {
        let server = Server::start(*self);
        let runtime = IoRuntime::shared().expect("the system gives a thread");
        let mut limits = ClassConnectionLimits::of(RouteClass::Sample);
        limits.max_connections = self.connections;
        let transport = HttpTransport::builder(server.url())
            .runtime(runtime.clone())
            .lane(RouteClass::Sample, limits)
            .protocol(match self.is_http2 {
                true => Protocol::Http2PriorKnowledge,
                false => Protocol::Http1,
            })
            .build()
            .expect("the settings are valid");
        let layer = Arc::new(Layer {
            below: transport,
            asks,
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
            server.close_in();
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
        Seen {
            calls: self.calls as u64,
            refusals: pause.refusals,
            early,
            on_the_wire,
            held: layer.held.load(Ordering::SeqCst),
            failed,
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "{version}, {} connections", self.connections)?;
        if self.streams > 1 {
            write!(f, " of {} streams", self.streams)?;
        }
        if self.is_body_slow {
            f.write_str(", slow body of the 429")?;
        }
        Ok(())
    }
}

impl Seen {
    /// The figures, by name.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("calls", self.calls),
            ("refusals", self.refusals),
            ("early", self.early),
            ("already on the wire", self.on_the_wire),
            ("held", self.held),
        ]
    }

    /// What does not hold.
    pub fn faults(&self, scene: &Scene) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.early > 0 {
            let what = format!("{} requests arrived in a pause: {scene}", self.early);
            faults.push(Fault::new(Kind::Undercut, what));
        }
        if self.failed > 0 {
            let what = format!("{} calls did not end well: {scene}", self.failed);
            faults.push(Fault::new(Kind::Stuck, what));
        }
        if self.refusals != 1 {
            let what = format!("{} refusals where one was planned: {scene}", self.refusals);
            faults.push(Fault::new(Kind::Counts, what));
        }
        faults
    }
}

fn caller(transport: Arc<dyn Transport>, runtime: &IoRuntime, seed: u64) -> Arc<Caller> {
    let jitter: Arc<dyn Jitter> = Arc::new(SplitMix::new(seed));
    let limiter = Arc::new(Limiter::new(LimiterSettings::default()));
    let admission = limiter.admission(runtime.time(), Arc::clone(&jitter));
    Arc::new(Caller {
        transport,
        admission: Arc::new(admission),
        time: runtime.time(),
        jitter,
        budget: Arc::new(SharedRetryBudget::default()),
        outages: Arc::default(),
        notices: Arc::default(),
        billing: Arc::default(),
        billing_limit: Duration::ZERO,
        recovered_errors: Arc::default(),
        closing: Arc::default(),
    })
}

/// Makes so many calls at once; gives how many did not end well.
async fn calls(caller: &Arc<Caller>, count: usize) -> u64 {
    let time: &dyn Clock = &*caller.time;
    let until = time.now().after(PATIENCE);
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

/// Counts what was held, and in the control keeps the transport from asking.
#[derive(Debug)]
struct Layer {
    below: HttpTransport,
    asks: Asks,
    held: AtomicU64,
}

impl Transport for Layer {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if self.asks == Asks::No {
            request.departure = Departure::default();
        }
        Box::pin(async move {
            let answer = self.below.send(request).await;
            if matches!(&answer, Err(error) if error.kind == TransportErrorKind::Held) {
                self.held.fetch_add(1, Ordering::SeqCst);
            }
            answer
        })
    }
}
