//! A caller with a scripted server, a rate-limit gate and a manual clock.
#![expect(
    dead_code,
    reason = "each test file is a program of its own and uses a part"
)]

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tinkers_core::{
    Accepted, Admission, AdmissionRequest, Admitted, Arrival, AttemptOutcome, Billing, BoxFuture,
    Call, Caller, Clock, DepartureCheck, Error, FixedJitter, HttpRequest, HttpResponse,
    InFlightPermit, Ledger, ManualClock, Readmission, RetryBudget, RouteClass, Sent, SubmitPermit,
    Ticket, Timeouts, Timestamp, Transport, TransportError, TransportErrorKind,
};

/// The behaviour of the scripted server for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Responds with this status and body.
    Says(u16, &'static str),
    /// Responds with this status and one header.
    Header(u16, &'static str, &'static str),
    /// Fails without a response.
    Fails(TransportErrorKind, Sent),
    /// Receives the request and never responds.
    Silent,
    /// Never completes the connection, so that the request is not sent.
    Dials,
    /// Behaves like the given other step, but only after the given number of seconds.
    Late(u64, &'static Self),
}

#[derive(Debug)]
struct Server {
    clock: ManualClock,
    script: Mutex<VecDeque<Step>>,
    usually: Step,
    seen: Mutex<Vec<Duration>>,
    departures: Mutex<Vec<DepartureCheck>>,
    retry_counts: Mutex<Vec<String>>,
    timeouts: Mutex<Vec<Timeouts>>,
}

impl Transport for Server {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let count = &request.headers["x-stainless-retry-count"];
        let count = count.to_str().unwrap().to_owned();
        self.retry_counts.lock().unwrap().push(count);
        self.timeouts.lock().unwrap().push(request.timeouts);
        let departure = request.departure;
        self.departures.lock().unwrap().push(departure.clone());
        self.seen
            .lock()
            .unwrap()
            .push(self.clock.now().since_origin());
        let mut step = self.script.lock().unwrap().pop_front();
        let mut late = Duration::ZERO;
        if let Some(Step::Late(seconds, then)) = step {
            late = Duration::from_secs(seconds);
            step = Some(*then);
        }
        let clock: &dyn Clock = &self.clock;
        let late = clock.sleep(late);
        let (status, headers, body) = match step.unwrap_or(self.usually) {
            Step::Late(..) => panic!("one delay is enough"),
            Step::Says(status, body) => (status, HeaderMap::new(), body),
            Step::Header(status, name, value) => {
                let header = (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
                (status, HeaderMap::from_iter([header]), "{}")
            }
            Step::Silent => {
                assert!(departure.may_leave());
                return Box::pin(std::future::pending());
            }
            Step::Dials => return Box::pin(std::future::pending()),
            Step::Fails(kind, sent) => {
                return Box::pin(async move {
                    late.await;
                    Err(TransportError::new(kind, sent, "no answer"))
                });
            }
        };
        let answer = HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from_static(body.as_bytes()),
        };
        Box::pin(async move {
            late.await;
            Ok(answer)
        })
    }
}

/// A rate limiter for tests. After a 429 response it admits no requests for the server's retry delay, or for a second if the response
/// contains no retry delay. It counts in-flight permits and has no other limits.
#[derive(Debug, Clone)]
struct Gate {
    clock: ManualClock,
    opens_at: Arc<Mutex<Timestamp>>,
    in_flight_permits: Arc<AtomicUsize>,
    /// The number of admissions that are left. Later admissions fail, as if the client was closed.
    left: Arc<AtomicUsize>,
    /// The queue position with which each attempt asked for admission, in order.
    readmissions: Arc<Mutex<Vec<Readmission>>>,
    /// The kinds of the permits that were returned to the limiter, in order: `permit` or `in_flight_permit`.
    returned_permits: Arc<Mutex<Vec<&'static str>>>,
}

