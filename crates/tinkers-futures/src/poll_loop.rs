//! The poll loop: sends polls, classifies their responses, and waits between them.
//!
//! A [`PollHandler`] builds the requests and reads the bodies of the responses.

use std::fmt;
use std::future::{Future, ready};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tinkers_core::billing::BillingAction;
use tinkers_core::call::response_error;
use tinkers_core::hint::retry_after;
use tinkers_core::nesting::NestedMark;
use tinkers_core::outage::OutageBackoff;
use tinkers_core::retry::{
    API_ERROR_RETRIES, ExchangeKind, PROXY_ERROR_RETRIES, StatusAction, failure_kind,
};
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, AttemptOutcome, Caller, ClientId, Cost, Deduplication,
    Error, ErrorKind, HttpRequest, HttpResponse, PaymentWait, Readmission, RecoveredError, Result,
    RouteClass, SessionContext, Timestamp, TransportError, TransportErrorKind,
};

use crate::backoff::{PollBackoff, hint_of};
use crate::status_retries::{RetryCause, StatusRetries};

/// Builds the requests of a poll loop and handles its responses.
pub(crate) trait PollHandler: Send {
    /// The type of the value with which the loop ends.
    type Output: Send;

    /// Waits until a poll is needed, and returns `None`. If no further poll is needed, returns the output with which the loop ends.
    fn until_work(&mut self) -> impl Future<Output = Option<Self::Output>> + Send {
        ready(None)
    }

    /// Builds the request of the next poll. The loop calls this method after the rate limiter has admitted the poll. It calls the method
    /// again if the poll was admitted but not sent, because a rate-limited response (429) to another request made the limiter pause.
    fn request(&mut self) -> HttpRequest;

    /// Handles a response with a 2xx status and a body. An error ends the loop.
    fn on_success(
        &mut self,
        response: HttpResponse,
    ) -> impl Future<Output = Result<Verdict<Self::Output>>> + Send;

    /// Handles a response whose status means that the operation has no result yet, such as 408.
    fn on_not_ready(&mut self, response: HttpResponse) -> Verdict<Self::Output>;

    /// Called if the server delays the poll for a reason that the operation did not cause: the rate limit (429) or an unpaid bill (402).
    /// Does nothing by default.
    fn on_held_back(&mut self) {}

    /// Called after a response with an error status that is retried a few times, so that the next poll may differ. Does nothing by default.
    fn on_error_status(&mut self, response: &HttpResponse) {
        let _ = response;
    }

    /// Called after each poll that does not end the loop, before the wait for the next poll.
    fn before_wait(&mut self) {}

    /// Builds the error with which the loop ends, from a response whose status is not retried or was retried as often as allowed.
    fn final_error(kind: ErrorKind, response: &HttpResponse) -> Error {
        response_error(kind, response)
    }
}

/// The decision of a [`PollHandler`] on how the poll loop continues after a response.
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// The loop ends with this value.
    Done(T),
    /// The response reports progress. The next poll follows at once, and the counts of retries start again at 0.
    Progress,
    /// The server still works on the operation. The next poll follows after a pause if the server responded at once.
    NotReady,
    /// The response body is not a valid reply to a poll. A proxy may have sent or truncated the body, so the poll is retried a few times.
    Invalid(Error),
}

/// The state of a poll loop between polls.
pub(crate) struct PollLoop {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    /// The kind of error under which the retries of polls are counted and logged, such as `RecoveredError::Poll`.
    recovered_error: RecoveredError,
    /// The request id or session id that is logged with retried polls.
    subject: Box<str>,
    backoff: PollBackoff,
    retries: StatusRetries,
    readmission: Readmission,
    /// The position of the last poll in the queue of the rate limiter. If the server rejects the poll with a 429, the retry takes the same
    /// position again.
    arrival: Arrival,
    /// The wait of the loop for a payment. It begins with a 402 response and ends with the next other response.
    payment: PaymentWait,
}

/// A poll that was sent, with its timing and its response or error.
struct Exchange {
    sent_at: Timestamp,
    duration: Duration,
    outcome: Result<HttpResponse, TransportError>,
}

