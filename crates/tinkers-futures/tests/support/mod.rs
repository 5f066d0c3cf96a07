//! A fake session whose server follows a script, on a manual clock.

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
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, Arrival, AttemptOutcome, Billing, BoxFuture, BytesGuard,
    Caller, ClientId, Clock, Error, FixedJitter, HttpRequest, HttpResponse, InFlightPermit, Ledger,
    ManualClock, ProfileUpdate, Readmission, RetryBudget, Sent, ServerProfile, SessionContext,
    Spawn, SubmitPermit, Task, Ticket, Timestamp, Transport, TransportError, TransportErrorKind,
};
use tinkers_wire::{ClientConfig, DynamicConfig};

/// One step in the script of the fake server, usually its response to the next request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The server responds with this status and JSON body.
    Json(u16, &'static str),
    /// The server responds with this status, header and JSON body.
    WithHeader(u16, &'static str, &'static str),
    /// The server responds with this protobuf body.
    Protobuf(Bytes),
    /// The request fails with a transport error of this kind.
    Fails(TransportErrorKind),
    /// The response in the next step of the script is delayed by this time.
    After(Duration),
    /// The transport panics instead of sending the request.
    Panics,
}

/// A fake server that responds as in a script, and records the requests that it receives.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) clock: ManualClock,
    pub(crate) requests: Mutex<Vec<(Timestamp, HttpRequest)>>,
    pub(crate) settled: Mutex<Vec<AttemptOutcome>>,
    /// For each poll in order: whether it asked the rate limiter for a new place in the queue, or for its earlier place.
    pub(crate) readmissions: Mutex<Vec<Readmission>>,
    /// The kinds of the rate limiter's permits that requests have returned, in the order of return.
    pub(crate) released: Mutex<Vec<&'static str>>,
    pub(crate) bytes_held: AtomicU64,
    pub(crate) max_bytes_held: AtomicU64,
    /// The error with which the session was closed, if it is closed.
    pub(crate) ended: Mutex<Option<Error>>,
    /// The number of times that the server was asked whether it knows the session.
    pub(crate) confirmations: AtomicU64,
    pub(crate) profile: Mutex<ServerProfile>,
    script: Mutex<VecDeque<Step>>,
    /// The scripts for requests to particular routes. A script applies to requests whose path ends in its route.
    by_route: Mutex<Vec<(&'static str, VecDeque<Step>)>>,
    tasks: Mutex<Vec<Spawned>>,
    /// The time until which the fake rate limiter sends no request, after a rate-limited response (429).
    gate: Mutex<Timestamp>,
}

/// A session context whose requests go to a fake server.
#[derive(Debug)]
pub(crate) struct FakeSession {
    pub(crate) server: Arc<Scripted>,
    spawner: Box<dyn Spawn>,
    pub(crate) caller: Caller,
    config: ClientConfig,
    progress_deadline: Duration,
    operation_deadline: Option<Duration>,
}

pub(crate) fn session(script: impl IntoIterator<Item = Step>) -> (Arc<FakeSession>, Arc<Scripted>) {
    session_with_limits(script, Duration::from_secs(7200), None)
}

/// Creates a session with a fake server that follows `script`. `progress_deadline` and `operation_deadline` are the time limits of its
/// operations.
pub(crate) fn session_with_limits(
    script: impl IntoIterator<Item = Step>,
    progress_deadline: Duration,
    operation_deadline: Option<Duration>,
) -> (Arc<FakeSession>, Arc<Scripted>) {
    build(script, progress_deadline, operation_deadline, None)
}

