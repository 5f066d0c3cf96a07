//! The background task of the shared poll.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{HeaderValue, Method, header};
use tinkers_core::user_code::catch_panic;
use tinkers_core::{
    Backoff, ClientId, Error, ErrorKind, HttpRequest, HttpResponse, RecoveredError, Result,
    RouteClass, Sent, SessionContext, Timeouts,
};
use tinkers_wire::{Completions, PollTarget, RetrieveFutures, routes, to_json};

use super::completion_table::{Acknowledgement, CompletionTable, Work};
use crate::catch_unwind;
use crate::poll_loop::{PollHandler, PollLoop, Verdict};

/// The time limit of a single poll that only acknowledges received completions, and of all such polls together after the client was
/// dropped.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(5);
/// The time for which an acknowledgement waits for a poll that is sent for another reason and can carry it. After this time, a poll is sent
/// only for the acknowledgement.
const ACKNOWLEDGE_DELAY: Duration = Duration::from_secs(1);
/// The maximum number of polls that acknowledge the remaining results to the server after the client was dropped.
const MAX_FINAL_ACKNOWLEDGEMENTS: u32 = 20;
/// The time for which the shared poll is suspended after a failure: 30 s at first, doubling with consecutive failures up to 10 minutes.
const SUSPENSION: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));

/// The background task that sends the shared polls of a sampling client.
pub(super) struct SharedPoll {
    session: Arc<dyn SessionContext>,
    client: ClientId,
    target: PollTarget,
    completions: Arc<CompletionTable>,
    polls: PollLoop,
    /// The number of consecutive suspensions without a successful response in between.
    suspensions: u32,
}

/// A guard for the polling task. If the task is dropped before its end, because it was aborted or its runtime has ended, the guard makes
/// all requests that wait for a completion fail.
struct FailWaitersOnAbort(Arc<CompletionTable>);

impl Drop for FailWaitersOnAbort {
    fn drop(&mut self) {
        let message =
            "the task that polls for this client's results was aborted; its runtime has ended";
        self.0
            .end(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message));
    }
}

impl SharedPoll {
    pub(super) fn new(
        session: Arc<dyn SessionContext>,
        client: ClientId,
        target: PollTarget,
        completions: Arc<CompletionTable>,
    ) -> Self {
        Self {
            polls: poll_loop(&session, client, &target),
            session,
            client,
            target,
            completions,
            suspensions: 0,
        }
    }

    /// Polls until the poller is dropped. While the shared poll is suspended after a failure, each request is polled for individually.
    pub(super) fn run(mut self) -> impl Future<Output = ()> + Send {
        // The guard is created here, so that it also exists in a task that is never polled.
        let guard = FailWaitersOnAbort(Arc::clone(&self.completions));
        async move {
            let completions = Arc::clone(&self.completions);
            while let Err(error) =
                catch_unwind(until(completions.until_closed(), self.poll())).await
            {
                let suspension = self.fail(&error);
                completions.suspend();
                let time = Arc::clone(&self.session.caller().time);
                let end = time.now().after(suspension);
                if time
                    .deadline(end, completions.until_closed())
                    .await
                    .is_some()
                {
                    break;
                }
                completions.resume();
            }
            completions.end(Error::closed().with_sent(Sent::MaybeSent));
            let acknowledged = catch_unwind(async {
                self.acknowledge_rest().await;
                Ok(())
            });
            if let Err(error) = acknowledged.await {
                let recovered_errors = &self.session.caller().recovered_errors;
                recovered_errors.record(RecoveredError::Acknowledgement, &error);
            }
            drop(guard);
        }
    }

