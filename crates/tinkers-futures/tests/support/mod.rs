//! A session over a script of answers, on a clock that is moved by hand.

#![expect(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use tinkers_core::retry::Draw;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, Arrival, BillingPause, BoxFuture, BytesGuard, Caller,
    ClientId, Clock, Error, ErrorKind, Fact, FixedJitter, HttpRequest, HttpResponse,
    InFlightPermit, Ledger, ManualClock, Readmission, Receipt, RetryBudget, Sent, ServerProfile,
    SessionContext, Settlement, Spawn, SubmitPermit, Task, Timestamp, Transport, TransportError,
    TransportErrorKind,
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
    /// The task that asked panics.
    Panics,
}

/// A session whose server follows a script; what it is asked is kept.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) clock: ManualClock,
    pub(crate) asked: Mutex<Vec<(Timestamp, HttpRequest)>>,
    pub(crate) settled: Mutex<Vec<Settlement>>,
    /// The place in its queue that each poll asked for, in order.
    pub(crate) places: Mutex<Vec<Readmission>>,
    /// What was given back, in order.
    pub(crate) given_back: Mutex<Vec<&'static str>>,
    pub(crate) bytes_held: AtomicU64,
    pub(crate) most_bytes_held: AtomicU64,
    script: Mutex<VecDeque<Step>>,
    /// Scripts of their own for requests whose path ends so.
    by_route: Mutex<Vec<(&'static str, VecDeque<Step>)>>,
    tasks: Mutex<Vec<Spawned>>,
    gate: Mutex<Timestamp>,
}

/// The context that clients see.
#[derive(Debug)]
pub(crate) struct FakeSession {
    pub(crate) server: Arc<Scripted>,
    spawner: Box<dyn Spawn>,
    caller: Caller,
    config: ClientConfig,
    progress_deadline: Duration,
    operation_deadline: Option<Duration>,
}

pub(crate) fn session(script: impl IntoIterator<Item = Step>) -> (Arc<FakeSession>, Arc<Scripted>) {
    session_with_limits(script, Duration::from_secs(7200), None)
}

/// A session that gives up an operation without news for `progress_deadline`, or after `operation_deadline`.
pub(crate) fn session_with_limits(
    script: impl IntoIterator<Item = Step>,
    progress_deadline: Duration,
    operation_deadline: Option<Duration>,
) -> (Arc<FakeSession>, Arc<Scripted>) {
    build(script, progress_deadline, operation_deadline, None)
}

/// A session whose background tasks run where `spawner` puts them. Its server is asked nothing.
pub(crate) fn session_on(spawner: impl Spawn) -> Arc<FakeSession> {
    build([], Duration::from_secs(7200), None, Some(Box::new(spawner))).0
}

