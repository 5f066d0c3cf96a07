//! The attempts of one call: admission, sending, what an answer leads to, the pause before the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Accepted, Call, Caller, answer_error};
use crate::admission::{
    AdmissionRequest, Admitted, InFlightPermit, Readmission, RouteClass, Settlement,
};
use crate::billing::Billing;
use crate::closing::Exit;
use crate::contain::contain;
use crate::error::{Error, ErrorKind, Phase, Sent};
use crate::jitter::Jitter;
use crate::nesting::Mark;
use crate::outage::Pause;
use crate::progress::{AttemptGuard, ProgressCell};
use crate::recovered_error::RecoveredError;
use crate::retry::{self, Action, Applied, Draw, LONGEST_PAUSE, SPREAD, WhenMaybeApplied};
use crate::time::Timestamp;
use crate::transport::{HttpResponse, TransportErrorKind};

/// A request above this is large, in bytes; a refusal without a hint makes it wait by itself.
const LARGE: u64 = 128 * 1024;
/// For how long.
const LARGE_PAUSE: Duration = Duration::from_secs(5);

/// How many successes that cannot be decoded are followed by another attempt.
const UNREADABLE: u32 = 3;

/// The state of one call between its attempts.
pub(super) struct Attempts<'a> {
    caller: &'a Caller,
    began: Timestamp,
    /// What of the time since `began` does not count for the window of retries: waits for admission, and pauses that the server
    /// asked for before it would take the request.
    held_back: Duration,
    made: u32,
    repeats: u32,
    /// Successes that could not be decoded.
    unreadable: u32,
    /// Nothing of it was sent yet.
    is_waiting: bool,
    /// An attempt that was repeated may have been applied. Nothing that comes later takes that back.
    pub(super) maybe_applied: bool,
    /// The latest attempt is on its way, or may have been applied.
    in_doubt: bool,
    /// Where the attempt that is on its way leaves.
    exit: Option<Arc<Exit>>,
}

