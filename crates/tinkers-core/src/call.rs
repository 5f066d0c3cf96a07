//! One call of the API: admission, sending, the retry loop.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::admission::{
    Admission, Admitted, Ask, ClientId, Cost, Flight, Reentry, RouteClass, Settlement,
};
use crate::billing::{Billing, BillingPause};
use crate::error::{Error, ErrorKind, Phase, Sent};
use crate::jitter::Jitter;
use crate::progress::{Leaving, ProgressCell};
use crate::retry::{
    self, Action, Applied, Draw, LONGEST_PAUSE, Policy, RetryBudget, SPREAD, WhenMaybeApplied,
};
use crate::setback::{Setback, Setbacks};
use crate::time::{Moment, Time};
use crate::transport::{HttpRequest, HttpResponse, Timeouts, Transport};

/// A request above this is large, in bytes; a refusal without a hint makes it wait by itself.
const LARGE: u64 = 128 * 1024;
/// For how long.
const LARGE_PAUSE: Duration = Duration::from_secs(5);

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
    /// When the caller no longer wants it.
    pub deadline: Option<Moment>,
    /// Limits of one attempt.
    pub timeouts: Timeouts,
    /// Where its progress is told.
    pub progress: Option<Arc<ProgressCell>>,
    /// Answers that are given to the caller at once, where they would be repeated otherwise: because the caller knows a better
    /// request than the same one.
    pub is_final: Option<fn(&HttpResponse) -> bool>,
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
            progress: None,
            is_final: None,
        }
    }

    fn request(&self) -> HttpRequest {
        let mut request = HttpRequest::new(self.method.clone(), self.path.clone(), self.class);
        request.headers = self.headers.clone();
        request.body = self.body.clone();
        request.timeouts = self.timeouts;
        request
    }
}

/// An accepted call: the answer, and the flight that lasts to the result.
#[derive(Debug)]
pub struct Accepted {
    /// The answer, with a status of 2xx.
    pub response: HttpResponse,
    /// To be held until the result of what was submitted is there.
    pub flight: Flight,
    /// From the start of the call, waits included, to the answer.
    pub elapsed: Duration,
    /// What is known of the attempts before the one that was accepted: `MaybeSent` when one of them may have been applied too.
    pub earlier: Sent,
}

/// Makes calls over the seams: transport, admission, time, jitter, retry budget.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Sends.
    pub transport: Arc<dyn Transport>,
    /// Says when.
    pub admission: Arc<dyn Admission>,
    /// Tells the time.
    pub time: Arc<dyn Time>,
    /// Spreads the repeats.
    pub jitter: Arc<dyn Jitter>,
    /// Slows the repeats.
    pub budget: Arc<dyn RetryBudget>,
    /// Holds while billing is unsettled.
    pub billing: Arc<BillingPause>,
    /// How long billing may hold a job.
    pub billing_limit: Duration,
    /// Counts the errors that are gone on from.
    pub setbacks: Arc<Setbacks>,
}

impl Caller {
    /// Makes `call`, repeating it as its policy says. Dropping the future gives back all that was taken; the server may have
    /// seen the request.
    ///
    /// An error says `MaybeSent` when any attempt of the call may have been applied, and not only the last one.
    pub async fn call(&self, mut call: Call) -> Result<Accepted, Error> {
        let mut attempts = Attempts {
            caller: self,
            began: self.time.now(),
            made: 0,
            repeats: 0,
            maybe_applied: false,
        };
        let operation = call.operation;
        let outcome = attempts.run(&mut call).await;
        outcome.map_err(|mut error| {
            if attempts.maybe_applied {
                error = error.with_sent(Sent::MaybeSent);
            }
            match operation {
                Some(operation) => error.with_operation(operation),
                None => error,
            }
        })
    }
}

/// The state of one call between its attempts.
struct Attempts<'a> {
    caller: &'a Caller,
    began: Moment,
    made: u32,
    repeats: u32,
    /// An attempt that was repeated may have been applied. Nothing that comes later takes that back.
    maybe_applied: bool,
}

