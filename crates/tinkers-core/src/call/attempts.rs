//! The attempts of a call: admission, sending, the action for the response, and the pause before a retry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tinkers_limits::RetryDraw;

use super::same_reason::SameReason;
use super::{Accepted, Call, Caller, response_error};
use crate::admission::{
    AdmissionRequest, Admitted, AttemptOutcome, InFlightPermit, Readmission, RouteClass,
};
use crate::billing::{BillingAction, PaymentWait};
use crate::closing::SendDecision;
use crate::error::{Error, ErrorKind, Phase, Sent};
use crate::jitter::Jitter;
use crate::nesting::NestedMark;
use crate::outage::OutageBackoff;
use crate::progress::{AttemptGuard, ProgressCell};
use crate::recovered_error::RecoveredError;
use crate::retry::{self, Applied, RetryAction, SPREAD, WhenMaybeApplied};
use crate::time::Timestamp;
use crate::transport::{HttpResponse, TransportErrorKind};
use crate::user_code::catch_panic;

/// The body size in bytes above which a request makes an extra pause of [`LARGE_BODY_PAUSE`] after a 429 response without a retry delay.
const LARGE_BODY: u64 = 128 * 1024;
/// The extra pause of a large request after a 429 response without a retry delay.
const LARGE_BODY_PAUSE: Duration = Duration::from_secs(5);

/// The maximum number of retries of a call because of successful responses that could not be decoded.
const MAX_UNREADABLE: u32 = 3;

/// The state of one call, across all of its attempts.
pub(super) struct Attempts<'a> {
    caller: &'a Caller,
    began: Timestamp,
    /// The part of the time since `began` that does not count towards the time limit for retries: waits for admission, and pauses that the
    /// server asked for.
    held_back: Duration,
    made: u32,
    repeats: u32,
    /// The number of successful responses that could not be decoded.
    unreadable: u32,
    same_reason: SameReason,
    /// Whether the call has not been admitted yet, so that none of its attempts can have been sent.
    is_waiting: bool,
    /// Whether an attempt before the current one may have been applied.
    pub(super) maybe_applied: bool,
    /// Whether the current attempt is being sent, or has ended and may have been applied.
    in_doubt: bool,
    /// Decides once whether the current attempt is sent: a call that is given up before that prevents the sending. `None` if no attempt is in
    /// progress.
    send_decision: Option<Arc<SendDecision>>,
    /// The wait of the call for a payment. It begins with a 402 response and ends with the next other response.
    payment: PaymentWait,
}

/// A failed attempt, to be retried if the policy allows.
struct Failed {
    applied: Applied,
    hint: Option<Duration>,
    /// The error that the call returns if there is no retry.
    error: Error,
    /// The time at which the attempt was sent, if its failure is a sign that the server is down. `None` for other failures.
    outage: Option<Timestamp>,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(caller: &'a Caller, began: Timestamp) -> Self {
        Self {
            caller,
            began,
            held_back: Duration::ZERO,
            made: 0,
            repeats: 0,
            unreadable: 0,
            same_reason: SameReason::default(),
            is_waiting: true,
            maybe_applied: false,
            in_doubt: false,
            send_decision: None,
            payment: PaymentWait::default(),
        }
    }