/// An attempt that is to be followed by another.
struct Failed {
    applied: Applied,
    hint: Option<Duration>,
    /// What it fails with when there is to be none.
    error: Error,
    /// When it left, if it failed as everything does while a server is away.
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
            is_waiting: true,
            maybe_applied: false,
            in_doubt: false,
            exit: None,
        }
    }

    /// `early` is the admission of the first attempt, where there is one already.
    pub(super) async fn run(
        &mut self,
        call: &mut Call,
        mut early: Option<Admitted>,
    ) -> Result<Accepted, Error> {
        if call.method != Method::GET {
            // One key for one logical call, over all its attempts.
            let key = idempotency_key(&*self.caller.jitter);
            insert(&mut call.headers, "x-idempotency-key", key);
        }
        if let Some(operation) = call.operation {
            insert(&mut call.headers, "x-sdk-method", operation);
        }
        let mut flight = None;
        let mut reentry = Readmission::New;
        loop {
            enter(call, Phase::Admission);
            let admitted = match early.take() {
                Some(admitted) => {
                    self.held_back = self.caller.time.now().since(self.began);
                    admitted
                }
                None => {
                    let asked_at = self.caller.time.now();
                    let ask = ask(call, flight.take(), reentry);
                    let admitted = self.caller.admission.admit(ask).await?;
                    self.held_back += self.caller.time.now().since(asked_at);
                    admitted
                }
            };
            let Admitted {
                mut permit,
                flight: held,
                arrival,
            } = admitted;
            enter(call, Phase::Submitting);
            let made = match self.made {
                0 => Bytes::from_static(b"0"),
                made => made.to_string().into(),
            };
            insert(&mut call.headers, "x-stainless-retry-count", made);
            let exit = Exit::new(&self.caller.closing);
            self.exit = Some(Arc::clone(&exit));
            let mut leaving = call.progress.as_deref().map(ProgressCell::leaving);
            if let Some(leaving) = &mut leaving {
                leaving.by(Some(Arc::clone(&exit)));
            }
            let sent_at = self.caller.time.now();
            if std::mem::take(&mut self.is_waiting)
                && let Some(progress) = &call.progress
            {
                // Its turn has come, however long that took.
                progress.news(sent_at);
            }
            let request = call.request(sent_at);
            self.in_doubt = true;
            let sent = self.caller.submit(&mut permit, &exit, request).await;
            // What the transport says of it counts from now on.
            self.exit = None;
            if let Some(leaving) = &mut leaving {
                leaving.by(None);
            }
            let now = self.caller.time.now();
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) if error.kind == TransportErrorKind::Held => {
                    self.note(leaving, Applied::No);
                    drop(permit);
                    flight = self.keep(held, Applied::No);
                    reentry = Readmission::AfterRefusal(arrival);
                    self.held_back += now.since(sent_at);
                    continue;
                }
                Err(error) => {
                    permit.settle(Settlement::Unknown);
                    let applied = if error.sent == Sent::NotSent {
                        Applied::No
                    } else {
                        Applied::Maybe
                    };
                    self.note(leaving, applied);
                    let retryable = is_passing(&error);
                    let error = Error::from(error);
                    if !retryable {
                        return Err(error);
                    }
                    flight = self.keep(held, applied);
                    let failed = Failed {
                        applied,
                        hint: None,
                        error,
                        outage: Some(sent_at),
                    };
                    self.repeat(call, failed).await?;
                    reentry = Readmission::New;
                    continue;
                }
            };
            if let Some(progress) = &call.progress {
                progress.news(now);
            }
            self.caller.notices.look(&answer);
            let is_outage = answer.status.is_server_error();
            if !is_outage {
                self.caller.outages.of(call.class).answered(sent_at, now);
            }
            match self.action(call, &answer) {
                Action::Accept => {
                    drop(leaving);
                    permit.settle(Settlement::Accepted);
                    self.caller.budget.credit();
                    return Ok(Accepted {
                        response: answer,
                        flight: held,
                        elapsed: now.since(self.began),
                        earlier: if self.maybe_applied {
                            Sent::MaybeSent
                        } else {
                            Sent::NotSent
                        },
                    });
                }
                Action::Refused { hint } => {
                    self.note(leaving, Applied::No);
                    reentry = Readmission::AfterRefusal(arrival);
                    // The permit first: whoever goes in place of the flight must find the gate closed.
                    permit.settle(Settlement::Refused { hint });
                    drop(held);
                    let error = || answer_error(ErrorKind::RateLimited, &answer);
                    if call.class == RouteClass::Control {
                        // A lane without a gate would come straight back: it waits here.
                        let failed = Failed {
                            applied: Applied::No,
                            hint,
                            error: error(),
                            outage: None,
                        };
                        self.repeat(call, failed).await?;
                    } else if hint.is_none() && call.cost.bytes > LARGE {
                        // It is likely what the server had no room for. Smaller ones need not wait for it.
                        self.sleep(call, LARGE_PAUSE, error).await?;
                    }
                    if call.class != RouteClass::Control {
                        self.held_back += now.since(sent_at);
                    }
                }
                Action::PauseForBilling { hint } => {
                    self.note(leaving, Applied::No);
                    permit.settle(Settlement::Answered);
                    drop(held);
                    match self
                        .caller
                        .billing
                        .on_payment_required(now, self.caller.billing_limit)
                    {
                        Billing::Pause(step) => {
                            self.caller
                                .recovered_errors
                                .note(RecoveredError::Billing, &answer.status);
                            let longest = self.caller.billing_limit;
                            let pause = step.max(hint.unwrap_or_default().min(longest));
                            let error = || answer_error(ErrorKind::Billing, &answer);
                            self.sleep(call, pause, error).await?;
                            self.held_back += now.since(sent_at);
                        }
                        Billing::GiveUp => return Err(answer_error(ErrorKind::Billing, &answer)),
                    }
                }
                Action::Again {
                    hint,
                    applied,
                    kind,
                } => {
                    self.note(leaving, applied);
                    permit.settle(Settlement::Answered);
                    flight = self.keep(held, applied);
                    let failed = Failed {
                        applied,
                        hint,
                        error: answer_error(kind, &answer),
                        outage: is_outage.then_some(sent_at),
                    };
                    self.repeat(call, failed).await?;
                    reentry = Readmission::New;
                }
                Action::Fail(kind) => {
                    self.note(leaving, retry::applied(answer.status));
                    permit.settle(Settlement::Answered);
                    return Err(answer_error(kind, &answer));
                }
            }
        }
    }

    /// What the table says, unless the caller knows better.
    fn action(&mut self, call: &Call, answer: &HttpResponse) -> Action {
        match retry::classify(answer, self.caller.time.wall()) {
            Action::Again { kind, .. } if call.is_final.is_some_and(|is| is(answer)) => {
                Action::Fail(kind)
            }
            Action::Accept
                if self.unreadable < UNREADABLE
                    && call.policy.when_maybe_applied == WhenMaybeApplied::Repeat
                    && call.is_readable.is_some_and(|is| !is(answer)) =>
            {
                self.unreadable += 1;
                Action::Again {
                    hint: None,
                    applied: Applied::Maybe,
                    kind: ErrorKind::Protocol,
                }
            }
            action => action,
        }
    }

    /// Whether the latest attempt may have been applied, now that the call is given up.
    pub(super) fn is_in_doubt(&self) -> bool {
        let is_kept_back = self.exit.as_ref().is_some_and(|exit| exit.retract());
        self.in_doubt && !is_kept_back
    }

    /// Records what is known of an attempt that is over.
    fn note(&mut self, leaving: Option<AttemptGuard<'_>>, applied: Applied) {
        self.in_doubt = applied == Applied::Maybe;
        if let Some(leaving) = leaving
            && applied == Applied::No
        {
            leaving.stayed();
        }
    }

    /// What may be under way on the server keeps its unit through the retry; what never was gives it back before the pause.
    fn keep(&self, held: InFlightPermit, applied: Applied) -> Option<InFlightPermit> {
        (self.maybe_applied || applied == Applied::Maybe).then_some(held)
    }

    /// Pauses before the next attempt, or fails when there is to be none.
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
        if !call.policy.allows(self.made, elapsed) {
            return Err(error);
        }
        let longest = call.policy.longest_hint;
        let hint = hint.map(|hint| longest.map_or(hint, |longest| hint.min(longest)));
        let least = retry::pause(self.repeats, hint);
        // A pause that leads out of the window or past the deadline is none: there would be nobody to send for.
        let mut room = (call.policy.window - elapsed).saturating_sub(Duration::from_nanos(1));
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
        let base = match self.caller.budget.draw(error.kind()) {
            Draw::Granted => least,
            Draw::Empty => least.max(LONGEST_PAUSE),
        };
        // Neither the spread nor an empty budget fails a call that has the time for its pause.
        let pause = self.caller.jitter.stretch(base, SPREAD).min(room);
        self.caller.recovered_errors.count(RecoveredError::Repeat);
        contain(
            || tracing::debug!(recovered_error = RecoveredError::Repeat.name(), path = %call.path, attempt = self.made, pause_ms = pause.as_millis() as u64, error = %error, "repeating"),
        );
        let time = &*self.caller.time;
        match outage {
            Some(sent_at) => {
                let pause = Pause {
                    sent_at,
                    not_before: now.after(hint.unwrap_or_default()),
                    until: now.after(pause),
                };
                let outage = self.caller.outages.of(call.class);
                outage.sit_out(pause, time, &*self.caller.jitter).await;
            }
            None => time.sleep_until(now.after(pause)).await,
        }
        self.maybe_applied |= applied == Applied::Maybe;
        Ok(())
    }

    /// Sits out a pause before admission is asked for again. It does not count for the window of retries.
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

fn ask(call: &Call, flight: Option<InFlightPermit>, reentry: Readmission) -> AdmissionRequest {
    AdmissionRequest {
        class: call.class,
        client: call.client,
        cost: call.cost,
        deadline: call.deadline,
        flight,
        reentry,
        is_nested: Mark::here().is_inside(),
    }
}

fn enter(call: &Call, phase: Phase) {
    if let Some(progress) = &call.progress {
        progress.enter(phase);
    }
}

fn is_passing(error: &crate::transport::TransportError) -> bool {
    use crate::transport::TransportErrorKind as K;
    matches!(error.kind, K::Connect | K::Timeout | K::Broken)
}

fn idempotency_key(jitter: &dyn Jitter) -> String {
    use std::fmt::Write;

    const OPENING: &str = "tinkers-";
    let mut key = String::with_capacity(OPENING.len() + 32);
    key.push_str(OPENING);
    // Writing to a text cannot fail.
    let _ = write!(key, "{:016x}{:016x}", jitter.bits(), jitter.bits());
    key
}

/// Sets a header without a copy of its value, unless that fits into no header.
fn insert(headers: &mut HeaderMap, name: &'static str, value: impl Into<Bytes>) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.into()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