fn build(
    script: impl IntoIterator<Item = Step>,
    progress_deadline: Duration,
    operation_deadline: Option<Duration>,
    spawner: Option<Box<dyn Spawn>>,
) -> (Arc<FakeSession>, Arc<Scripted>) {
    let clock = ManualClock::new();
    let server = Arc::new(Scripted {
        clock: clock.clone(),
        asked: Mutex::default(),
        settled: Mutex::default(),
        places: Mutex::default(),
        given_back: Mutex::default(),
        bytes_held: AtomicU64::new(0),
        most_bytes_held: AtomicU64::new(0),
        script: Mutex::new(script.into_iter().collect()),
        by_route: Mutex::default(),
        tasks: Mutex::default(),
        gate: Mutex::new(Timestamp::ORIGIN),
    });
    let caller = Caller {
        transport: Arc::new(Wire(Arc::clone(&server))),
        admission: Arc::new(Gate(Arc::clone(&server))),
        time: Arc::new(clock),
        jitter: Arc::new(FixedJitter(0.0)),
        budget: Arc::new(Unmetered),
        outages: Arc::default(),
        notices: Arc::default(),
        billing: Arc::new(BillingPause::default()),
        billing_limit: Duration::from_secs(3600),
        recovered_errors: Arc::default(),
        closing: Arc::default(),
    };
    let config = ClientConfig::default();
    (
        Arc::new(FakeSession {
            server: Arc::clone(&server),
            spawner: spawner.unwrap_or_else(|| Box::new(Tasks(Arc::downgrade(&server)))),
            caller,
            config,
            progress_deadline,
            operation_deadline,
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

    /// Another script, for requests whose path ends in `route`.
    pub(crate) fn on(&self, route: &'static str, script: impl IntoIterator<Item = Step>) {
        let script = script.into_iter().collect();
        self.by_route.lock().unwrap().push((route, script));
    }

    /// The bodies that a route was sent.
    pub(crate) fn bodies(&self, route: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let of_route = asked
            .iter()
            .filter(|(_, request)| request.path.ends_with(route));
        let body = |request: &HttpRequest| String::from_utf8(request.body.to_vec()).unwrap();
        of_route.map(|(_, request)| body(request)).collect()
    }

    fn step(&self, path: &str) -> Step {
        let mut by_route = self.by_route.lock().unwrap();
        let own = by_route.iter_mut().find(|(route, _)| path.ends_with(route));
        let step = match own {
            Some((_, script)) => script.pop_front(),
            None => self.script.lock().unwrap().pop_front(),
        };
        step.unwrap_or_else(|| panic!("the script of {path} is long enough"))
    }

    /// Drives `work` to its end, and background tasks with it, moving the clock whenever nothing else can happen.
    pub(crate) fn drive<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        for _ in 0..100_000 {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut cx = Context::from_waker(&waker);
            if let Poll::Ready(output) = work.as_mut().poll(&mut cx) {
                return output;
            }
            self.run_tasks(&mut cx);
            assert!(
                woken.0.load(Ordering::SeqCst) || self.clock.advance_to_next().is_some(),
                "nothing to wait for: it hangs"
            );
        }
        panic!("it does not end");
    }

    fn run_tasks(&self, cx: &mut Context<'_>) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.retain_mut(|task| {
            !task.aborted.load(Ordering::SeqCst) && task.work.as_mut().poll(cx).is_pending()
        });
        self.tasks.lock().unwrap().append(&mut tasks);
    }

    /// Ends all background tasks, as the end of a runtime does.
    pub(crate) fn abort_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        drop(tasks);
    }

    /// How many background tasks are there.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.lock().unwrap().len()
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A background task.
struct Spawned {
    work: BoxFuture<'static, ()>,
    aborted: Arc<AtomicBool>,
}

impl std::fmt::Debug for Spawned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").finish_non_exhaustive()
    }
}

/// Tasks that run while the test drives the server.
#[derive(Debug)]
struct Tasks(Weak<Scripted>);

impl Spawn for Tasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let aborted = Arc::new(AtomicBool::new(false));
        let task = Spawned {
            work,
            aborted: Arc::clone(&aborted),
        };
        if let Some(server) = self.0.upgrade() {
            server.tasks.lock().unwrap().push(task);
        }
        Task::new(move || aborted.store(true, Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct Wire(Arc<Scripted>);

impl Transport for Wire {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let path = request.path.clone();
            self.0
                .asked
                .lock()
                .unwrap()
                .push((self.0.clock.now(), request));
            loop {
                let step = self.0.step(&path);
                let (status, headers, body) = match step {
                    Step::After(delay) => {
                        let time: &dyn Clock = &self.0.clock;
                        time.sleep(delay).await;
                        continue;
                    }
                    Step::Panics => panic!("out of tricks"),
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
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let place = ask.reentry;
            let arrival = {
                let mut places = self.0.places.lock().unwrap();
                places.push(place);
                match place {
                    Readmission::New => Arrival(places.len() as u64),
                    Readmission::AfterRefusal(arrival) => arrival,
                }
            };
            let at = *self.0.gate.lock().unwrap();
            self.0.clock.sleep_until(at).await;
            let ledger = || Arc::<Scripted>::clone(&self.0);
            Ok(Admitted {
                permit: SubmitPermit::new(ledger(), Receipt::default()),
                flight: InFlightPermit::new(ledger()),
                arrival,
            })
        })
    }
}

impl Ledger for Scripted {
    fn settle(&self, _: Receipt, settlement: Settlement) {
        self.settled.lock().unwrap().push(settlement);
        self.given_back.lock().unwrap().push("permit");
        if let Settlement::Refused { hint } = settlement {
            let pause = hint.unwrap_or(Duration::from_secs(1));
            *self.gate.lock().unwrap() = self.clock.now().after(pause);
        }
    }

    fn land(&self) {
        self.given_back.lock().unwrap().push("flight");
    }
}

#[derive(Debug)]
struct Unmetered;

impl RetryBudget for Unmetered {
    fn draw(&self, _: ErrorKind) -> Draw {
        Draw::Granted
    }

    fn credit(&self) {}
}

impl SessionContext for FakeSession {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn spawner(&self) -> &dyn Spawn {
        &*self.spawner
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
        self.operation_deadline
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
