//! Calls of the API, and the caller that makes them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use tinkers_limits::RetryBudget;

use crate::admission::{
    Admission, AdmissionRequest, Admitted, ClientId, Cost, DepartureCheck, InFlightPermit,
    RouteClass, SubmitPermit,
};
use crate::billing::BillingPause;
use crate::closing::{CloseSignal, CloseWatch, Exit};
use crate::error::{Error, ErrorKind, Sent};
use crate::jitter::Jitter;
use crate::nesting::{self, NestedMark};
use crate::notices::DeprecationNotices;
use crate::outage::Outages;
use crate::progress::ProgressCell;
use crate::recovered_error::RecoveredErrors;
use crate::retry::{CallPolicy, RetryPolicy};
use crate::session_lost::says_session_lost;
use crate::spawn::BoxFuture;
use crate::time::{Clock, Timestamp};
use crate::transport::{ClassTimeouts, HttpRequest, HttpResponse, Transport, TransportError};

mod attempts;

use attempts::Attempts;

/// A call of the API: the request, and how to admit, send and retry it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The public method, as `Client.method`; `None` for background work.
    pub operation: Option<&'static str>,
    /// The HTTP method.
    pub method: Method,
    /// Path and query below the base URL.
    pub path: String,
    /// Headers in addition to those of the transport.
    pub headers: HeaderMap,
    /// The body, the same for all attempts.
    pub body: Bytes,
    /// The class.
    pub class: RouteClass,
    /// The client in whose queue it waits.
    pub client: ClientId,
    /// The cost.
    pub cost: Cost,
    /// The retry policy.
    pub policy: CallPolicy,
    /// The time at which the call fails, whatever it is waiting for.
    pub deadline: Option<Timestamp>,
    /// The time limit of one attempt; `None` applies the client's timeouts of the class.
    pub attempt_limit: Option<Duration>,
    /// The maximum size of the response body, in bytes; by default that of the [class](HttpRequest::default_max_response_bytes).
    pub max_response_bytes: usize,
    /// Receives the progress of the call.
    pub progress: Option<Arc<ProgressCell>>,
    /// Returns whether a response is final that would be retried otherwise, because the caller has a better request to make.
    pub is_final: Option<fn(&HttpResponse) -> bool>,
    /// Returns whether a success can be decoded. If not, a proxy may have corrupted it: the call is retried a few times if the policy repeats
    /// requests that may have been applied.
    pub is_readable: Option<fn(&HttpResponse) -> bool>,
}

/// The number of headers that a submission adds to those of the transport.
const HEADERS: usize = 5;

impl Call {
    /// Creates a `POST` of a JSON body.
    pub fn post(path: impl Into<String>, body: Bytes, class: RouteClass) -> Self {
        let mut call = Self::bare(Method::POST, path.into(), class);
        // Room for all headers, so that the map does not grow.
        call.headers.reserve(HEADERS);
        call.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        call.body = body;
        call
    }

    /// Creates a `GET`.
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
            policy: CallPolicy::PATIENT,
            deadline: None,
            attempt_limit: None,
            max_response_bytes: HttpRequest::default_max_response_bytes(class),
            progress: None,
            is_final: None,
            is_readable: None,
        }
    }

    fn request(&self, now: Timestamp, timeouts: &ClassTimeouts) -> HttpRequest {
        let mut request = HttpRequest::new(self.method.clone(), self.path.clone(), self.class);
        request.headers = self.headers.clone();
        request.body = self.body.clone();
        let timeouts = timeouts.of(self.class);
        request.timeouts = match self.attempt_limit {
            Some(limit) => timeouts.limited_to(limit),
            None => timeouts,
        };
        request.max_response_bytes = self.max_response_bytes;
        if let Some(deadline) = self.deadline {
            request.timeouts.total = request.timeouts.total.min(deadline.since(now));
        }
        request
    }
}

/// The success of a call: the response, and the in-flight permit until the result.
#[derive(Debug)]
pub struct Accepted {
    /// The response, with a status of 2xx.
    pub response: HttpResponse,
    /// The in-flight permit, to be held until the result.
    pub flight: InFlightPermit,
    /// The time from the start of the call to the response, waits included.
    pub elapsed: Duration,
    /// `MaybeSent` if an attempt before the accepted one may have been applied too.
    pub earlier: Sent,
}

/// An admission that is held before its call is built, so that a waiting call takes no memory for its request. Dropping it returns the
/// permits.
#[derive(Debug)]
pub struct CallAdmission {
    admitted: Admitted,
    /// When the wait began.
    began: Timestamp,
}

/// Future of a [`CallAdmission`]. Small, since many may wait at once.
#[must_use = "a future does nothing unless it is awaited"]
pub struct CallAdmissionFuture<'a> {
    pending: BoxFuture<'a, Result<Admitted, Error>>,
    began: Timestamp,
    closed: CloseWatch<'a>,
}