/// The outcome of a poll, classified by what the poll loop does next.
enum Reply {
    Success(HttpResponse),
    NotReady(HttpResponse),
    /// The poll has failed and is repeated after this wait.
    Retry {
        wait: Wait,
        is_held_back: bool,
    },
}

/// The kind of wait before the next poll.
enum Wait {
    Pause(Duration),
    /// The pause after a failure that may be part of an outage of the server. The pause ends early when the outage ends, but not before the
    /// server's retry delay (`hint`) has passed.
    Outage {
        sent_at: Timestamp,
        hint: Duration,
        pause: Duration,
    },
}

impl PollLoop {
    pub(crate) fn new(
        session: Arc<dyn SessionContext>,
        client: ClientId,
        recovered_error: RecoveredError,
        subject: &str,
    ) -> Self {
        Self {
            session,
            client,
            recovered_error,
            subject: subject.into(),
            backoff: PollBackoff::default(),
            retries: StatusRetries::default(),
            readmission: Readmission::New,
            arrival: Arrival::default(),
            payment: PaymentWait::default(),
        }
    }

    /// Sends polls until the handler ends the loop, and returns the handler's output. Each poll waits for permission from the rate limiter,
    /// at most until `deadline`.
    ///
    /// # Errors
    /// The error of the rate limiter, of the handler, or of a poll that failed and is not retried any more.
    pub(crate) async fn run<H: PollHandler>(
        &mut self,
        handler: &mut H,
        deadline: Option<Timestamp>,
    ) -> Result<H::Output> {
        loop {
            if let Some(output) = handler.until_work().await {
                return Ok(output);
            }
            let exchange = self.send(handler, deadline).await?;
            let duration = exchange.duration;
            let step = match self.classify(handler, exchange)? {
                Reply::Success(response) => {
                    let verdict = handler.on_success(response).await?;
                    self.apply(verdict, duration, Duration::ZERO)?
                }
                Reply::NotReady(response) => {
                    let hint = hint_of(&response, self.caller().time.wall());
                    let verdict = handler.on_not_ready(response);
                    self.apply(verdict, duration, hint)?
                }
                Reply::Retry { wait, is_held_back } => {
                    if is_held_back {
                        handler.on_held_back();
                    }
                    ControlFlow::Continue(wait)
                }
            };
            match step {
                ControlFlow::Break(output) => return Ok(output),
                ControlFlow::Continue(wait) => {
                    handler.before_wait();
                    self.wait(wait).await;
                }
            }
        }
    }

    /// Carries out the handler's decision about a response. Returns the output with which the loop ends, or the wait before the next poll.
    /// `duration` is the time from the poll to its response, and `hint` the server's retry delay.
    fn apply<T>(
        &mut self,
        verdict: Verdict<T>,
        duration: Duration,
        hint: Duration,
    ) -> Result<ControlFlow<T, Wait>> {
        Ok(ControlFlow::Continue(match verdict {
            Verdict::Done(output) => return Ok(ControlFlow::Break(output)),
            Verdict::Progress => {
                self.retries = StatusRetries::default();
                self.backoff = PollBackoff::default();
                Wait::Pause(Duration::ZERO)
            }
            Verdict::NotReady => self.not_ready(duration, hint),
            Verdict::Invalid(error) => {
                self.bounded_retry(RetryCause::Body, API_ERROR_RETRIES, Duration::ZERO, error)?
            }
        }))
    }

    fn caller(&self) -> &Caller {
        self.session.caller()
    }

