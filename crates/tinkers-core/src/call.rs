//! One call of the API, and those who make it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};

use crate::admission::{
    Admission, AdmissionRequest, Admitted, ClientId, Cost, Departure, InFlightPermit, RouteClass,
    SubmitPermit,
};
use crate::billing::BillingPause;
use crate::closing::{CloseSignal, CloseWatch, Exit};
use crate::error::{Error, ErrorKind, Sent};
use crate::jitter::Jitter;
use crate::nesting::{self, Mark};
use crate::notices::DeprecationNotices;
use crate::outage::Outages;
use crate::progress::ProgressCell;
use crate::recovered_error::RecoveredErrors;
use crate::retry::{Policy, RetryBudget};
use crate::session_lost::says_session_lost;
use crate::spawn::BoxFuture;
use crate::time::{Clock, Timestamp};
use crate::transport::{HttpRequest, HttpResponse, Timeouts, Transport, TransportError};

mod attempts;

use attempts::Attempts;

/// A request to be made, with everything that decides how.
#[derive(Debug, Clone)]
pub struct Call {
    /// The public method it belongs to, as `Client.method`; `None` for background work.
    pub operation: Option<&'static str>,
    /// The method.
    pub method: Method,
    /// Path and query below the base URL.
    pub path: String,
    /// Headers beyond the transport's own.
    pub headers: HeaderMap,
    /// The body: the same bytes on every attempt.
    pub body: Bytes,
    /// The lane.
    pub class: RouteClass,
    /// Whose queue it waits in.
    pub client: ClientId,
    /// What it takes from the budgets.
    pub cost: Cost,
    /// How often it is repeated.
    pub policy: Policy,
    /// When the caller no longer wants it: admission, attempts and pauses all end by then.
    pub deadline: Option<Timestamp>,
    /// Limits of one attempt.
    pub timeouts: Timeouts,
    /// The longest body of an answer, in bytes; that of the [class](HttpRequest::default_max_response_bytes) unless set.
    pub max_response_bytes: usize,
    /// Where its progress is told.
    pub progress: Option<Arc<ProgressCell>>,
    /// Answers that are given to the caller at once, where they would be repeated otherwise: because the caller knows a better
    /// request than the same one.
    pub is_final: Option<fn(&HttpResponse) -> bool>,
    /// Whether a success can be decoded. One that cannot was spoilt on its way, as by a proxy: where what may have been applied may be
    /// repeated, it is sent again a few times.
    pub is_readable: Option<fn(&HttpResponse) -> bool>,
}

/// Headers of a submission that the transport does not add.
const HEADERS: usize = 5;

impl Call {
    /// A JSON `POST` of `body`.
    pub fn post(path: impl Into<String>, body: Bytes, class: RouteClass) -> Self {
        let mut call = Self::bare(Method::POST, path.into(), class);
        // Its own and those of an attempt, without growing.
        call.headers.reserve(HEADERS);
        call.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        call.body = body;
        call
    }

    /// A `GET`.
    pub fn get(path: impl Into<String>, class: RouteClass) -> Self {
        Self::bare(Method::GET, path.into(), class)
    }

    fn bare(method: Method, path: String, class: RouteClass) -> Self {
        Self {
            operation: None,
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            class,
            client: ClientId(0),
            cost: Cost::default(),
            policy: Policy::PATIENT,
            deadline: None,
            timeouts: Timeouts::default(),
            max_response_bytes: HttpRequest::default_max_response_bytes(class),
            progress: None,
            is_final: None,
            is_readable: None,
        }
    }

    fn request(&self, now: Timestamp) -> HttpRequest {
        let mut request = HttpRequest::new(self.method.clone(), self.path.clone(), self.class);
        request.headers = self.headers.clone();
        request.body = self.body.clone();
        request.timeouts = self.timeouts;
        request.max_response_bytes = self.max_response_bytes;
        if let Some(deadline) = self.deadline {
            request.timeouts.total = request.timeouts.total.min(deadline.since(now));
        }
        request
    }
}

/// An accepted call: the answer, and the flight that lasts to the result.
#[derive(Debug)]
pub struct Accepted {
    /// The answer, with a status of 2xx.
    pub response: HttpResponse,
    /// To be held until the result of what was submitted is there.
    pub flight: InFlightPermit,
    /// From the start of the call, waits included, to the answer.
    pub elapsed: Duration,
    /// What is known of the attempts before the one that was accepted: `MaybeSent` when one of them may have been applied too.
    pub earlier: Sent,
}

/// Admission that is had before its call is made, so that who waits for it takes up a place in the queue and no more. Dropped, it
/// gives back all that was taken.
#[derive(Debug)]
pub struct Entry {
    admitted: Admitted,
    /// When the wait began.
    began: Timestamp,
}

/// The wait for an [`Entry`]. Little more than a pointer, since many wait at once.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Enter<'a> {
    turn: BoxFuture<'a, Result<Admitted, Error>>,
    began: Timestamp,
    closed: CloseWatch<'a>,
}

