//! A session over a script of answers, on a clock that is moved by hand.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use tinkers_core::retry::Draw;
use tinkers_core::{
    Admission, Admitted, Arrival, Ask, BillingPause, BoxFuture, BytesGuard, Caller, ClientId,
    Error, ErrorKind, Fact, FixedJitter, Flight, HttpRequest, HttpResponse, Ledger, ManualClock,
    Moment, Receipt, RetryBudget, Sent, ServerProfile, SessionContext, Settlement, Spawn,
    SubmitPermit, Task, Time, Transport, TransportError, TransportErrorKind,
};
use tinkers_wire::{ClientConfig, DynamicConfig};

/// One answer of the script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A status with a JSON body.
    Json(u16, &'static str),
    /// A status with a header and a JSON body.
    WithHeader(u16, &'static str, &'static str),
    /// A protobuf body.
    Protobuf(Bytes),
    /// No answer.
    Fails(TransportErrorKind),
    /// The next answer takes so long.
    After(Duration),
}

/// A session whose server follows a script; what it is asked is kept.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) clock: ManualClock,
    pub(crate) asked: Mutex<Vec<(Moment, HttpRequest)>>,
    pub(crate) settled: Mutex<Vec<Settlement>>,
    pub(crate) bytes_held: AtomicU64,
    pub(crate) most_bytes_held: AtomicU64,
    script: Mutex<VecDeque<Step>>,
    gate: Mutex<Moment>,
}

/// The context that clients see.
#[derive(Debug)]
pub(crate) struct FakeSession {
    pub(crate) server: Arc<Scripted>,
    caller: Caller,
    config: ClientConfig,
    progress_deadline: Duration,
}

pub(crate) fn session(script: impl IntoIterator<Item = Step>) -> (Arc<FakeSession>, Arc<Scripted>) {
    session_with_deadline(script, Duration::from_secs(7200))
}

pub(crate) fn session_with_deadline(
    script: impl IntoIterator<Item = Step>,
    progress_deadline: Duration,
) -> (Arc<FakeSession>, Arc<Scripted>) {
    let clock = ManualClock::new();
    let server = Arc::new(Scripted {
        clock: clock.clone(),
        asked: Mutex::default(),
        settled: Mutex::default(),
        bytes_held: AtomicU64::new(0),
        most_bytes_held: AtomicU64::new(0),
        script: Mutex::new(script.into_iter().collect()),
        gate: Mutex::new(Moment::ORIGIN),
    });
    let caller = Caller {
        transport: Arc::new(Wire(Arc::clone(&server))),
        admission: Arc::new(Gate(Arc::clone(&server))),
        time: Arc::new(clock),
        jitter: Arc::new(FixedJitter(0.0)),
        budget: Arc::new(Unmetered),
        billing: Arc::new(BillingPause::default()),
        billing_limit: Duration::from_secs(3600),
    };
    let config = ClientConfig::default();
    (
        Arc::new(FakeSession {
            server: Arc::clone(&server),
            caller,
            config,
            progress_deadline,
        }),
        server,
    )
}

impl Scripted {
    /// The moments at which it was asked, in seconds.
    pub(crate) fn asked_at(&self) -> Vec<f64> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|(at, _)| at.since_origin().as_secs_f64())
            .collect()
    }

    /// Drives `work` to its end, moving the clock whenever nothing else can happen.
    pub(crate) fn drive<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100_000 {
            if let Poll::Ready(output) = work.as_mut().poll(&mut cx) {
                return output;
            }
            assert!(
                self.clock.advance_to_next().is_some(),
                "nothing to wait for: it hangs"
            );
        }
        panic!("it does not end");
    }
}

#[derive(Debug)]
struct Wire(Arc<Scripted>);

