//! Waiting for the results of what was submitted.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tinkers_core::foreign::contain;
use tinkers_core::{Error, ErrorKind, Moment, Phase, Result, Sent, Setback};
use tinkers_futures::{Operation, QueueLog, Retrieval, retrieve};
use tinkers_wire::{ForwardBackwardOutput, OperationResult, RequestKind, TinkerPath};
use tokio::sync::oneshot;

use crate::delivery::Taken;
use crate::lost::{Finder, search};
use crate::merge;
use crate::parts::SavedName;
use crate::taken::{is_taken, name_taken};
use crate::together::Together;
use crate::turns::Turns;

/// What became of a call's place in the order: its submission's outcome, or why it got no place.
pub(crate) type Placed = Result<oneshot::Receiver<Result<Vec<Taken>>>>;

/// Makes the result of a call of a save that was found to have been made.
pub(crate) type Found<T> = fn(TinkerPath) -> Result<T>;

/// Waits for the results of one call.
pub(crate) struct Waiter {
    pub(crate) operation: Operation,
    pub(crate) kind: RequestKind,
    pub(crate) turns: Arc<Turns>,
    pub(crate) queue_log: Arc<QueueLog>,
    /// Of a save under a name.
    pub(crate) name: Option<SavedName>,
}

impl Waiter {
    /// The result of a call of one request.
    pub(crate) async fn single<T: OperationResult>(
        self,
        placed: Placed,
        found: Found<T>,
    ) -> Result<T> {
        let mut parts = self.submitted(placed?).await?;
        self.result(parts.remove(0), found).await
    }

    /// The merged result of a pass. The first chunk that fails fails it; the results of the others are then given up.
    pub(crate) async fn merged(self, placed: Placed) -> Result<ForwardBackwardOutput> {
        let parts = self.submitted(placed?).await?;
        let promises: Vec<(u64, String)> = parts.iter().filter_map(promised).collect();
        let mut outputs: Vec<Option<ForwardBackwardOutput>> = vec![None; parts.len()];
        let results = parts.into_iter().map(|part| self.result(part, no_result));
        let mut results = Together::new(results);
        while let Some((place, outcome)) = results.next().await {
            match outcome {
                Ok(output) => outputs[place] = Some(output),
                Err(error) if outputs.len() == 1 => return Err(error),
                Err(error) => {
                    let done: Vec<bool> = outputs.iter().map(Option::is_some).collect();
                    return Err(self.one_failed(place, &promises, &done, error));
                }
            }
        }
        Ok(merge(outputs.into_iter().flatten().collect()))
    }

    /// Waits for what becomes of the submission, no longer than there is hope that it leaves before the operation's deadline.
    async fn submitted(
        &self,
        mut receiver: oneshot::Receiver<Result<Vec<Taken>>>,
    ) -> Result<Vec<Taken>> {
        let Some(deadline) = self.operation.deadline else {
            return delivered(receiver.await);
        };
        let admission = &self.operation.session.caller().admission;
        loop {
            let mut closure = admission.next_closure(self.operation.class);
            self.check_in_time(deadline)?;
            let outcome = poll_fn(|cx| {
                let outcome = Pin::new(&mut receiver).poll(cx).map(Some);
                match outcome {
                    Poll::Pending => closure.as_mut().poll(cx).map(|()| None),
                    outcome => outcome,
                }
            });
            if let Some(outcome) = outcome.await {
                return delivered(outcome);
            }
        }
    }

    /// Fails when the call waits for its turn and the server's hint lies beyond `deadline`.
    fn check_in_time(&self, deadline: Moment) -> Result<()> {
        let Operation {
            session,
            progress,
            class,
            ..
        } = &self.operation;
        let caller = session.caller();
        let Some(opens_at) = caller.admission.closed_until(*class) else {
            return Ok(());
        };
        if opens_at <= deadline || progress.snapshot().phase != Phase::Admission {
            return Ok(());
        }
        let now = caller.time.now();
        let message = format!(
            "the server's rate limit holds {} requests back for another {:.1} s, beyond the operation deadline; the call keeps \
             its place and is submitted then, so do not repeat it",
            class.name(),
            opens_at.since(now).as_secs_f64()
        );
        let error = Error::new(ErrorKind::RateLimited, progress.sent(), message);
        Err(error.with_retry_at(now, opens_at))
    }

    async fn result<T: OperationResult>(&self, taken: Taken, found: Found<T>) -> Result<T> {
        let (promise, flight, elapsed, earlier, is_fresh) = match taken {
            Taken::Promised {
                promise,
                flight,
                elapsed,
                earlier,
                is_fresh,
                ..
            } => (promise, flight, elapsed, earlier, is_fresh),
            Taken::Found(path) => return found(path),
        };
        let result = retrieve(Retrieval {
            operation: self.operation.clone(),
            client: self.turns.client(),
            request_id: promise.request_id,
            kind: self.kind,
            submitted_in: elapsed,
            queue_log: Some(Arc::clone(&self.queue_log)),
        })
        .await;
        drop(flight);
        match (result, &self.name) {
            (Err(error), Some(name)) if is_taken(&error) => {
                let error = name_taken(name, error);
                if earlier != Sent::MaybeSent {
                    return Err(error);
                }
                let conflict = error.with_sent(Sent::MaybeSent);
                if !is_fresh {
                    return Err(conflict);
                }
                // A repeat met what an earlier attempt had saved.
                found(search(&self.finder(), name, conflict).await?)
            }
            (result, _) => result,
        }
    }

    fn finder(&self) -> Finder<'_> {
        Finder {
            session: &*self.operation.session,
            model_id: self.turns.model_id(),
            client: self.turns.client(),
            operation: self.operation.name,
            progress: &self.operation.progress,
        }
    }

    /// The failure of one chunk, with what is known of the others at this moment.
    fn one_failed(
        &self,
        place: usize,
        promises: &[(u64, String)],
        done: &[bool],
        error: Error,
    ) -> Error {
        let mut numbers = Vec::new();
        for (i, (seq_id, request_id)) in promises.iter().enumerate() {
            if done[i] {
                numbers.push(seq_id.to_string());
            } else if i != place {
                self.operation
                    .session
                    .caller()
                    .setbacks
                    .count(Setback::Undelivered);
                contain(
                    || tracing::warn!(setback = Setback::Undelivered.name(), operation = self.operation.name, seq_id, %request_id, "its result is given up, because another chunk of the call failed"),
                );
            }
        }
        let failed = promises.get(place).map_or(0, |(seq_id, _)| *seq_id);
        let (count, numbers) = (done.len(), numbers.join(", "));
        error.with_context(format!(
            "of {count} chunks that the server accepted, {failed} failed when [{numbers}] were done"
        ))
    }
}

fn delivered(outcome: Result<Result<Vec<Taken>>, oneshot::error::RecvError>) -> Result<Vec<Taken>> {
    outcome.unwrap_or_else(|_| {
        let message = "the task that sends this model's requests went away";
        Err(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message))
    })
}

fn promised(taken: &Taken) -> Option<(u64, String)> {
    match taken {
        Taken::Promised {
            promise, seq_id, ..
        } => Some((*seq_id, promise.request_id.clone())),
        Taken::Found(_) => None,
    }
}

fn no_result<T>(_: TinkerPath) -> Result<T> {
    let message = "a pass leaves no checkpoint to be found";
    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
}
