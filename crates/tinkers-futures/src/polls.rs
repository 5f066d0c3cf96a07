//! What the poll for one result and the shared poll have in common: admission, the table of answers, pauses, doubts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::billing::Billing;
use tinkers_core::call::answer_error;
use tinkers_core::contain::contain;
use tinkers_core::nesting::Mark;
use tinkers_core::outage::Pause;
use tinkers_core::retry::{FEW_DOUBTS, Purpose, SOME_DOUBTS, Step, failure_kind};
use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, Caller, ClientId, Cost, Deduplication, Error, ErrorKind,
    HttpRequest, HttpResponse, Readmission, RecoveredError, Result, RouteClass, SessionContext,
    Timestamp, TransportError, TransportErrorKind,
};

use crate::pace::{Pace, hint_of, is_held, settlement};

/// A poll is given up after this long and made anew; servers hold one for up to half a minute, some for five.
pub(crate) const POLL_LIMIT: Duration = Duration::from_secs(45);

/// The state that a loop of polls keeps between them.
pub(crate) struct Polls {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    /// What a poll that is made once more counts as, and for what it is, in the log.
    recovered_error: RecoveredError,
    subject: Box<str>,
    /// The error of an answer that counts.
    error_of: fn(ErrorKind, &HttpResponse) -> Error,
    pace: Pace,
    doubts: Doubts,
    reentry: Readmission,
    /// When the last poll came, among those of its lane.
    arrival: Arrival,
}

/// A poll that was made.
#[derive(Debug)]
pub(crate) struct Exchange {
    at: Timestamp,
    /// How long it took.
    pub(crate) held: Duration,
    pub(crate) outcome: Result<HttpResponse, TransportError>,
}

/// What a poll that was made leads to.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A success, whose body is still to be read.
    Success(HttpResponse),
    /// Nothing has ended; the body may tell of the queue.
    NotReady(HttpResponse),
    /// Poll again after the wait.
    Again {
        wait: Wait,
        /// Whether the server has a reason for it, so that the waiting begins anew.
        is_news: bool,
    },
}

/// What comes before the next poll.
#[derive(Debug, PartialEq)]
pub(crate) enum Wait {
    /// A pause.
    Pause(Duration),
    /// The pause of a poll that left at `sent_at` and failed as all do while a server is away, never less than `hint`.
    Outage {
        sent_at: Timestamp,
        hint: Duration,
        pause: Duration,
    },
}

impl Polls {
    pub(crate) fn new(
        session: Arc<dyn SessionContext>,
        client: ClientId,
        recovered_error: RecoveredError,
        subject: &str,
        error_of: fn(ErrorKind, &HttpResponse) -> Error,
    ) -> Self {
        Self {
            session,
            client,
            recovered_error,
            subject: subject.into(),
            error_of,
            pace: Pace::default(),
            doubts: Doubts::default(),
            reentry: Readmission::New,
            arrival: Arrival::default(),
        }
    }

    fn caller(&self) -> &Caller {
        self.session.caller()
    }

    /// Makes one poll: admitted, sent, settled. `begin` makes the request when it is admitted; once more where the rate limit closed
    /// before it could leave.
    ///
    /// # Errors
    /// Why it was not admitted.
    pub(crate) async fn send(
        &mut self,
        deadline: Option<Timestamp>,
        mut begin: impl FnMut() -> HttpRequest + Send,
    ) -> Result<Exchange> {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        loop {
            let ask = AdmissionRequest {
                class: RouteClass::Poll,
                client: self.client,
                cost: Cost::default(),
                deadline,
                flight: None,
                reentry: std::mem::replace(&mut self.reentry, Readmission::New),
                is_nested: Mark::here().is_inside(),
            };
            let Admitted {
                mut permit,
                flight,
                arrival,
            } = caller.admission.admit(ask).await?;
            self.arrival = arrival;
            let request = begin();
            let at = caller.time.now();
            let outcome = caller.send(&mut permit, request).await;
            if is_held(&outcome) {
                self.reentry = Readmission::AfterRefusal(arrival);
                continue;
            }
            permit.settle(settlement(&outcome, caller));
            drop(flight);
            let held = caller.time.now().since(at);
            return Ok(Exchange { at, held, outcome });
        }
    }

