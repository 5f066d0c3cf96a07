//! The task that asks.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method, header};
use tinkers_core::billing::Billing;
use tinkers_core::call::answer_error;
use tinkers_core::{
    Admitted, Arrival, Ask, Caller, ClientId, Cost, Error, ErrorKind, HttpRequest, HttpResponse,
    Moment, Reentry, Result, RouteClass, Sent, SessionContext, Setback, Timeouts, TransportError,
};
use tinkers_wire::{PollTarget, RetrieveFutures, routes, to_json};

use super::board::{Board, Report, Work};
use super::reply::{Reply, classify};
use crate::catch_unwind;
use crate::closing::after_close;
use crate::pace::{
    POLL_LIMIT, Pace, held_in_vain, hint_of, is_held, is_passing, settlement, sit_out,
};

/// A poll that only acknowledges is given up after this long.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(5);
/// How long an acknowledgement waits for a poll that would take it along.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(1);
/// How often in a row an answer that may be final is doubted.
const FEW_TIMES: u32 = 3;

/// What the task works with.
pub(super) struct Drive {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    target: PollTarget,
    board: Arc<Board>,
    pace: Pace,
    reentry: Reentry,
    /// When the last poll came, among those of its lane.
    arrival: Arrival,
    doubts: u32,
}

/// What comes before the next poll.
enum Wait {
    /// A pause.
    Pause(Duration),
    /// The pause of one that failed as all do while a server is away.
    Outage { hint: Duration, pause: Duration },
}

/// Tells everybody when the task goes away without a word: it was aborted, or its runtime has ended.
struct Farewell(Arc<Board>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let message =
            "the task that waits for this client's results was aborted; its runtime has ended";
        self.0
            .end(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message));
    }
}

impl Drive {
    pub(super) fn new(
        session: Arc<dyn SessionContext>,
        client: ClientId,
        target: PollTarget,
        board: Arc<Board>,
    ) -> Self {
        Self {
            session,
            client,
            target,
            board,
            pace: Pace::default(),
            reentry: Reentry::New,
            arrival: Arrival::default(),
            doubts: 0,
        }
    }