impl Future for Enter<'_> {
    type Output = Result<Entry, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(closed) = self.closed.poll(cx) {
            return Poll::Ready(Err(closed));
        }
        let began = self.began;
        let turn = self.turn.as_mut().poll(cx);
        turn.map_ok(|admitted| Entry { admitted, began })
    }
}

impl fmt::Debug for Enter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enter")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

/// Makes calls over the seams: transport, admission, time, jitter, retry budget.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Sends.
    pub transport: Arc<dyn Transport>,
    /// Says when.
    pub admission: Arc<dyn Admission>,
    /// Tells the time.
    pub time: Arc<dyn Clock>,
    /// Spreads the repeats.
    pub jitter: Arc<dyn Jitter>,
    /// Slows the repeats.
    pub budget: Arc<dyn RetryBudget>,
    /// Ends pauses when a server that failed is back.
    pub outages: Arc<Outages>,
    /// What was said of routes that will go.
    pub notices: Arc<DeprecationNotices>,
    /// Holds while billing is unsettled.
    pub billing: Arc<BillingPause>,
    /// How long billing may hold a job.
    pub billing_limit: Duration,
    /// Counts the errors that are gone on from.
    pub recovered_errors: Arc<RecoveredErrors>,
    /// Ends calls when the client is closed.
    pub closing: Arc<CloseSignal>,
}

impl Caller {
    /// Makes `call`, repeating it as its policy says. Dropping the future gives back all that was taken; the server may have
    /// seen the request.
    ///
    /// When [`Caller::closing`] is closed, a call that the server has not accepted ends at once with that reason, wherever it
    /// waits: for admission, in a pause before a repeat, or for an answer. Nothing is submitted after that.
    ///
    /// An error says `MaybeSent` when any attempt of the call may have been applied, and not only the last one.
    pub async fn call(&self, call: Call) -> Result<Accepted, Error> {
        self.make(call, self.time.now(), None).await
    }

    /// Waits for the admission of a call that is yet to be made, and that asks for the same: see [`Caller::call_with`].
    pub fn enter(&self, ask: AdmissionRequest) -> Enter<'_> {
        Enter {
            began: self.time.now(),
            turn: self.admission.admit(AdmissionRequest {
                is_nested: Mark::here().is_inside(),
                ..ask
            }),
            closed: self.closing.watch(),
        }
    }

    /// Sends one attempt of `request` under its permit: the limiter is asked once more before it leaves, and hears of a refusal as
    /// soon as its head is there. Where it may not leave, the error is of kind
    /// [`Held`](crate::TransportErrorKind::Held), and the caller asks for admission again, in its old place.
    pub async fn send(
        &self,
        permit: &mut SubmitPermit,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(permit.departure(), request).await
    }

    /// The same for a submission, which does not leave once it is retracted or the client is closed.
    async fn submit(
        &self,
        permit: &mut SubmitPermit,
        exit: &Arc<Exit>,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(permit.departure().by(exit), request).await
    }

    async fn send_as(
        &self,
        departure: Departure,
        mut request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        request.departure = departure;
        nesting::inside(|| self.transport.send(request)).await
    }

    /// The same as [`Caller::call`], whose first attempt goes out at once. To be called as soon as there is an `entry`: others wait
    /// for what it holds.
    pub async fn call_with(&self, entry: Entry, call: Call) -> Result<Accepted, Error> {
        self.make(call, entry.began, Some(entry.admitted)).await
    }

    async fn make(
        &self,
        mut call: Call,
        began: Timestamp,
        admitted: Option<Admitted>,
    ) -> Result<Accepted, Error> {
        let mut attempts = Attempts::new(self, began);
        let operation = call.operation;
        let outcome = {
            let mut run = pin!(attempts.run(&mut call, admitted));
            let mut closed = self.closing.watch();
            // The signal first, so that nothing leaves once it is closed. One await, since the state of a call is large.
            poll_fn(|cx| match closed.poll(cx) {
                Poll::Ready(reason) => Poll::Ready(Err((reason, true))),
                Poll::Pending => (run.as_mut().poll(cx)).map_err(|error| (error, false)),
            })
            .await
        };
        outcome.map_err(|(mut error, is_closed)| {
            if attempts.maybe_applied || (is_closed && attempts.is_in_doubt()) {
                error = error.with_sent(Sent::MaybeSent);
            }
            match operation {
                Some(operation) => error.with_operation(operation),
                None => error,
            }
        })
    }
}

/// The error that an answer means, with the server's own words.
pub fn answer_error(kind: ErrorKind, answer: &HttpResponse) -> Error {
    let words = tinkers_wire::error_text(&answer.body);
    let words = words.unwrap_or_else(|| "the server gave no reason".to_owned());
    let kind = if says_session_lost(answer.status, &words) {
        ErrorKind::SessionLost
    } else {
        kind
    };
    let advice = match kind {
        ErrorKind::SessionLost => "; connect a new client and go on from the last checkpoint",
        ErrorKind::Authentication => "; check the API key",
        ErrorKind::PermissionDenied => "; this key may not do that",
        ErrorKind::Billing => "; settle the bill in the console",
        _ => "",
    };
    Error::new(kind, Sent::Answered, format!("{words}{advice}"))
        .with_answer(answer.status.as_u16(), &answer.body)
}