    /// Waits until the rate limiter admits a poll, sends the poll, and reports its outcome to the limiter.
    async fn send<H: PollHandler>(
        &mut self,
        handler: &mut H,
        deadline: Option<Timestamp>,
    ) -> Result<Exchange> {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        loop {
            let ask = AdmissionRequest {
                class: RouteClass::Poll,
                client: self.client,
                cost: Cost::default(),
                deadline,
                in_flight_permit: None,
                readmission: std::mem::replace(&mut self.readmission, Readmission::New),
                is_nested: NestedMark::here().is_inside(),
            };
            let Admitted {
                mut permit,
                in_flight_permit,
                arrival,
            } = caller.admission.admit(ask).await?;
            self.arrival = arrival;
            let request = handler.request();
            let sent_at = caller.time.now();
            let outcome = caller.send(&mut permit, request).await;
            if matches!(&outcome, Err(error) if error.kind == TransportErrorKind::Held) {
                // The gate closed before the poll was sent.
                self.readmission = Readmission::AfterRefusal(arrival);
                continue;
            }
            permit.settle(attempt_outcome(&outcome, caller));
            drop(in_flight_permit);
            let duration = caller.time.now().since(sent_at);
            return Ok(Exchange {
                sent_at,
                duration,
                outcome,
            });
        }
    }

    /// Decides from the status or the transport error of a poll whether the poll is handled, retried or fails. Reports each response except
    /// a 5xx to the outage detector.
    fn classify<H: PollHandler>(&mut self, handler: &mut H, exchange: Exchange) -> Result<Reply> {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        let Exchange {
            sent_at,
            duration,
            outcome,
        } = exchange;
        let response = match outcome {
            Ok(response) => response,
            Err(error) => return self.after_transport_error(error, sent_at, duration),
        };
        let status = response.status;
        if status != StatusCode::PAYMENT_REQUIRED {
            self.payment.end();
        }
        let is_server_error = status.is_server_error();
        if !is_server_error {
            let outage = caller.outages.of(RouteClass::Poll);
            outage.answered(sent_at, sent_at.after(duration));
        }
        let hint = hint_of(&response, caller.time.wall());
        let kind = failure_kind(status);
        // A server that supports the whole protocol reports failed operations in the body, so its 5xx responses are failures of the
        // server.
        let reports_failures_in_body = session.profile().deduplicates == Deduplication::Everything;
        let (wait, is_held_back) = match StatusAction::of(ExchangeKind::Poll, &response) {
            StatusAction::Take => return Ok(Reply::Success(response)),
            StatusAction::NotReady => return Ok(Reply::NotReady(response)),
            StatusAction::Refused => {
                // The refusal has closed the gate of the class, so the next admission waits for the retry delay.
                self.readmission = Readmission::AfterRefusal(self.arrival);
                (Wait::Pause(Duration::ZERO), true)
            }
            StatusAction::PauseForBilling => {
                let now = caller.time.now();
                match caller.billing.on_payment_required(&mut self.payment, now) {
                    BillingAction::Pause(pause) => {
                        caller
                            .recovered_errors
                            .record(RecoveredError::Billing, &status);
                        (Wait::Pause(pause.max(hint)), true)
                    }
                    BillingAction::GiveUp => {
                        return Err(response_error(ErrorKind::Billing, &response));
                    }
                }
            }
            StatusAction::Repeat if is_server_error => {
                (self.outage_wait(&status, sent_at, hint), false)
            }
            StatusAction::RetryUpTo(_) if is_server_error && reports_failures_in_body => {
                (self.outage_wait(&status, sent_at, hint), false)
            }
            StatusAction::Repeat => (Wait::Pause(self.failure_pause(&status, hint)), false),
            StatusAction::RetryUpTo(limit) => {
                handler.on_error_status(&response);
                let cause = RetryCause::Status(status.as_u16());
                let error = H::final_error(kind, &response);
                (self.bounded_retry(cause, limit, hint, error)?, false)
            }
            StatusAction::Fail => return Err(H::final_error(kind, &response)),
        };
        Ok(Reply::Retry { wait, is_held_back })
    }

