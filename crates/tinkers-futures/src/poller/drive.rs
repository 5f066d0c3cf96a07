//! The task of the shared poll.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Method, header};
use tinkers_core::call::answer_error;
use tinkers_core::contain::contain;
use tinkers_core::{
    ClientId, Error, ErrorKind, HttpRequest, RecoveredError, Result, RouteClass, Sent,
    SessionContext, Timeouts,
};
use tinkers_wire::{Completions, PollTarget, RetrieveFutures, routes, to_json};

use super::board::{Board, Report, Work};
use crate::catch_unwind;
use crate::pace::hint_of;
use crate::polls::{POLL_LIMIT, Polls, Reply, Wait};

/// A poll that only acknowledges is given up after this long, and so are all last acknowledgements together.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(5);
/// How long an acknowledgement waits for a poll that would take it along.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(1);
/// The most last acknowledgements.
const LAST_ACKNOWLEDGEMENTS: u32 = 20;
/// How long a shared poll that was given up rests; it doubles with each time in a row, up to [`LONGEST_REST`].
const FIRST_REST: Duration = Duration::from_secs(30);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// What the task works with.
pub(super) struct Drive {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    target: PollTarget,
    board: Arc<Board>,
    polls: Polls,
    /// How often in a row the poll was given up.
    given_up: u32,
}

/// Tells every waiter when the task goes away without a word: it was aborted, or its runtime has ended.
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
            polls: polls(&session, client, &target),
            session,
            client,
            target,
            board,
            given_up: 0,
        }
    }

    /// Polls until the handle goes. When a poll fails for good, its waiters poll for themselves, and so does whoever comes while it rests.
    pub(super) fn run(mut self) -> impl Future<Output = ()> + Send {
        // Made now, so that it also speaks when the task is never polled.
        let farewell = Farewell(Arc::clone(&self.board));
        async move {
            let board = Arc::clone(&self.board);
            while let Err(error) = catch_unwind(unless(self.ask(), board.until_closed())).await {
                let rest = self.rest(&error);
                board.suspend();
                let time = Arc::clone(&self.session.caller().time);
                let end = time.now().after(rest);
                if time.deadline(end, board.until_closed()).await.is_some() {
                    break;
                }
                board.resume();
            }
            board.end(Error::closed().with_sent(Sent::MaybeSent));
            let said = catch_unwind(async {
                self.acknowledge_the_rest().await;
                Ok(())
            });
            if let Err(error) = said.await {
                let recovered_errors = &self.session.caller().recovered_errors;
                recovered_errors.note(RecoveredError::Acknowledgement, &error);
            }
            drop(farewell);
        }
    }

    /// Gives the poll up for a while.
    fn rest(&mut self, error: &Error) -> Duration {
        let usual = FIRST_REST.saturating_mul(1 << self.given_up.min(10));
        let hint = error.retry_after().unwrap_or_default();
        let rest = usual.min(LONGEST_REST).max(hint);
        self.given_up = self.given_up.saturating_add(1);
        self.session
            .caller()
            .recovered_errors
            .count(RecoveredError::SharedPoll);
        let (recovered_error, seconds) = (RecoveredError::SharedPoll.name(), rest.as_secs());
        let sampler = &self.target.sampling_session_id;
        contain(
            || tracing::warn!(recovered_error, %error, sampler, seconds, "gave up the poll for all samples of a client for a while; each sample is polled for by itself"),
        );
        // After a panic nothing is known of what the old one holds.
        self.polls = polls(&self.session, self.client, &self.target);
        rest
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
            let begin = || request(&self.target, &report, work);
            let exchange = self.polls.send(None, begin).await?;
            let held = exchange.held;
            let now = caller.time.now();
            let wait = match self.polls.judge(exchange)? {
                Reply::Success(answer) => match Completions::read(&answer.body) {
                    Ok(told) => {
                        self.given_up = 0;
                        self.told(&report, told, held)
                    }
                    Err(error) => {
                        let message = format!("cannot decode the answer to a shared poll: {error}");
                        let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
                        let status = answer.status.as_u16();
                        self.polls
                            .doubt_body(error.with_answer(status, &answer.body))?
                    }
                },
                Reply::NotReady(answer) => {
                    self.given_up = 0;
                    let hint = hint_of(&answer, caller.time.wall());
                    self.polls.not_ready(held, hint)
                }
                Reply::Again { wait, is_news } => {
                    if is_news {
                        self.board.news_for_all(now);
                    }
                    wait
                }
            };
            let patience = session.progress_deadline() / 2;
            self.board.release_overdue(now, patience);
            self.polls.wait(wait).await;
        }
    }

    fn told(&mut self, report: &Report, told: Completions, held: Duration) -> Wait {
        let now = self.session.caller().time.now();
        let answered = self.board.answered(now, report, told);
        if answered.first_bad_cursor {
            let why = "a cursor that went back or cannot be read; it is ignored";
            let recovered_errors = &self.session.caller().recovered_errors;
            recovered_errors.note(RecoveredError::SharedPoll, &why);
        }
        // What is of nobody, or was told before, must not make the polls hot.
        if answered.waiters > 0 {
            self.polls.progress()
        } else {
            self.polls.not_ready(held, Duration::ZERO)
        }
    }

    /// Acknowledges what is left: a bounded number of times, with pauses after failures, all within seconds. What fails here costs the
    /// server memory for a while, and no waiter a result.
    async fn acknowledge_the_rest(&mut self) {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        let deadline = caller.time.now().after(ACKNOWLEDGE_LIMIT);
        let board = Arc::clone(&self.board);
        let all = async {
            for _ in 0..LAST_ACKNOWLEDGEMENTS {
                if !board.owes() {
                    return Ok(());
                }
                let report = board.report();
                let begin = || request(&self.target, &report, Work::Acknowledge);
                let exchange = self.polls.send(Some(deadline), begin).await?;
                let wait = match self.polls.judge(exchange)? {
                    Reply::Success(answer) if Completions::read(&answer.body).is_ok() => {
                        board.acknowledged(&report);
                        continue;
                    }
                    Reply::Success(answer) | Reply::NotReady(answer) => {
                        let message = "the acknowledgement was not taken";
                        let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
                        let status = answer.status.as_u16();
                        self.polls
                            .doubt_body(error.with_answer(status, &answer.body))?
                    }
                    Reply::Again { wait, .. } => wait,
                };
                self.polls.wait(wait).await;
            }
            Ok(())
        };
        let outcome: Option<Result<()>> = caller.time.deadline(deadline, all).await;
        if self.board.owes() {
            caller
                .recovered_errors
                .count(RecoveredError::Acknowledgement);
            let recovered_error = RecoveredError::Acknowledgement.name();
            contain(|| {
                tracing::debug!(
                    recovered_error,
                    ?outcome,
                    "the last acknowledgement did not get through"
                )
            });
        }
    }
}

fn polls(session: &Arc<dyn SessionContext>, client: ClientId, target: &PollTarget) -> Polls {
    let sampler = &target.sampling_session_id;
    let session = Arc::clone(session);
    Polls::new(
        session,
        client,
        RecoveredError::SharedPoll,
        sampler,
        answer_error,
    )
}

fn request(target: &PollTarget, report: &Report, work: Work) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURES, RouteClass::Poll);
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
        target: target.clone(),
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
