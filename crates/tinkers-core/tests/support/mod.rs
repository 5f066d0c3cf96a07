//! A caller over a scripted server, a gate and a clock that is moved by hand.
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
use tinkers_core::retry::Draw;
use tinkers_core::{
    Accepted, Admission, AdmissionRequest, Admitted, Arrival, BillingPause, BoxFuture, Call,
    Caller, Clock, Departure, Error, ErrorKind, FixedJitter, HttpRequest, HttpResponse,
    InFlightPermit, Ledger, ManualClock, Readmission, Receipt, RetryBudget, RouteClass, Sent,
    Settlement, SubmitPermit, Timestamp, Transport, TransportError, TransportErrorKind,
};

/// What the server does about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Answers with a status and a body.
    Says(u16, &'static str),
    /// Answers with a status and a header.
    Header(u16, &'static str, &'static str),
    /// Gives no answer.
    Fails(TransportErrorKind, Sent),
    /// Takes the request and never answers.
    Silent,
    /// Is never reached.
    Dials,
    /// Does this after so many seconds.
    Late(u64, &'static Self),
}

#[derive(Debug)]
struct Server {
    clock: ManualClock,
    script: Mutex<VecDeque<Step>>,
    usually: Step,
    seen: Mutex<Vec<Duration>>,
    departures: Mutex<Vec<Departure>>,
    retry_counts: Mutex<Vec<String>>,
}

impl Transport for Server {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let count = &request.headers["x-stainless-retry-count"];
        let count = count.to_str().unwrap().to_owned();
        self.retry_counts.lock().unwrap().push(count);
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

/// Follows hints as a limiter does, closes for a second without one, and counts flights.
#[derive(Debug, Clone)]
struct Gate {
    clock: ManualClock,
    opens_at: Arc<Mutex<Timestamp>>,
    flights: Arc<AtomicUsize>,
    /// The admissions left before the client counts as closed.
    left: Arc<AtomicUsize>,
    /// The place in its queue that each attempt asked for, in order.
    places: Arc<Mutex<Vec<Readmission>>>,
    /// What was given back, in order.
    given_back: Arc<Mutex<Vec<&'static str>>>,
}

impl Admission for Gate {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
                return Err(Error::closed());
            }
            let arrival = {
                let mut places = self.places.lock().unwrap();
                places.push(ask.reentry);
                match ask.reentry {
                    Readmission::New => Arrival(places.len() as u64),
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
            let flight = ask.flight.unwrap_or_else(|| {
                self.flights.fetch_add(1, Ordering::SeqCst);
                InFlightPermit::new(ledger())
            });
            Ok(Admitted {
                permit: SubmitPermit::new(ledger(), Receipt::default()),
                flight,
                arrival,
            })
        })
    }
}

impl Ledger for Gate {
    fn settle(&self, _: Receipt, settled: Settlement) {
        self.given_back.lock().unwrap().push("permit");
        if let Settlement::Refused { hint } = settled {
            let pause = hint.unwrap_or(Duration::from_secs(1));
            let until = self.clock.now().after(pause);
            let mut opens_at = self.opens_at.lock().unwrap();
            *opens_at = until.max(*opens_at);
        }
    }

    fn land(&self) {
        self.flights.fetch_sub(1, Ordering::SeqCst);
        self.given_back.lock().unwrap().push("flight");
    }
}

#[derive(Debug)]
struct Budget {
    has_any: Draw,
    credits: Arc<AtomicUsize>,
}

impl RetryBudget for Budget {
    fn draw(&self, _: ErrorKind) -> Draw {
        self.has_any
    }

    fn credit(&self) {
        self.credits.fetch_add(1, Ordering::SeqCst);
    }
}

/// One caller and all that it sees.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) caller: Caller,
    server: Arc<Server>,
    gate: Gate,
    credits: Arc<AtomicUsize>,
    /// The flights held each time that the caller went to sleep.
    asleep_with: Mutex<Vec<usize>>,
}

impl World {
    /// A server that follows `script` and then does `usually`; no jitter, a full budget.
    pub(crate) fn new(script: &[Step], usually: Step) -> Self {
        let clock = ManualClock::new();
        let server = Arc::new(Server {
            clock: clock.clone(),
            script: Mutex::new(script.iter().copied().collect()),
            usually,
            seen: Mutex::default(),
            departures: Mutex::default(),
            retry_counts: Mutex::default(),
        });
        let gate = Gate {
            clock: clock.clone(),
            opens_at: Arc::default(),
            flights: Arc::default(),
            left: Arc::new(AtomicUsize::new(usize::MAX)),
            places: Arc::default(),
            given_back: Arc::default(),
        };
        let credits = Arc::<AtomicUsize>::default();
        let transport: Arc<dyn Transport> = Arc::<Server>::clone(&server);
        let caller = Caller {
            transport,
            admission: Arc::new(gate.clone()),
            time: Arc::new(clock.clone()),
            jitter: Arc::new(FixedJitter(0.0)),
            budget: Arc::new(Budget {
                has_any: Draw::Granted,
                credits: Arc::clone(&credits),
            }),
            outages: Arc::default(),
            notices: Arc::default(),
            billing: Arc::new(BillingPause::default()),
            billing_limit: Duration::from_secs(60),
            recovered_errors: Arc::default(),
            closing: Arc::default(),
        };
        Self {
            clock,
            caller,
            server,
            gate,
            credits,
            asleep_with: Mutex::default(),
        }
    }