    /// Counts and logs a failure of the shared poll. Returns the time for which the shared poll is then suspended.
    fn fail(&mut self, error: &Error) -> Duration {
        let hint = error.retry_after().unwrap_or_default();
        let suspension = SUSPENSION.pause(self.suspensions).max(hint);
        self.suspensions = self.suspensions.saturating_add(1);
        let recovered_error = RecoveredError::SharedPoll;
        self.session
            .caller()
            .recovered_errors
            .count(recovered_error);
        let (recovered_error, seconds) = (recovered_error.name(), suspension.as_secs());
        let sampler = &self.target.sampling_session_id;
        catch_panic(
            || tracing::warn!(recovered_error, %error, sampler, seconds, "suspended the shared poll of a client; each sample is polled for by itself"),
        );
        // A panic may have left the old state inconsistent.
        self.polls = poll_loop(&self.session, self.client, &self.target);
        suspension
    }

    /// Sends shared polls until one of them fails and is not retried, and returns its error.
    async fn poll(&mut self) -> Result<Infallible> {
        let mut poll = CompletionPoll {
            session: &*self.session,
            target: &self.target,
            completions: &self.completions,
            suspensions: &mut self.suspensions,
            acknowledgement: Acknowledgement::default(),
            work: Work::Idle,
        };
        self.polls.run(&mut poll, None).await
    }

    /// Acknowledges the remaining retrieved results to the server after the client was dropped, within a few seconds. If an acknowledgement
    /// fails, the server stores results for longer than necessary, but no request loses its result.
    async fn acknowledge_rest(&mut self) {
        let session = Arc::clone(&self.session);
        let caller = session.caller();
        let deadline = caller.time.now().after(ACKNOWLEDGE_LIMIT);
        let mut poll = FinalAck {
            target: &self.target,
            completions: &self.completions,
            acknowledgement: Acknowledgement::default(),
            remaining: MAX_FINAL_ACKNOWLEDGEMENTS,
            timeouts: caller.timeouts.of(RouteClass::Poll),
        };
        let polls = self.polls.run(&mut poll, Some(deadline));
        let outcome = caller.time.deadline(deadline, polls).await;
        if self.completions.has_unacknowledged() {
            let recovered_error = RecoveredError::Acknowledgement;
            caller.recovered_errors.count(recovered_error);
            let recovered_error = recovered_error.name();
            catch_panic(|| {
                tracing::debug!(
                    recovered_error,
                    ?outcome,
                    "the final acknowledgement failed"
                )
            });
        }
    }
}

/// The poll handler that builds the shared polls for the completions of registered requests, and stores the reported completions.
struct CompletionPoll<'a> {
    session: &'a dyn SessionContext,
    target: &'a PollTarget,
    completions: &'a CompletionTable,
    suspensions: &'a mut u32,
    /// The completions and results that the poll in flight acknowledges.
    acknowledgement: Acknowledgement,
    work: Work,
}

impl PollHandler for CompletionPoll<'_> {
    type Output = Infallible;

    async fn until_work(&mut self) -> Option<Infallible> {
        let time = &self.session.caller().time;
        loop {
            if self.completions.until_work().await == Work::Acknowledge {
                let end = time.now().after(ACKNOWLEDGE_DELAY);
                time.deadline(end, self.completions.until_waiting()).await;
            }
            self.work = self.completions.work();
            if self.work != Work::Idle {
                self.acknowledgement = self.completions.acknowledgement();
                return None;
            }
        }
    }

    fn request(&mut self) -> HttpRequest {
        let timeouts = self.session.caller().timeouts.of(RouteClass::Poll);
        request(self.target, &self.acknowledgement, self.work, timeouts)
    }

    async fn on_success(&mut self, response: HttpResponse) -> Result<Verdict<Infallible>> {
        let completions = match Completions::read(&response.body) {
            Ok(completions) => completions,
            Err(error) => {
                let message = format!("cannot decode the response to a shared poll: {error}");
                return Ok(invalid(&message, &response));
            }
        };
        *self.suspensions = 0;
        let caller = self.session.caller();
        let now = caller.time.now();
        let applied = self
            .completions
            .apply(now, &self.acknowledgement, completions);
        if applied.is_first_bad_cursor {
            let cause = "the cursor went back or cannot be decoded; it is ignored";
            caller
                .recovered_errors
                .record(RecoveredError::SharedPoll, &cause);
        }
        // Repeated completions, and those of unknown requests, must not cause a busy loop.
        Ok(if applied.notified > 0 {
            Verdict::Progress
        } else {
            Verdict::NotReady
        })
    }

    fn on_not_ready(&mut self, _: HttpResponse) -> Verdict<Infallible> {
        *self.suspensions = 0;
        Verdict::NotReady
    }

    fn on_held_back(&mut self) {
        self.completions
            .reset_deadlines(self.session.caller().time.now());
    }

    fn before_wait(&mut self) {
        let now = self.session.caller().time.now();
        let limit = self.session.progress_deadline() / 2;
        self.completions.release_overdue(now, limit);
    }
}