impl Admission for Gate {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Err(Error::closed());
            }
            let arrival = {
                let mut readmissions = self.readmissions.lock().unwrap();
                readmissions.push(ask.readmission);
                match ask.readmission {
                    Readmission::New => Arrival(readmissions.len() as u64),
                    Readmission::AfterRefusal(arrival) => arrival,
                }
            };
            loop {
                let opens_at = *self.opens_at.lock().unwrap();
                if ask.class == RouteClass::Control || opens_at <= self.clock.now() {
                    break;
                }
                self.clock.sleep_until(opens_at).await;
            }
            let ledger = || Arc::new(self.clone());
            let in_flight_permit = ask.in_flight_permit.unwrap_or_else(|| {
                self.in_flight_permits.fetch_add(1, Ordering::SeqCst);
                InFlightPermit::new(ledger())
            });
            Ok(Admitted {
                permit: SubmitPermit::new(ledger(), Ticket::default()),
                in_flight_permit,
                arrival,
            })
        })
    }
}

impl Ledger for Gate {
    fn settle(&self, _: Ticket, settled: AttemptOutcome) {
        self.returned_permits.lock().unwrap().push("permit");
        if let AttemptOutcome::Refused { hint } = settled {
            let pause = hint.unwrap_or(Duration::from_secs(1));
            let until = self.clock.now().after(pause);
            let mut opens_at = self.opens_at.lock().unwrap();
            *opens_at = until.max(*opens_at);
        }
    }

    fn release(&self) {
        self.in_flight_permits.fetch_sub(1, Ordering::SeqCst);
        self.returned_permits
            .lock()
            .unwrap()
            .push("in_flight_permit");
    }
}

/// A [`Caller`] under test, with a scripted server, a rate limiter for tests and a manual clock.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) caller: Caller,
    server: Arc<Server>,
    gate: Gate,
    /// The number of in-flight permits that were held at each pause of the call, in order.
    permits_during_pauses: Mutex<Vec<usize>>,
}

impl World {
    /// Creates a caller whose server behaves according to `script` for the first requests, and like `usually` afterwards. There is no
    /// jitter, and the retry budget is full.
    pub(crate) fn new(script: &[Step], usually: Step) -> Self {
        let clock = ManualClock::new();
        let server = Arc::new(Server {
            clock: clock.clone(),
            script: Mutex::new(script.iter().copied().collect()),
            usually,
            seen: Mutex::default(),
            departures: Mutex::default(),
            retry_counts: Mutex::default(),
            timeouts: Mutex::default(),
        });
        let gate = Gate {
            clock: clock.clone(),
            opens_at: Arc::default(),
            in_flight_permits: Arc::default(),
            left: Arc::new(AtomicUsize::new(usize::MAX)),
            readmissions: Arc::default(),
            returned_permits: Arc::default(),
        };
        let transport: Arc<dyn Transport> = Arc::<Server>::clone(&server);
        let caller = Caller {
            transport,
            admission: Arc::new(gate.clone()),
            time: Arc::new(clock.clone()),
            jitter: Arc::new(FixedJitter(0.0)),
            budget: Arc::new(RetryBudget::default()),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Billing {
                limit: Duration::from_secs(60),
                ..Billing::default()
            },
            recovered_errors: Arc::default(),
            closing: Arc::default(),
            timeouts: Default::default(),
            retries: Default::default(),
        };
        Self {
            clock,
            caller,
            server,
            gate,
            permits_during_pauses: Mutex::default(),
        }
    }

    /// Returns the timeouts of each request that was sent, in order.
    pub(crate) fn timeouts(&self) -> Vec<Timeouts> {
        self.server.timeouts.lock().unwrap().clone()
    }

    /// Replaces the jitter source: all pauses get the maximum jitter.
    pub(crate) fn with_jitter(mut self) -> Self {
        self.caller.jitter = Arc::new(FixedJitter(1.0));
        self
    }

    /// Replaces the retry budget by an empty one.
    pub(crate) fn with_empty_budget(mut self) -> Self {
        self.caller.budget = Arc::new(RetryBudget::new(0));
        self
    }

    /// Closes the limiter until the clock has advanced by `since_origin`.
    pub(crate) fn closed_until(self, since_origin: Duration) -> Self {
        *self.gate.opens_at.lock().unwrap() = Timestamp::from_origin(since_origin);
        self
    }

    /// Makes each admission after this number of admissions fail, as if the client was closed.
    pub(crate) fn closed_after(self, admissions: usize) -> Self {
        self.gate.left.store(admissions, Ordering::SeqCst);
        self
    }