    /// Looks the outcome of a poll up in the table.
    ///
    /// # Errors
    /// What is final, or was doubted as often as it may be.
    pub(crate) fn judge(&mut self, exchange: Exchange) -> Result<Reply> {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        let Exchange { at, held, outcome } = exchange;
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => return self.after_transport_error(error, at, held),
        };
        let is_outage = answer.status.is_server_error();
        if !is_outage {
            let outage = caller.outages.of(RouteClass::Poll);
            outage.answered(at, at.after(held));
        }
        let hint = hint_of(&answer, caller.time.wall());
        let kind = failure_kind(answer.status);
        // A server that keeps the whole of the protocol tells of failed operations in the body: this one broke.
        let all_told = session.profile().deduplicates == Deduplication::Everything;
        let (wait, is_news) = match Step::of(Purpose::Poll, &answer) {
            Step::Take => return Ok(Reply::Success(answer)),
            Step::NotReady => return Ok(Reply::NotReady(answer)),
            Step::Refused => {
                // The lane has been closed by the settlement; the next admission waits for it.
                self.reentry = Readmission::AfterRefusal(self.arrival);
                (Wait::Pause(Duration::ZERO), true)
            }
            Step::PauseForBilling => {
                let now = caller.time.now();
                let limit = caller.billing_limit;
                match caller.billing.on_payment_required(now, limit) {
                    Billing::Pause(step) => {
                        caller
                            .recovered_errors
                            .note(RecoveredError::Billing, &answer.status);
                        (Wait::Pause(step.max(hint)), true)
                    }
                    Billing::GiveUp => return Err(answer_error(ErrorKind::Billing, &answer)),
                }
            }
            Step::Doubt(_) if is_outage && all_told => {
                (self.again(&answer.status, at, hint), false)
            }
            Step::Repeat if is_outage => (self.again(&answer.status, at, hint), false),
            Step::Repeat => (self.failed(&answer.status, hint), false),
            Step::Doubt(times) => {
                let what = Doubtful::Answer(answer.status.as_u16());
                let last = (self.error_of)(kind, &answer);
                (self.doubt(what, times, hint, last)?, false)
            }
            Step::Fail => return Err((self.error_of)(kind, &answer)),
        };
        Ok(Reply::Again { wait, is_news })
    }

    fn after_transport_error(
        &mut self,
        error: TransportError,
        at: Timestamp,
        held: Duration,
    ) -> Result<Reply> {
        use TransportErrorKind as K;
        // A server that holds a poll for longer than we wait is no broken server.
        let is_held_in_vain = error.kind == K::Timeout && held >= POLL_LIMIT / 2;
        let doubted = match error.kind {
            K::Timeout | K::Connect | K::Broken => None,
            K::Tls | K::Decode | K::Redirect => Some(SOME_DOUBTS),
            // It may be as large again.
            K::TooLarge => Some(1),
            _ => Some(0),
        };
        let wait = if is_held_in_vain {
            self.count(&error);
            self.not_ready(held, Duration::ZERO)
        } else if let Some(times) = doubted {
            let what = Doubtful::Transport(error.kind);
            self.doubt(what, times, Duration::ZERO, error.into())?
        } else {
            self.again(&error, at, Duration::ZERO)
        };
        let is_news = false;
        Ok(Reply::Again { wait, is_news })
    }

    /// The wait after "not ready", which took `held` to come: the server works on it, so that what was doubted was in passing.
    pub(crate) fn not_ready(&mut self, held: Duration, hint: Duration) -> Wait {
        self.doubts = Doubts::default();
        let pause = self
            .pace
            .after_not_ready(held, &*self.session.caller().jitter);
        Wait::Pause(pause.max(hint))
    }

    /// The polls get somewhere: the next one goes at once, and nothing of those before counts.
    pub(crate) fn progress(&mut self) -> Wait {
        self.doubts = Doubts::default();
        self.pace = Pace::default();
        Wait::Pause(Duration::ZERO)
    }

    /// The wait after an answer that may be final and is doubted once more, where it is `times` times in all.
    ///
    /// # Errors
    /// `error`, when it was doubted that often. It says when the server wants to be asked again, where it does.
    pub(crate) fn doubt(
        &mut self,
        what: Doubtful,
        times: u32,
        hint: Duration,
        error: Error,
    ) -> Result<Wait> {
        if self.doubts.once_more(what, times) {
            return Ok(self.failed(&error, hint));
        }
        if hint.is_zero() {
            return Err(error);
        }
        let now = self.caller().time.now();
        Err(error.with_retry_at(now, now.after(hint)))
    }

    /// The same for a body that is no answer to a poll. It may have been spoilt on its way, or come from somewhere else.
    ///
    /// # Errors
    /// Those of [`Polls::doubt`].
    pub(crate) fn doubt_body(&mut self, error: Error) -> Result<Wait> {
        self.doubt(Doubtful::Body, FEW_DOUBTS, Duration::ZERO, error)
    }

    fn failed(&mut self, why: &dyn fmt::Display, hint: Duration) -> Wait {
        self.count(why);
        Wait::Pause(
            self.pace
                .after_failure(hint, &*self.session.caller().jitter),
        )
    }

    fn again(&mut self, why: &dyn fmt::Display, sent_at: Timestamp, hint: Duration) -> Wait {
        self.count(why);
        let pause = self
            .pace
            .after_failure(hint, &*self.session.caller().jitter);
        Wait::Outage {
            sent_at,
            hint,
            pause,
        }
    }

    fn count(&self, why: &dyn fmt::Display) {
        self.caller().recovered_errors.count(self.recovered_error);
        let (recovered_error, subject) = (self.recovered_error.name(), &self.subject);
        contain(|| tracing::debug!(recovered_error, %why, subject, "polling again after an error"));
    }

    /// Sits a wait out.
    pub(crate) async fn wait(&self, wait: Wait) {
        let caller = self.caller();
        match wait {
            Wait::Pause(pause) => caller.time.sleep(pause).await,
            Wait::Outage {
                sent_at,
                hint,
                pause,
            } => {
                let now = caller.time.now();
                let pause = Pause {
                    sent_at,
                    not_before: now.after(hint),
                    until: now.after(pause),
                };
                let outage = caller.outages.of(RouteClass::Poll);
                outage.sit_out(pause, &*caller.time, &*caller.jitter).await;
            }
        }
    }
}

/// What is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubtful {
    /// An answer of this status.
    Answer(u16),
    /// A failure of the transport.
    Transport(TransportErrorKind),
    /// The body of a success.
    Body,
}

/// The doubts since the server last said that it works on the operation. Each kind has a count of its own, so that a server that comes up
/// again, and says now this and now that, is not taken at its first word.
#[derive(Debug, Default)]
struct Doubts(Vec<(Doubtful, u32)>);

impl Doubts {
    /// Whether `what` is doubted once more, where it is `times` times in all.
    fn once_more(&mut self, what: Doubtful, times: u32) -> bool {
        let at = self.0.iter().position(|(known, _)| *known == what);
        let at = at.unwrap_or_else(|| {
            self.0.push((what, 0));
            self.0.len() - 1
        });
        let count = &mut self.0[at].1;
        *count += 1;
        *count <= times
    }
}