impl Future for CallAdmissionFuture<'_> {
    type Output = Result<CallAdmission, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(closed) = self.closed.poll(cx) {
            return Poll::Ready(Err(closed));
        }
        let began = self.began;
        let polled = self.pending.as_mut().poll(cx);
        polled.map_ok(|admitted| CallAdmission { admitted, began })
    }
}

impl fmt::Debug for CallAdmissionFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAdmissionFuture")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

/// Makes calls: admits, sends and retries them.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Sends requests.
    pub transport: Arc<dyn Transport>,
    /// Admits requests.
    pub admission: Arc<dyn Admission>,
    /// The clock.
    pub time: Arc<dyn Clock>,
    /// Spreads retries.
    pub jitter: Arc<dyn Jitter>,
    /// Slows down retries.
    pub budget: Arc<RetryBudget>,
    /// Ends backoff when a server has recovered.
    pub outages: Arc<Outages>,
    /// Logs deprecation notices.
    pub notices: Arc<DeprecationNotices>,
    /// Pauses requests while the server requires payment.
    pub billing: Arc<BillingPause>,
    /// The maximum duration of a billing pause.
    pub billing_limit: Duration,
    /// Counts recovered errors.
    pub recovered_errors: Arc<RecoveredErrors>,
    /// Fails calls when the client is closed.
    pub closing: Arc<CloseSignal>,
    /// The timeouts of requests.
    pub timeouts: ClassTimeouts,
    /// The client's retry policy, which limits that of each call.
    pub retries: RetryPolicy,
}

impl Caller {
    /// Makes `call`, with retries according to its policy.
    ///
    /// When [`Caller::closing`] is closed, a call that the server has not accepted fails at once with that reason, whether it waits for
    /// admission, a retry or a response. Nothing is sent after that.
    ///
    /// # Errors
    /// An error has [`Sent::MaybeSent`] if any attempt may have been applied.
    ///
    /// # Cancel safety
    /// Dropping the future returns all permits. The server may have received the request.
    pub async fn call(&self, call: Call) -> Result<Accepted, Error> {
        self.make(call, self.time.now(), None).await
    }

    /// Waits for the admission of a call that is built afterwards, with the same class, client and cost; see [`Caller::call_admitted`].
    pub fn admit(&self, ask: AdmissionRequest) -> CallAdmissionFuture<'_> {
        CallAdmissionFuture {
            began: self.time.now(),
            pending: self.admission.admit(AdmissionRequest {
                is_nested: NestedMark::here().is_inside(),
                ..ask
            }),
            closed: self.closing.watch(),
        }
    }

    /// Sends one attempt of `request` under its permit. The limiter is checked again at the socket, and informed of a refusal when the head of
    /// the response arrives.
    ///
    /// # Errors
    /// [`Held`](crate::TransportErrorKind::Held) if the gate has closed meanwhile; the caller asks for readmission then.
    pub async fn send(
        &self,
        permit: &mut SubmitPermit,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(permit.departure(), request).await
    }

    /// Sends one attempt of a submission, unless it is retracted or the client is closed before.
    async fn submit(
        &self,
        permit: &mut SubmitPermit,
        exit: &Arc<Exit>,
        request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        self.send_as(permit.departure().with_exit(exit), request)
            .await
    }

    async fn send_as(
        &self,
        departure: DepartureCheck,
        mut request: HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        request.departure = departure;
        nesting::inside(|| self.transport.send(request)).await
    }

    /// Makes `call` like [`Caller::call`], with an admission for its first attempt. Call it without delay, since others wait for the permits.
    pub async fn call_admitted(
        &self,
        admission: CallAdmission,
        call: Call,
    ) -> Result<Accepted, Error> {
        self.make(call, admission.began, Some(admission.admitted))
            .await
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
            // The signal first, so that nothing is sent after the close. A single await, since the state of a call is large.
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

/// Returns the error for a response, with the message of the server.
pub fn response_error(kind: ErrorKind, response: &HttpResponse) -> Error {
    let message = tinkers_wire::error_text(&response.body);
    let message = message.unwrap_or_else(|| "the server gave no reason".to_owned());
    let kind = if says_session_lost(response.status, &message) {
        ErrorKind::SessionLost
    } else {
        kind
    };
    let advice = match kind {
        ErrorKind::SessionLost => "; connect a new client and continue from the last checkpoint",
        ErrorKind::Authentication => "; check the API key",
        ErrorKind::PermissionDenied => "; use a key with this permission",
        ErrorKind::Billing => "; pay the bill in the console",
        _ => "",
    };
    Error::new(kind, Sent::Answered, format!("{message}{advice}"))
        .with_response(response.status.as_u16(), &response.body)
}