impl Attempts<'_> {
    async fn run(&mut self, call: &mut Call) -> Result<Accepted, Error> {
        if call.method != Method::GET {
            // One key for one logical call, over all its attempts.
            let key = idempotency_key(&*self.caller.jitter);
            insert(&mut call.headers, "x-idempotency-key", key);
        }
        if let Some(operation) = call.operation {
            insert(&mut call.headers, "x-sdk-method", operation);
        }
        let mut flight = None;
        let mut reentry = Reentry::New;
        loop {
            enter(call, Phase::Admission);
            let admitted = self
                .caller
                .admission
                .admit(ask(call, flight.take(), reentry))
                .await?;
            let Admitted {
                permit,
                flight: held,
                arrival,
            } = admitted;
            enter(call, Phase::Submitting);
            let made = match self.made {
                0 => Bytes::from_static(b"0"),
                made => made.to_string().into(),
            };
            insert(&mut call.headers, "x-stainless-retry-count", made);
            let leaving = call.progress.as_deref().map(ProgressCell::leaving);
            let sent = self.caller.transport.send(call.request()).await;
            let now = self.caller.time.now();
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    permit.settle(Settlement::Unknown);
                    let applied = if error.sent == Sent::NotSent {
                        Applied::No
                    } else {
                        Applied::Maybe
                    };
                    note(leaving, applied);
                    let retryable = is_passing(&error);
                    let error = Error::from(error);
                    if !retryable {
                        return Err(error);
                    }
                    flight = self.keep(held, applied);
                    self.repeat(call, applied, None, error).await?;
                    reentry = Reentry::New;
                    continue;
                }
            };
            if let Some(progress) = &call.progress {
                progress.news(now);
            }
            note_deprecation(&answer);
            match action(call, &answer, self.caller.time.wall()) {
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
                    note(leaving, Applied::No);
                    reentry = Reentry::AfterRefusal(arrival);
                    // The permit first: whoever goes in place of the flight must find the gate closed.
                    permit.settle(Settlement::Refused { hint });
                    drop(held);
                    let error = || answer_error(ErrorKind::RateLimited, &answer);
                    if call.class == RouteClass::Control {
                        // A lane without a gate would come straight back: it waits here.
                        self.repeat(call, Applied::No, hint, error()).await?;
                    } else if hint.is_none() && call.cost.bytes > LARGE {
                        // It is likely what the server had no room for. Smaller ones need not wait for it.
                        self.sleep(call, LARGE_PAUSE, error).await?;
                    }
                }
                Action::PauseForBilling => {
                    note(leaving, Applied::No);
                    permit.settle(Settlement::Answered);
                    drop(held);
                    match self
                        .caller
                        .billing
                        .on_payment_required(now, self.caller.billing_limit)
                    {
                        Billing::Pause(step) => {
                            self.caller.setbacks.note(Setback::Billing, &answer.status);
                            self.sleep(call, step, || answer_error(ErrorKind::Billing, &answer))
                                .await?
                        }
                        Billing::GiveUp => return Err(answer_error(ErrorKind::Billing, &answer)),
                    }
                }
                Action::Again {
                    hint,
                    applied,
                    kind,
                } => {
                    note(leaving, applied);
                    permit.settle(Settlement::Answered);
                    flight = self.keep(held, applied);
                    self.repeat(call, applied, hint, answer_error(kind, &answer))
                        .await?;
                    reentry = Reentry::New;
                }
                Action::Fail(kind) => {
                    note(leaving, retry::applied(answer.status));
                    permit.settle(Settlement::Answered);
                    return Err(answer_error(kind, &answer));
                }
            }
        }
    }

    /// What may be under way on the server keeps its unit through the retry; what never was gives it back before the pause.
    fn keep(&self, held: Flight, applied: Applied) -> Option<Flight> {
        (self.maybe_applied || applied == Applied::Maybe).then_some(held)
    }

    /// Pauses before the next attempt, or fails with `error` when there is to be none.
    async fn repeat(
        &mut self,
        call: &Call,
        applied: Applied,
        hint: Option<Duration>,
        error: Error,
    ) -> Result<(), Error> {
        if applied == Applied::Maybe && call.policy.when_maybe_applied == WhenMaybeApplied::GiveUp {
            return Err(Error::outcome_unknown(error));
        }
        self.made += 1;
        let now = self.caller.time.now();
        let error = match hint {
            Some(hint) => error.with_retry_at(now, now.after(hint)),
            None => error,
        };
        let elapsed = now.since(self.began);
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
            return Err(error);
        }
        self.repeats += 1;
        let base = match self.caller.budget.draw(error.kind()) {
            Draw::Granted => least,
            Draw::Empty => least.max(LONGEST_PAUSE),
        };
        // Neither the spread nor an empty budget fails a call that has the time for its pause.
        let pause = self.caller.jitter.stretch(base, SPREAD).min(room);
        self.caller.setbacks.count(Setback::Repeat);
        tracing::debug!(setback = Setback::Repeat.name(), path = %call.path, attempt = self.made, pause_ms = pause.as_millis() as u64, error = %error, "repeating");
        self.caller.time.sleep_until(now.after(pause)).await;
        self.maybe_applied |= applied == Applied::Maybe;
        Ok(())
    }

    /// Waits for somebody to settle the bill.
    async fn sleep(
        &self,
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
        Ok(())
    }
}

fn ask(call: &Call, flight: Option<Flight>, reentry: Reentry) -> Ask {
    Ask {
        class: call.class,
        client: call.client,
        cost: call.cost,
        deadline: call.deadline,
        flight,
        reentry,
    }
}

/// What the table says, unless the caller knows better.
fn action(call: &Call, answer: &HttpResponse, wall: SystemTime) -> Action {
    match retry::classify(answer, wall) {
        Action::Again { kind, .. } if call.is_final.is_some_and(|is| is(answer)) => {
            Action::Fail(kind)
        }
        action => action,
    }
}

fn enter(call: &Call, phase: Phase) {
    if let Some(progress) = &call.progress {
        progress.enter(phase);
    }
}

/// Tells what is known of an attempt that is over.
fn note(leaving: Option<Leaving<'_>>, applied: Applied) {
    if let Some(leaving) = leaving
        && applied == Applied::No
    {
        leaving.stayed();
    }
}

fn is_passing(error: &crate::transport::TransportError) -> bool {
    use crate::transport::TransportErrorKind as K;
    matches!(error.kind, K::Connect | K::Timeout | K::Broken)
}

/// The error that an answer means, with the server's own words.
pub fn answer_error(kind: ErrorKind, answer: &HttpResponse) -> Error {
    let words = tinkers_wire::error_text(&answer.body);
    let words = words.unwrap_or_else(|| "the server gave no reason".to_owned());
    let advice = match kind {
        ErrorKind::Authentication => "; check the API key",
        ErrorKind::PermissionDenied => "; this key may not do that",
        ErrorKind::Billing => "; settle the bill in the console",
        _ => "",
    };
    Error::new(kind, Sent::Answered, format!("{words}{advice}"))
        .with_answer(answer.status.as_u16(), &answer.body)
}

fn note_deprecation(answer: &HttpResponse) {
    if let Some(note) = answer.header("x-deprecation-note") {
        if answer
            .header("x-deprecation-level")
            .is_some_and(|level| level.eq_ignore_ascii_case("error"))
        {
            tracing::error!(note, "deprecation notice");
        } else {
            tracing::warn!(note, "deprecation notice");
        }
    }
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