/// The poll handler that builds the last polls after a client was dropped. These polls only acknowledge the remaining results to the
/// server.
struct FinalAck<'a> {
    target: &'a PollTarget,
    completions: &'a CompletionTable,
    acknowledgement: Acknowledgement,
    /// The number of polls for final acknowledgements that may still be sent.
    remaining: u32,
    timeouts: Timeouts,
}

impl PollHandler for FinalAck<'_> {
    type Output = ();

    async fn until_work(&mut self) -> Option<()> {
        if self.remaining == 0 || !self.completions.has_unacknowledged() {
            return Some(());
        }
        self.remaining -= 1;
        self.acknowledgement = self.completions.acknowledgement();
        None
    }

    fn request(&mut self) -> HttpRequest {
        request(
            self.target,
            &self.acknowledgement,
            Work::Acknowledge,
            self.timeouts,
        )
    }

    async fn on_success(&mut self, response: HttpResponse) -> Result<Verdict<()>> {
        if Completions::read(&response.body).is_err() {
            return Ok(self.on_not_ready(response));
        }
        self.completions.acknowledged(&self.acknowledgement);
        Ok(Verdict::Progress)
    }

    fn on_not_ready(&mut self, response: HttpResponse) -> Verdict<()> {
        invalid("the server did not take the acknowledgement", &response)
    }
}

fn invalid<T>(message: &str, response: &HttpResponse) -> Verdict<T> {
    let error = Error::new(ErrorKind::Protocol, Sent::Answered, message);
    Verdict::Invalid(error.with_response(response.status.as_u16(), &response.body))
}

fn poll_loop(session: &Arc<dyn SessionContext>, client: ClientId, target: &PollTarget) -> PollLoop {
    let session = Arc::clone(session);
    let sampler = &target.sampling_session_id;
    PollLoop::new(session, client, RecoveredError::SharedPoll, sampler)
}

fn request(
    target: &PollTarget,
    acknowledgement: &Acknowledgement,
    work: Work,
    timeouts: Timeouts,
) -> HttpRequest {
    let mut request = HttpRequest::new(Method::POST, routes::RETRIEVE_FUTURES, RouteClass::Poll);
    let (timeout, timeouts) = match work {
        Work::Wait => (None, timeouts),
        Work::Acknowledge | Work::Idle => (Some(0.0), timeouts.limited_to(ACKNOWLEDGE_LIMIT)),
    };
    let retrieved = acknowledgement.retrieved.iter();
    request.body = to_json(&RetrieveFutures {
        target: target.clone(),
        prev_cursor: acknowledgement.cursor,
        timeout,
        retrieved_request_ids: retrieved.map(|id| (**id).into()).collect(),
    });
    request.timeouts = timeouts;
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        let json = HeaderValue::from_static("application/json");
        request.headers.insert(name, json);
    }
    request
}

/// Runs `work` until it fails, and returns its error, or until `end` completes. If both happen at once, `end` takes precedence.
async fn until(
    end: impl Future<Output = ()> + Send,
    work: impl Future<Output = Result<Infallible>> + Send,
) -> Result<()> {
    match select(pin!(end), pin!(work)).await {
        Either::Left(_) => Ok(()),
        Either::Right((failed, _)) => failed.map(|never| match never {}),
    }
}