    /// Runs `call` to completion. Advances the clock whenever all tasks sleep.
    pub(crate) fn call(&self, call: Call) -> Result<Accepted, Error> {
        self.call_within(call, Duration::MAX)
            .expect("there is no limit")
    }

    /// Runs `call` for at most `limit`. Returns `None` if it does not complete in time.
    pub(crate) fn call_within(
        &self,
        call: Call,
        limit: Duration,
    ) -> Option<Result<Accepted, Error>> {
        self.drive(self.caller.call(call), limit)
    }

    /// Runs `call` to completion. Its first attempt uses an admission that was acquired before the call, with `ask`.
    pub(crate) fn call_with_admission(
        &self,
        ask: AdmissionRequest,
        call: Call,
    ) -> Result<Accepted, Error> {
        let work = async {
            let admission = self.caller.admit(ask).await?;
            self.caller.call_admitted(admission, call).await
        };
        self.drive(work, Duration::MAX).expect("there is no limit")
    }

    fn drive<T>(&self, work: impl Future<Output = T>, limit: Duration) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = work.as_mut().poll(&mut cx) {
                return Some(outcome);
            }
            if self.clock.now().since_origin() > limit {
                return None;
            }
            let in_flight_permits = self.gate.in_flight_permits.load(Ordering::SeqCst);
            self.permits_during_pauses
                .lock()
                .unwrap()
                .push(in_flight_permits);
            self.clock.advance_to_next().expect("a pending call sleeps");
        }
    }

    /// Runs `call` until it first waits, then drops it.
    pub(crate) fn give_up_while_it_waits(&self, call: Call) {
        let mut work = std::pin::pin!(self.caller.call(call));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            work.as_mut().poll(&mut cx).is_pending(),
            "the request waits"
        );
    }

    /// Runs `call` until it first waits, then closes the client. Returns the error of the call.
    pub(crate) fn close_while_it_waits(&self, call: Call) -> Error {
        let mut work = std::pin::pin!(self.caller.call(call));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            work.as_mut().poll(&mut cx).is_pending(),
            "the request waits"
        );
        self.caller.closing.close(Error::closed());
        match work.as_mut().poll(&mut cx) {
            Poll::Ready(outcome) => outcome.expect_err("closed"),
            Poll::Pending => panic!("it waits on"),
        }
    }

    /// Returns the times at which the server received requests.
    pub(crate) fn seen(&self) -> Vec<Duration> {
        self.server.seen.lock().unwrap().clone()
    }

    /// Returns the value of the header `x-stainless-retry-count` of each attempt, in order.
    pub(crate) fn retry_counts(&self) -> Vec<String> {
        self.server.retry_counts.lock().unwrap().clone()
    }

    /// Returns the number of requests that the transport received and whose [`DepartureCheck`] still allows it to send them.
    pub(crate) fn departures_that_may_leave(&self) -> usize {
        let departures = self.server.departures.lock().unwrap();
        departures.iter().filter(|one| one.may_leave()).count()
    }

    /// Returns the number of in-flight permits that were held at each pause of the call.
    pub(crate) fn permits_during_pauses(&self) -> Vec<usize> {
        self.permits_during_pauses.lock().unwrap().clone()
    }

    /// Returns the queue position with which each attempt asked for admission, in order.
    pub(crate) fn readmissions(&self) -> Vec<Readmission> {
        self.gate.readmissions.lock().unwrap().clone()
    }

    /// Returns the kinds of the permits that were returned to the limiter, in order: `permit` or `in_flight_permit`.
    pub(crate) fn returned_permits(&self) -> Vec<&'static str> {
        self.gate.returned_permits.lock().unwrap().clone()
    }

    /// Returns the number of tokens that are left in the retry budget.
    pub(crate) fn tokens(&self) -> u64 {
        self.caller.budget.tokens()
    }

    /// Returns the number of in-flight permits that are held.
    pub(crate) fn in_flight_permits(&self) -> usize {
        self.gate.in_flight_permits.load(Ordering::SeqCst)
    }
}

/// Returns a `POST` call of a route class.
pub(crate) fn post(class: RouteClass) -> Call {
    Call::post("/x", Bytes::from_static(b"{}"), class)
}