/// Creates a session whose fake server has no scripted responses. Its background tasks run on `spawner`.
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
        requests: Mutex::default(),
        settled: Mutex::default(),
        readmissions: Mutex::default(),
        released: Mutex::default(),
        bytes_held: AtomicU64::new(0),
        max_bytes_held: AtomicU64::new(0),
        ended: Mutex::default(),
        confirmations: AtomicU64::new(0),
        profile: Mutex::default(),
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
        budget: Arc::new(RetryBudget::new(u64::MAX)),
        outages: Arc::default(),
        notices: Arc::default(),
        billing: Billing {
            limit: Duration::from_secs(3600),
            ..Billing::default()
        },
        recovered_errors: Arc::default(),
        closing: Arc::default(),
        timeouts: Default::default(),
        retries: Default::default(),
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
    /// Returns the times at which requests arrived, in seconds from the origin of the clock.
    pub(crate) fn request_times(&self) -> Vec<f64> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|(at, _)| at.since_origin().as_secs_f64())
            .collect()
    }

    /// Adds a script of responses for requests whose path ends in `route`.
    pub(crate) fn on(&self, route: &'static str, script: impl IntoIterator<Item = Step>) {
        let script = script.into_iter().collect();
        self.by_route.lock().unwrap().push((route, script));
    }

    /// Returns the bodies of the requests to a route.
    pub(crate) fn bodies(&self, route: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let of_route = requests
            .iter()
            .filter(|(_, request)| request.path.ends_with(route));
        let body = |request: &HttpRequest| String::from_utf8(request.body.to_vec()).unwrap();
        of_route.map(|(_, request)| body(request)).collect()
    }

    fn step(&self, path: &str) -> Step {
        let mut by_route = self.by_route.lock().unwrap();
        let script = by_route.iter_mut().find(|(route, _)| path.ends_with(route));
        let step = match script {
            Some((_, script)) => script.pop_front(),
            None => self.script.lock().unwrap().pop_front(),
        };
        step.unwrap_or_else(|| panic!("the script of {path} is too short"))
    }

    /// Runs `work` and the background tasks until `work` completes. Advances the clock whenever all of them wait.
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
                "the work never completes: there is no timer left"
            );
        }
        panic!("the work does not end");
    }

    fn run_tasks(&self, cx: &mut Context<'_>) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.retain_mut(|task| {
            !task.aborted.load(Ordering::SeqCst) && task.work.as_mut().poll(cx).is_pending()
        });
        self.tasks.lock().unwrap().append(&mut tasks);
    }

    /// Drops all background tasks, like the end of a runtime.
    pub(crate) fn abort_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        drop(tasks);
    }

    /// Returns the number of background tasks.
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

/// A background task, which makes progress only while [`Scripted::drive`] runs.
struct Spawned {
    work: BoxFuture<'static, ()>,
    aborted: Arc<AtomicBool>,
}

impl std::fmt::Debug for Spawned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").finish_non_exhaustive()
    }
}

/// A spawner of background tasks, which make progress only while [`Scripted::drive`] runs.
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
                .requests
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
                    Step::Panics => panic!("a scripted panic"),
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

/// A fake rate limiter without queues and limits. It only pauses after a rate-limited response (429), for the server's retry delay or for
/// one second.
#[derive(Debug)]
struct Gate(Arc<Scripted>);

impl Admission for Gate {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let readmission = ask.readmission;
            let arrival = {
                let mut readmissions = self.0.readmissions.lock().unwrap();
                readmissions.push(readmission);
                match readmission {
                    Readmission::New => Arrival(readmissions.len() as u64),
                    Readmission::AfterRefusal(arrival) => arrival,
                }
            };
            let at = *self.0.gate.lock().unwrap();
            self.0.clock.sleep_until(at).await;
            let ledger = || Arc::<Scripted>::clone(&self.0);
            Ok(Admitted {
                permit: SubmitPermit::new(ledger(), Ticket::default()),
                in_flight_permit: InFlightPermit::new(ledger()),
                arrival,
            })
        })
    }
}

impl Ledger for Scripted {
    fn settle(&self, _: Ticket, outcome: AttemptOutcome) {
        self.settled.lock().unwrap().push(outcome);
        self.released.lock().unwrap().push("permit");
        if let AttemptOutcome::Refused { hint } = outcome {
            let pause = hint.unwrap_or(Duration::from_secs(1));
            *self.gate.lock().unwrap() = self.clock.now().after(pause);
        }
    }

    fn release(&self) {
        self.released.lock().unwrap().push("in_flight_permit");
    }
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
        Arc::new(self.server.profile.lock().unwrap().clone())
    }
    fn learn(&self, _: ProfileUpdate) {}
    fn check_open(&self) -> Result<(), Error> {
        let ended = self.server.ended.lock().unwrap().clone();
        ended.map_or(Ok(()), Err)
    }
    fn confirm(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.server.confirmations.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(self.check_open()))
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
        self.server.max_bytes_held.fetch_max(held, Ordering::SeqCst);
        let server = Arc::clone(&self.server);
        let guard = BytesGuard::new(move || {
            server.bytes_held.fetch_sub(bytes, Ordering::SeqCst);
        });
        Box::pin(async move { guard })
    }
}