    /// Sends the attempts of `call` until one succeeds or the call fails. `early` contains the permits for the first attempt if the caller
    /// has acquired them before.
    pub(super) async fn run(
        &mut self,
        call: &mut Call,
        mut early: Option<Admitted>,
    ) -> Result<Accepted, Error> {
        if call.method != Method::GET {
            // All attempts of a call have the same idempotency key.
            let key = idempotency_key(&*self.caller.jitter);
            insert(&mut call.headers, "x-idempotency-key", key);
        }
        if let Some(operation) = call.operation {
            insert(&mut call.headers, "x-sdk-method", operation);
        }
        let mut in_flight_permit = None;
        let mut readmission = Readmission::New;
        loop {
            enter(call, Phase::Admission);
            let admitted = match early.take() {
                Some(admitted) => {
                    self.held_back = self.caller.time.now().since(self.began);
                    admitted
                }
                None => {
                    let asked_at = self.caller.time.now();
                    let request = admission_request(call, in_flight_permit.take(), readmission);
                    let admitted = self.caller.admission.admit(request).await?;
                    self.held_back += self.caller.time.now().since(asked_at);
                    admitted
                }
            };
            let Admitted {
                mut permit,
                in_flight_permit: held,
                arrival,
            } = admitted;
            enter(call, Phase::Submitting);
            let made = match self.made {
                0 => Bytes::from_static(b"0"),
                made => made.to_string().into(),
            };
            insert(&mut call.headers, "x-stainless-retry-count", made);
            let send_decision = SendDecision::new(&self.caller.closing);
            self.send_decision = Some(Arc::clone(&send_decision));
            let mut attempt = call.progress.as_deref().map(ProgressCell::begin_attempt);
            if let Some(attempt) = &mut attempt {
                attempt.set_send_decision(Some(Arc::clone(&send_decision)));
            }
            let sent_at = self.caller.time.now();
            if std::mem::take(&mut self.is_waiting)
                && let Some(progress) = &call.progress
            {
                // Admission counts as progress, however long the wait was.
                progress.record_response(sent_at);
            }
            let request = call.request(sent_at, &self.caller.timeouts);
            self.in_doubt = true;
            let sent = self
                .caller
                .submit(&mut permit, &send_decision, request)
                .await;
            // The attempt can no longer be retracted: the result of the transport decides.
            self.send_decision = None;
            if let Some(attempt) = &mut attempt {
                attempt.set_send_decision(None);
            }
            let now = self.caller.time.now();
            let response = match sent {
                Ok(response) => response,
                Err(error) if error.kind == TransportErrorKind::Held => {
                    self.record(attempt, Applied::No);
                    drop(permit);
                    in_flight_permit = self.keep(held, Applied::No);
                    readmission = Readmission::AfterRefusal(arrival);
                    self.held_back += now.since(sent_at);
                    continue;
                }
                Err(error) => {
                    permit.settle(AttemptOutcome::Unknown);
                    let applied = if error.sent == Sent::NotSent {
                        Applied::No
                    } else {
                        Applied::Maybe
                    };
                    self.record(attempt, applied);
                    let retryable = is_temporary(&error);
                    let error = Error::from(error);
                    if !retryable {
                        return Err(error);
                    }
                    in_flight_permit = self.keep(held, applied);
                    let failed = Failed {
                        applied,
                        hint: None,
                        error,
                        outage: Some(sent_at),
                    };
                    self.repeat(call, failed).await?;
                    readmission = Readmission::New;
                    continue;
                }
            };
            if let Some(progress) = &call.progress {
                progress.record_response(now);
            }
            self.caller.notices.log(&response);
            if response.status != StatusCode::PAYMENT_REQUIRED {
                self.payment.end();
            }
            let is_outage = response.status.is_server_error();
            if !is_outage {
                self.caller.outages.of(call.class).answered(sent_at, now);
            }
            match self.action(call, &response) {
                RetryAction::Accept => {
                    drop(attempt);
                    permit.settle(AttemptOutcome::Accepted);
                    self.caller.budget.credit();
                    return Ok(Accepted {
                        response,
                        in_flight_permit: held,
                        elapsed: now.since(self.began),
                        earlier: if self.maybe_applied {
                            Sent::MaybeSent
                        } else {
                            Sent::NotSent
                        },
                    });
                }
                RetryAction::Refused { hint } => {
                    self.record(attempt, Applied::No);
                    readmission = Readmission::AfterRefusal(arrival);
                    // Return the submit permit first: it closes the gate, and a request that is admitted by the freed
                    // in-flight permit must find the gate closed.
                    permit.settle(AttemptOutcome::Refused { hint });
                    drop(held);
                    let error = || response_error(ErrorKind::RateLimited, &response);
                    if call.class == RouteClass::Control {
                        // The route class of control requests has no gate that would delay the retry.
                        let failed = Failed {
                            applied: Applied::No,
                            hint,
                            error: error(),
                            outage: None,
                        };
                        self.repeat(call, failed).await?;
                    } else if hint.is_none() && call.cost.bytes > LARGE_BODY {
                        // The server probably had no room for a request of this size. Smaller requests need not
                        // wait.
                        self.sleep(call, LARGE_BODY_PAUSE, error).await?;
                    }
                    if call.class != RouteClass::Control {
                        self.held_back += now.since(sent_at);
                    }
                }
                RetryAction::PauseForBilling { hint } => {
                    self.record(attempt, Applied::No);
                    permit.settle(AttemptOutcome::Answered);
                    drop(held);
                    let billing = &self.caller.billing;
                    match billing.on_payment_required(&mut self.payment, now) {
                        BillingAction::Pause(step) => {
                            self.caller
                                .recovered_errors
                                .record(RecoveredError::Billing, &response.status);
                            let longest = self.caller.billing.limit;
                            let pause = step.max(hint.unwrap_or_default().min(longest));
                            let error = || response_error(ErrorKind::Billing, &response);
                            self.sleep(call, pause, error).await?;
                            self.held_back += now.since(sent_at);
                        }
                        BillingAction::GiveUp => {
                            return Err(response_error(ErrorKind::Billing, &response));
                        }
                    }
                }
                RetryAction::Again {
                    hint,
                    applied,
                    kind,
                } => {
                    self.record(attempt, applied);
                    permit.settle(AttemptOutcome::Answered);
                    in_flight_permit = self.keep(held, applied);
                    let failed = Failed {
                        applied,
                        hint,
                        error: response_error(kind, &response),
                        outage: is_outage.then_some(sent_at),
                    };
                    self.repeat(call, failed).await?;
                    readmission = Readmission::New;
                }
                RetryAction::Fail(kind) => {
                    self.record(attempt, retry::applied(response.status));
                    permit.settle(AttemptOutcome::Answered);
                    return Err(response_error(kind, &response));
                }
            }
        }
    }