    /// The same with as much jitter as there may be.
    pub(crate) fn with_jitter(mut self) -> Self {
        self.caller.jitter = Arc::new(FixedJitter(1.0));
        self
    }

    /// The same with nothing in its retry budget.
    pub(crate) fn with_empty_budget(mut self) -> Self {
        self.caller.budget = Arc::new(Budget {
            has_any: Draw::Empty,
            credits: Arc::clone(&self.credits),
        });
        self
    }

    /// The same, with nothing admitted before this.
    pub(crate) fn closed_until(self, since_origin: Duration) -> Self {
        *self.gate.opens_at.lock().unwrap() = Timestamp::from_origin(since_origin);
        self
    }

    /// The same, closed after `admissions`.
    pub(crate) fn closed_after(self, admissions: usize) -> Self {
        self.gate.left.store(admissions, Ordering::SeqCst);
        self
    }

    /// Makes `call` to its end, moving the clock whenever everything is asleep.
    pub(crate) fn call(&self, call: Call) -> Result<Accepted, Error> {
        self.call_within(call, Duration::MAX)
            .expect("time has no end")
    }

    /// The same; `None` when it goes on after `limit`.
    pub(crate) fn call_within(
        &self,
        call: Call,
        limit: Duration,
    ) -> Option<Result<Accepted, Error>> {
        self.drive(self.caller.call(call), limit)
    }

    /// Makes `call` with an admission that it was given before.
    pub(crate) fn call_with_admission(
        &self,
        ask: AdmissionRequest,
        call: Call,
    ) -> Result<Accepted, Error> {
        let work = async {
            let entry = self.caller.enter(ask).await?;
            self.caller.call_with(entry, call).await
        };
        self.drive(work, Duration::MAX).expect("time has no end")
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
            let flights = self.gate.flights.load(Ordering::SeqCst);
            self.asleep_with.lock().unwrap().push(flights);
            self.clock
                .advance_to_next()
                .expect("it sleeps, or it would be done");
        }
    }

    /// Makes `call` until it first waits, and drops it.
    pub(crate) fn give_up_while_it_waits(&self, call: Call) {
        let mut work = std::pin::pin!(self.caller.call(call));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(work.as_mut().poll(&mut cx).is_pending(), "it waits");
    }

    /// Makes `call` until it first waits, closes the client, and returns how the call ends.
    pub(crate) fn close_while_it_waits(&self, call: Call) -> Error {
        let mut work = std::pin::pin!(self.caller.call(call));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(work.as_mut().poll(&mut cx).is_pending(), "it waits");
        self.caller.closing.close(Error::closed());
        match work.as_mut().poll(&mut cx) {
            Poll::Ready(outcome) => outcome.expect_err("closed"),
            Poll::Pending => panic!("it waits on"),
        }
    }

    /// When the server saw requests.
    pub(crate) fn seen(&self) -> Vec<Duration> {
        self.server.seen.lock().unwrap().clone()
    }

    /// What each attempt says of how many came before it.
    pub(crate) fn retry_counts(&self) -> Vec<String> {
        self.server.retry_counts.lock().unwrap().clone()
    }

    /// How many of the requests seen may still leave.
    pub(crate) fn departures_that_may_leave(&self) -> usize {
        let departures = self.server.departures.lock().unwrap();
        departures.iter().filter(|one| one.may_leave()).count()
    }

    /// The flights held at each pause.
    pub(crate) fn asleep_with(&self) -> Vec<usize> {
        self.asleep_with.lock().unwrap().clone()
    }

    /// The place in its queue that each attempt asked for.
    pub(crate) fn places(&self) -> Vec<Readmission> {
        self.gate.places.lock().unwrap().clone()
    }

    /// Permits and flights in the order in which they were given back.
    pub(crate) fn given_back(&self) -> Vec<&'static str> {
        self.gate.given_back.lock().unwrap().clone()
    }

    /// How often the retry budget was paid back.
    pub(crate) fn credits(&self) -> usize {
        self.credits.load(Ordering::SeqCst)
    }

    /// The flights held now.
    pub(crate) fn flights(&self) -> usize {
        self.gate.flights.load(Ordering::SeqCst)
    }
}

/// A submission of `class`.
pub(crate) fn post(class: RouteClass) -> Call {
    Call::post("/x", Bytes::from_static(b"{}"), class)
}