impl Transport for Wire {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            self.0
                .asked
                .lock()
                .unwrap()
                .push((self.0.clock.now(), request));
            loop {
                let step = self
                    .0
                    .script
                    .lock()
                    .unwrap()
                    .pop_front()
                    .expect("the script is long enough");
                let (status, headers, body) = match step {
                    Step::After(delay) => {
                        let time: &dyn Time = &self.0.clock;
                        time.sleep(delay).await;
                        continue;
                    }
                    Step::Fails(kind) => {
                        return Err(TransportError::new(kind, Sent::MaybeSent, "broken"));
                    }
                    Step::Json(status, body) => {
                        (status, json(), Bytes::from_static(body.as_bytes()))
                    }
                    Step::WithHeader(status, name, value) => {
                        let mut headers = json();
                        headers.insert(HeaderName::from_static(name), value.parse().unwrap());
                        (status, headers, Bytes::from_static(b"{}"))
                    }
                    Step::Protobuf(body) => {
                        let mut headers = HeaderMap::new();
                        headers.insert("content-type", "application/x-protobuf".parse().unwrap());
                        (200, headers, body)
                    }
                };
                return Ok(HttpResponse {
                    status: StatusCode::from_u16(status).unwrap(),
                    headers,
                    body,
                });
            }
        })
    }
}

fn json() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers
}

/// A gate and nothing else: what a refusal closes, for a second without a hint.
#[derive(Debug)]
struct Gate(Arc<Scripted>);

impl Admission for Gate {
    fn admit(&self, _: Ask) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let at = *self.0.gate.lock().unwrap();
            self.0.clock.sleep_until(at).await;
            let ledger = Arc::<Scripted>::clone(&self.0);
            Ok(Admitted {
                permit: SubmitPermit::new(ledger, Receipt::default()),
                flight: Flight::free(),
                arrival: Arrival::default(),
            })
        })
    }
}

impl Ledger for Scripted {
    fn settle(&self, _: Receipt, settlement: Settlement) {
        self.settled.lock().unwrap().push(settlement);
        if let Settlement::Refused { hint } = settlement {
            let pause = hint.unwrap_or(Duration::from_secs(1));
            *self.gate.lock().unwrap() = self.clock.now().after(pause);
        }
    }

    fn land(&self) {}
}

#[derive(Debug)]
struct Unmetered;

impl RetryBudget for Unmetered {
    fn draw(&self, _: ErrorKind) -> Draw {
        Draw::Granted
    }

    fn credit(&self) {}
}

/// Operations are driven by the test itself.
#[derive(Debug)]
struct NoSpawn;

impl Spawn for NoSpawn {
    fn spawn(&self, _: BoxFuture<'static, ()>) -> Task {
        panic!("nothing here runs in the background");
    }
}

impl SessionContext for FakeSession {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn spawner(&self) -> &dyn Spawn {
        &NoSpawn
    }
    fn session_id(&self) -> &str {
        "session"
    }
    fn config(&self) -> &ClientConfig {
        &self.config
    }
    fn dynamic_config(&self) -> Arc<DynamicConfig> {
        Arc::default()
    }
    fn profile(&self) -> Arc<ServerProfile> {
        Arc::default()
    }
    fn learn(&self, _: Fact) {}
    fn check_open(&self) -> Result<(), Error> {
        Ok(())
    }
    fn next_client(&self) -> ClientId {
        ClientId(0)
    }
    fn next_model_seq(&self) -> u64 {
        0
    }
    fn next_sampling_seq(&self) -> u64 {
        0
    }
    fn operation_deadline(&self) -> Option<Duration> {
        None
    }
    fn progress_deadline(&self) -> Duration {
        self.progress_deadline
    }
    fn response_bytes(&self, bytes: u64) -> BoxFuture<'_, BytesGuard> {
        let held = self.server.bytes_held.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.server
            .most_bytes_held
            .fetch_max(held, Ordering::SeqCst);
        let server = Arc::clone(&self.server);
        let guard = BytesGuard::new(move || {
            server.bytes_held.fetch_sub(bytes, Ordering::SeqCst);
        });
        Box::pin(async move { guard })
    }
}