    /// Returns the action for a response. [`retry::classify`] chooses the action, unless `is_final` or `is_readable` of `call` requires
    /// another one.
    fn action(&mut self, call: &Call, response: &HttpResponse) -> RetryAction {
        match retry::classify(response, self.caller.time.wall()) {
            RetryAction::Again { kind, .. } if call.is_final.is_some_and(|is| is(response)) => {
                RetryAction::Fail(kind)
            }
            RetryAction::Again {
                kind, hint: None, ..
            } if self.same_reason.exceeds(call.max_same_reason, response) => {
                RetryAction::Fail(kind)
            }
            RetryAction::Accept
                if self.unreadable < MAX_UNREADABLE
                    && call.policy.when_maybe_applied == WhenMaybeApplied::Repeat
                    && call.is_readable.is_some_and(|is| !is(response)) =>
            {
                self.unreadable += 1;
                RetryAction::Again {
                    hint: None,
                    applied: Applied::Maybe,
                    kind: ErrorKind::Protocol,
                }
            }
            action => action,
        }
    }

    /// Returns whether the server may have applied the current attempt. Called when the caller gives up the call. If the attempt was not
    /// sent yet, this method prevents it from being sent.
    pub(super) fn is_in_doubt(&self) -> bool {
        let is_retracted = self
            .send_decision
            .as_ref()
            .is_some_and(|send_decision| send_decision.retract());
        self.in_doubt && !is_retracted
    }

    /// Records, after the end of an attempt, whether the server may have applied the attempt.
    fn record(&mut self, attempt: Option<AttemptGuard<'_>>, applied: Applied) {
        self.in_doubt = applied == Applied::Maybe;
        if let Some(attempt) = attempt
            && applied == Applied::No
        {
            attempt.mark_not_applied();
        }
    }

    /// Returns the in-flight permit `held`, to be kept for the retry, if the server may still work on the request. Otherwise drops the
    /// permit and returns `None`.
    fn keep(&self, held: InFlightPermit, applied: Applied) -> Option<InFlightPermit> {
        (self.maybe_applied || applied == Applied::Maybe).then_some(held)
    }