    fn after_transport_error(
        &mut self,
        error: TransportError,
        sent_at: Timestamp,
        duration: Duration,
    ) -> Result<Reply> {
        use TransportErrorKind as K;
        let retry_limit = match error.kind {
            K::Timeout | K::Connect | K::Broken => None,
            K::Tls | K::Decode | K::Redirect => Some(PROXY_ERROR_RETRIES),
            // The next response may be too large as well.
            K::TooLarge => Some(1),
            _ => Some(0),
        };
        // A timeout of a poll that was held for long is not a failure of the server.
        let limit = self.caller().timeouts.of(RouteClass::Poll).first_byte;
        let is_long_poll = error.kind == K::Timeout && duration >= limit / 2;
        let wait = if is_long_poll {
            self.count(&error);
            self.not_ready(duration, Duration::ZERO)
        } else if let Some(limit) = retry_limit {
            let cause = RetryCause::Transport(error.kind);
            self.bounded_retry(cause, limit, Duration::ZERO, error.into())?
        } else {
            self.outage_wait(&error, sent_at, Duration::ZERO)
        };
        let is_held_back = false;
        Ok(Reply::Retry { wait, is_held_back })
    }

    /// Returns the wait after a "not ready" response. The response shows that the server works on the operation, so the retry counts start
    /// again at 0.
    fn not_ready(&mut self, duration: Duration, hint: Duration) -> Wait {
        self.retries = StatusRetries::default();
        let jitter = &*self.session.caller().jitter;
        let pause = self.backoff.after_not_ready(duration, jitter);
        Wait::Pause(pause.max(hint))
    }

    /// Returns the wait before a retry. There are at most `limit` retries for the same cause.
    ///
    /// # Errors
    /// `error` if `cause` has no retries left. If the server sent a retry delay (`hint`), the error contains the time at which the delay
    /// ends.
    fn bounded_retry(
        &mut self,
        cause: RetryCause,
        limit: u32,
        hint: Duration,
        error: Error,
    ) -> Result<Wait> {
        if self.retries.may_retry(cause, limit) {
            return Ok(Wait::Pause(self.failure_pause(&error, hint)));
        }
        if hint.is_zero() {
            return Err(error);
        }
        let now = self.caller().time.now();
        Err(error.with_retry_at(now, now.after(hint)))
    }

    fn outage_wait(
        &mut self,
        cause: &dyn fmt::Display,
        sent_at: Timestamp,
        hint: Duration,
    ) -> Wait {
        let pause = self.failure_pause(cause, hint);
        Wait::Outage {
            sent_at,
            hint,
            pause,
        }
    }

    /// Counts and logs a failed poll, and returns the backoff before the next poll, which is at least `hint`, the server's retry delay.
    fn failure_pause(&mut self, cause: &dyn fmt::Display, hint: Duration) -> Duration {
        self.count(cause);
        let jitter = &*self.session.caller().jitter;
        self.backoff.after_failure(hint, jitter)
    }

    fn count(&self, cause: &dyn fmt::Display) {
        self.caller().recovered_errors.count(self.recovered_error);
        let (recovered_error, subject) = (self.recovered_error.name(), &self.subject);
        catch_panic(
            || tracing::debug!(recovered_error, %cause, subject, "polling again after an error"),
        );
    }

    async fn wait(&self, wait: Wait) {
        let caller = self.caller();
        match wait {
            Wait::Pause(pause) => caller.time.sleep(pause).await,
            Wait::Outage {
                sent_at,
                hint,
                pause,
            } => {
                let now = caller.time.now();
                let pause = OutageBackoff {
                    sent_at,
                    not_before: now.after(hint),
                    until: now.after(pause),
                };
                let outage = caller.outages.of(RouteClass::Poll);
                outage.back_off(pause, &*caller.time, &*caller.jitter).await;
            }
        }
    }
}

/// Converts the result of a poll to the outcome that the rate limiter expects. After a 429, the limiter sends no request of the route class
/// until the server's retry delay has passed.
fn attempt_outcome(
    outcome: &Result<HttpResponse, TransportError>,
    caller: &Caller,
) -> AttemptOutcome {
    let Ok(response) = outcome else {
        return AttemptOutcome::Unknown;
    };
    // The retry delay may be in the body. The body of a large result is not searched.
    if response.status != StatusCode::TOO_MANY_REQUESTS {
        return AttemptOutcome::Accepted;
    }
    AttemptOutcome::Refused {
        hint: retry_after(response, caller.time.wall()),
    }
}