    /// Asks until the handle goes or the server does not let it.
    pub(super) fn run(mut self) -> impl Future<Output = ()> + Send {
        // Made now, so that it also speaks when the task is never polled.
        let farewell = Farewell(Arc::clone(&self.board));
        async move {
            let board = Arc::clone(&self.board);
            let asked = catch_unwind(unless(self.ask(), board.until_closed())).await;
            match asked {
                Ok(()) => {
                    board.end(Error::closed().with_sent(Sent::MaybeSent));
                    let said = catch_unwind(async {
                        self.say_goodbye().await;
                        Ok(())
                    });
                    if let Err(error) = said.await {
                        self.session
                            .caller()
                            .setbacks
                            .note(Setback::Acknowledgement, &error);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the poll for a client's results ended");
                    board.end(after_close(&*self.session, error));
                }
            }
            drop(farewell);
        }
    }

    /// Never ends but with an error.
    async fn ask(&mut self) -> Result<()> {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        loop {
            if self.board.until_work().await == Work::Acknowledge {
                let at = caller.time.now().after(ACKNOWLEDGE_AFTER);
                caller.time.deadline(at, self.board.until_waiting()).await;
            }
            let work = self.board.work();
            if work == Work::Idle {
                continue;
            }
            let report = self.board.report();
            let (sent_at, outcome) = self.poll(caller, &report, work, None).await?;
            let wait = match outcome {
                Ok(answer) => self.after_answer(caller, &report, &answer, sent_at)?,
                Err(error) => self.after_transport_error(caller, error, sent_at)?,
            };
            let patience = session.progress_deadline() / 2;
            self.board.release_overdue(caller.time.now(), patience);
            match wait {
                Wait::Pause(pause) => caller.time.sleep(pause).await,
                Wait::Outage { hint, pause } => sit_out(caller, sent_at, hint, pause).await,
            }
        }
    }

    /// What an answer leads to: a wait, or the end.
    fn after_answer(
        &mut self,
        caller: &Caller,
        report: &Report,
        answer: &HttpResponse,
        sent_at: Moment,
    ) -> Result<Wait> {
        let now = caller.time.now();
        let held = now.since(sent_at);
        let is_outage = answer.status.is_server_error();
        if !is_outage {
            caller.outages.of(RouteClass::Poll).answered(sent_at, now);
        }
        let hint = hint_of(answer, caller.time.wall());
        let reply = classify(answer, caller.time.wall());
        if !matches!(reply, Reply::AgainFewTimes(_) | Reply::Unreadable(_)) {
            self.doubts = 0;
        }
        let pause = match reply {
            Reply::Told(completions) => {
                if self.board.answered(now, report, completions) {
                    self.pace = Pace::default();
                    Duration::ZERO
                } else {
                    self.pace.after_not_ready(held, &*caller.jitter)
                }
            }
            Reply::Nothing => {
                let pause = self.pace.after_not_ready(held, &*caller.jitter);
                pause.max(hint)
            }
            Reply::Refused(_) => {
                // The lane has been closed by the settlement; the next admission waits for it.
                self.board.news_for_all(now);
                self.reentry = Reentry::AfterRefusal(self.arrival);
                Duration::ZERO
            }
            Reply::PauseForBilling => {
                match caller
                    .billing
                    .on_payment_required(now, caller.billing_limit)
                {
                    Billing::Pause(step) => {
                        caller.setbacks.note(Setback::Billing, &answer.status);
                        self.board.news_for_all(now);
                        step.max(hint)
                    }
                    Billing::GiveUp => return Err(answer_error(ErrorKind::Billing, answer)),
                }
            }
            Reply::Again(_) => {
                caller.setbacks.note(Setback::SharedPoll, &answer.status);
                if is_outage {
                    return Ok(self.outage(caller, hint));
                }
                self.pace.after_failure(hint, &*caller.jitter)
            }
            Reply::AgainFewTimes(kind) => {
                self.doubt(caller, hint, || answer_error(kind, answer))?
            }
            Reply::Unreadable(error) => self.doubt(caller, hint, || {
                let message = format!("the answer to the poll for results cannot be read: {error}");
                Error::new(ErrorKind::Protocol, Sent::Answered, message)
                    .with_answer(answer.status.as_u16(), &answer.body)
            })?,
            Reply::Fail(kind) => {
                return Err(answer_error(kind, answer)
                    .with_context("the results of this client can no longer be waited for"));
            }
        };
        Ok(Wait::Pause(pause))
    }

    fn outage(&mut self, caller: &Caller, hint: Duration) -> Wait {
        let pause = self.pace.after_failure(hint, &*caller.jitter);
        Wait::Outage { hint, pause }
    }

    fn doubt(
        &mut self,
        caller: &Caller,
        hint: Duration,
        last: impl FnOnce() -> Error,
    ) -> Result<Duration> {
        if self.doubts == FEW_TIMES {
            return Err(last());
        }
        self.doubts += 1;
        caller.setbacks.note(Setback::SharedPoll, &last());
        Ok(self.pace.after_failure(hint, &*caller.jitter))
    }

    fn after_transport_error(
        &mut self,
        caller: &Caller,
        error: TransportError,
        sent_at: Moment,
    ) -> Result<Wait> {
        if !is_passing(&error) {
            return Err(error.into());
        }
        caller.setbacks.note(Setback::SharedPoll, &error);
        Ok(
            match held_in_vain(&error, caller.time.now().since(sent_at)) {
                Some(held) => Wait::Pause(self.pace.after_not_ready(held, &*caller.jitter)),
                None => self.outage(caller, Duration::ZERO),
            },
        )
    }

    /// One poll: admitted, sent, settled. With when it was sent.
    async fn poll(
        &mut self,
        caller: &Caller,
        report: &Report,
        work: Work,
        deadline: Option<Moment>,
    ) -> Result<(Moment, Result<HttpResponse, TransportError>)> {
        loop {
            let reentry = std::mem::replace(&mut self.reentry, Reentry::New);
            let admitted = caller
                .admission
                .admit(self.asking(deadline, reentry))
                .await?;
            let Admitted {
                mut permit,
                flight,
                arrival,
            } = admitted;
            self.arrival = arrival;
            let sent_at = caller.time.now();
            let request = self.request(report, work);
            let outcome = caller.send(&mut permit, request).await;
            if is_held(&outcome) {
                self.reentry = Reentry::AfterRefusal(arrival);
                continue;
            }
            permit.settle(settlement(&outcome, caller));
            drop(flight);
            return Ok((sent_at, outcome));
        }
    }

    fn asking(&self, deadline: Option<Moment>, reentry: Reentry) -> Ask {
        Ask {
            class: RouteClass::Poll,
            client: self.client,
            cost: Cost::default(),
            deadline,
            flight: None,
            reentry,
            is_nested: false,
        }
    }

    fn request(&self, report: &Report, work: Work) -> HttpRequest {
        let mut request =
            HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURES, RouteClass::Poll);
        let (timeout, timeouts) = match work {
            Work::Wait => (
                None,
                Timeouts {
                    first_byte: POLL_LIMIT,
                    ..Timeouts::default()
                },
            ),
            Work::Acknowledge | Work::Idle => (Some(0.0), Timeouts::within(ACKNOWLEDGE_LIMIT)),
        };
        request.body = to_json(&RetrieveFutures {
            target: self.target.clone(),
            prev_cursor: report.cursor,
            timeout,
            retrieved_request_ids: report.retrieved.iter().map(|id| (**id).into()).collect(),
        });
        request.timeouts = timeouts;
        for name in [header::CONTENT_TYPE, header::ACCEPT] {
            let json = HeaderValue::from_static("application/json");
            request.headers.insert(name, json);
        }
        request
    }

    /// Acknowledges what is left, once and within seconds. What fails here costs the server memory for a while, and nobody
    /// a result.
    async fn say_goodbye(&mut self) {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        let deadline = caller.time.now().after(ACKNOWLEDGE_LIMIT);
        while self.board.owes() {
            let report = self.board.report();
            let last = self.poll(caller, &report, Work::Acknowledge, Some(deadline));
            let answer = match caller.time.deadline(deadline, last).await {
                Some(Ok((_, Ok(answer)))) => answer,
                other => {
                    caller.setbacks.count(Setback::Acknowledgement);
                    tracing::debug!(
                        setback = Setback::Acknowledgement.name(),
                        ?other,
                        "the last acknowledgement did not get through"
                    );
                    return;
                }
            };
            let Reply::Told(mut told) = classify(&answer, caller.time.wall()) else {
                caller.setbacks.count(Setback::Acknowledgement);
                tracing::debug!(setback = Setback::Acknowledgement.name(), status = %answer.status, "the last acknowledgement was not taken");
                return;
            };
            // What is told now is of interest to nobody; more ids than one poll takes go with the next.
            told.cursor = report.cursor;
            self.board.answered(caller.time.now(), &report, told);
        }
    }
}

/// Runs `work` until `end` comes.
async fn unless(
    work: impl Future<Output = Result<()>> + Send,
    end: impl Future<Output = ()> + Send,
) -> Result<()> {
    let mut work = pin!(work);
    let mut end = pin!(end);
    std::future::poll_fn(move |cx| {
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        work.as_mut().poll(cx)
    })
    .await
}