    /// Waits for the pause before the next attempt.
    ///
    /// # Errors
    /// Returns the error of the failed attempt if the retry policy or the deadline allows no further attempt, and `OutcomeUnknown` if the
    /// server may have applied the attempt and the policy then forbids a retry.
    async fn repeat(&mut self, call: &Call, failed: Failed) -> Result<(), Error> {
        let Failed {
            applied,
            hint,
            error,
            outage,
        } = failed;
        if applied == Applied::Maybe && call.policy.when_maybe_applied == WhenMaybeApplied::GiveUp {
            return Err(Error::outcome_unknown(error));
        }
        self.made += 1;
        let now = self.caller.time.now();
        let error = match hint {
            Some(hint) => error.with_retry_at(now, now.after(hint)),
            None => error,
        };
        let elapsed = now.since(self.began).saturating_sub(self.held_back);
        let retries = &self.caller.retries;
        if !retries.allows(&call.policy, self.made, elapsed) {
            return Err(error);
        }
        let longest = call.policy.longest_hint;
        let hint = hint.map(|hint| longest.map_or(hint, |longest| hint.min(longest)));
        let backoff = retries.backoff;
        let least = backoff.pause(self.repeats).max(hint.unwrap_or_default());
        // Fail at once if the pause would end after the retry window or the deadline.
        let window = retries.window(&call.policy);
        let mut room = (window - elapsed).saturating_sub(Duration::from_nanos(1));
        if let Some(deadline) = call.deadline {
            room = room.min(deadline.since(now));
        }
        if least > room {
            let is_too_late = call.deadline.is_some_and(|at| at < now.after(least));
            return Err(match error.retry_at() {
                None if is_too_late => error.with_retry_at(now, now.after(least)),
                _ => error,
            });
        }
        self.repeats += 1;
        let has_tokens = !retries.has_budget
            || self.caller.budget.draw(retry::budget_failure(error.kind())) == RetryDraw::Granted;
        let base = match has_tokens {
            true => least,
            false => least.max(backoff.longest()),
        };
        // A call that has time for the minimum pause does not fail because of jitter or an empty budget.
        let pause = self.caller.jitter.stretch(base, SPREAD).min(room);
        self.caller.recovered_errors.count(RecoveredError::Repeat);
        catch_panic(
            || tracing::debug!(recovered_error = RecoveredError::Repeat.name(), path = %call.path, attempt = self.made, pause_ms = pause.as_millis() as u64, error = %error, "retrying a request"),
        );
        let time = &*self.caller.time;
        match outage {
            Some(sent_at) => {
                let outage_backoff = OutageBackoff {
                    sent_at,
                    not_before: now.after(hint.unwrap_or_default()),
                    until: now.after(pause),
                };
                let outage = self.caller.outages.of(call.class);
                outage
                    .back_off(outage_backoff, time, &*self.caller.jitter)
                    .await;
            }
            None => time.sleep_until(now.after(pause)).await,
        }
        self.maybe_applied |= applied == Applied::Maybe;
        Ok(())
    }

    /// Waits for `pause`, after which the call asks for admission again. The pause does not count towards the time limit for retries.
    ///
    /// # Errors
    /// Returns the error that `error` creates if the pause would end after the deadline of the call.
    async fn sleep(
        &mut self,
        call: &Call,
        pause: Duration,
        error: impl FnOnce() -> Error,
    ) -> Result<(), Error> {
        let now = self.caller.time.now();
        let until = now.after(pause);
        if call.deadline.is_some_and(|deadline| deadline < until) {
            return Err(error().with_retry_at(now, until));
        }
        self.caller.time.sleep_until(until).await;
        self.held_back += self.caller.time.now().since(now);
        Ok(())
    }
}

fn admission_request(
    call: &Call,
    in_flight_permit: Option<InFlightPermit>,
    readmission: Readmission,
) -> AdmissionRequest {
    AdmissionRequest {
        class: call.class,
        client: call.client,
        cost: call.cost,
        deadline: call.deadline,
        in_flight_permit,
        readmission,
        is_nested: NestedMark::here().is_inside(),
    }
}

fn enter(call: &Call, phase: Phase) {
    if let Some(progress) = &call.progress {
        progress.enter(phase);
    }
}

fn is_temporary(error: &crate::transport::TransportError) -> bool {
    use crate::transport::TransportErrorKind as K;
    matches!(error.kind, K::Connect | K::Timeout | K::Broken)
}

fn idempotency_key(jitter: &dyn Jitter) -> String {
    use std::fmt::Write;

    const PREFIX: &str = "tinkers-";
    let mut key = String::with_capacity(PREFIX.len() + 32);
    key.push_str(PREFIX);
    // Writing to a string cannot fail.
    let _ = write!(key, "{:016x}{:016x}", jitter.bits(), jitter.bits());
    key
}

/// Sets a header without copying `value`. If `value` is not a valid header value, the header is not set.
fn insert(headers: &mut HeaderMap, name: &'static str, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
