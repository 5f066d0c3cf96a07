//! The wait for the results of a training call.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tinkers_core::user_code::catch_panic;
use tinkers_core::{Error, ErrorKind, Phase, RecoveredError, Result, Sent, Timestamp};
use tinkers_futures::{Operation, QueueLog, Retrieval, retrieve};
use tinkers_wire::{ForwardBackwardOutput, OperationResult, RequestKind, TinkerPath};
use tokio::sync::oneshot;

use crate::merge;
use crate::name_conflict::{is_name_taken, name_taken};
use crate::recover_save::SaveLookup;
use crate::requests::SavedName;
use crate::submission_queue::{OutcomeReceiver, SubmissionQueue};
use crate::submit::Submitted;

/// A function that makes the result of a save from the path of its checkpoint. It is used if the response to the save was lost and the
/// checkpoint was found by name.
pub(crate) type FoundSave<T> = fn(TinkerPath) -> Result<T>;

/// A waiter for the results of one training call, which consists of one or several requests.
pub(crate) struct ResultWaiter {
    pub(crate) operation: Operation,
    pub(crate) kind: RequestKind,
    pub(crate) queue: Arc<SubmissionQueue>,
    pub(crate) queue_log: Arc<QueueLog>,
    /// The name and kind of the checkpoint if the call is a named save.
    pub(crate) name: Option<SavedName>,
}

impl ResultWaiter {
    /// Waits for the result of a call that consists of one request.
    pub(crate) async fn single<T: OperationResult>(
        self,
        queued: Result<OutcomeReceiver>,
        found: FoundSave<T>,
    ) -> Result<T> {
        let mut submitted = self.submitted(queued?).await?;
        self.result(submitted.remove(0), found).await
    }

    /// Waits for the results of all chunks of a forward or forward-backward pass, and merges them. If a chunk fails, returns the error of
    /// the chunk at once and abandons the results of the other chunks.
    pub(crate) async fn merged(
        self,
        queued: Result<OutcomeReceiver>,
    ) -> Result<ForwardBackwardOutput> {
        let submitted = self.submitted(queued?).await?;
        let ids: Vec<(u64, String)> = submitted.iter().filter_map(seq_and_request_id).collect();
        let mut outputs: Vec<Option<ForwardBackwardOutput>> = vec![None; submitted.len()];
        let results = submitted.into_iter().enumerate().map(|(index, submitted)| {
            let result = self.result(submitted, no_checkpoint);
            async move { (index, result.await) }
        });
        let mut results: FuturesUnordered<_> = results.collect();
        while let Some((index, outcome)) = results.next().await {
            match outcome {
                Ok(output) => outputs[index] = Some(output),
                Err(error) if outputs.len() == 1 => return Err(error),
                Err(error) => {
                    let done: Vec<bool> = outputs.iter().map(Option::is_some).collect();
                    drop(results);
                    return Err(self.chunk_failed(index, &ids, &done, error));
                }
            }
        }
        Ok(merge(outputs.into_iter().flatten().collect()))
    }

    /// Waits until the server has accepted all requests of the call. Fails early if the server asked for a pause of requests that ends after the
    /// deadline of the operation.
    async fn submitted(&self, mut receiver: OutcomeReceiver) -> Result<Vec<Submitted>> {
        let Some(deadline) = self.operation.deadline else {
            return delivered(receiver.await);
        };
        let admission = &self.operation.session.caller().admission;
        loop {
            let mut closure = admission.next_closure(self.operation.class);
            self.check_deadline(deadline)?;
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

    /// Fails if the rate limiter holds the call back, and the pause that the server asked for ends after `deadline`.
    fn check_deadline(&self, deadline: Timestamp) -> Result<()> {
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
            "the server's rate limit holds {} requests back for another {:.1} s, beyond the operation deadline; the call stays \
            in the queue and is submitted then, so do not repeat it",
            class.name(),
            opens_at.since(now).as_secs_f64()
        );
        let error = Error::new(ErrorKind::RateLimited, progress.sent(), message);
        Err(error.with_retry_at(now, opens_at))
    }

    async fn result<T: OperationResult>(
        &self,
        submitted: Submitted,
        found: FoundSave<T>,
    ) -> Result<T> {
        let (response, in_flight_permit, elapsed, earlier, is_fresh) = match submitted {
            Submitted::Accepted {
                response,
                in_flight_permit,
                elapsed,
                earlier,
                is_fresh,
                ..
            } => (response, in_flight_permit, elapsed, earlier, is_fresh),
            Submitted::Found(path) => return found(path),
        };
        let result = retrieve(Retrieval {
            operation: self.operation.clone(),
            client: self.queue.client(),
            request_id: response.request_id,
            kind: self.kind,
            submitted_in: elapsed,
            queue_log: Some(Arc::clone(&self.queue_log)),
        })
        .await;
        drop(in_flight_permit);
        match (result, &self.name) {
            (Err(error), Some(name)) if is_name_taken(&error) => {
                let error = name_taken(name, error);
                if earlier != Sent::MaybeSent {
                    return Err(error);
                }
                let conflict = error.with_sent(Sent::MaybeSent);
                if !is_fresh {
                    return Err(conflict);
                }
                // The retry conflicted with the checkpoint that an earlier attempt had saved.
                found(self.lookup().find_eventually(name, conflict).await?)
            }
            (result, _) => result,
        }
    }

    fn lookup(&self) -> SaveLookup<'_> {
        SaveLookup {
            session: &*self.operation.session,
            model_id: self.queue.model_id(),
            client: self.queue.client(),
            operation: self.operation.name,
            progress: &self.operation.progress,
        }
    }

    /// Adds to the error of a failed chunk the sequence numbers of the chunks of the batch that were already done. Logs that the results of the
    /// other chunks are not retrieved.
    fn chunk_failed(
        &self,
        failed: usize,
        ids: &[(u64, String)],
        done: &[bool],
        error: Error,
    ) -> Error {
        let mut numbers = Vec::new();
        for (i, (seq_id, request_id)) in ids.iter().enumerate() {
            if done[i] {
                numbers.push(seq_id.to_string());
            } else if i != failed {
                self.operation
                    .session
                    .caller()
                    .recovered_errors
                    .count(RecoveredError::Undelivered);
                catch_panic(
                    || tracing::warn!(recovered_error = RecoveredError::Undelivered.name(), operation = self.operation.name, seq_id, %request_id, "the result is abandoned, because another chunk of the call failed"),
                );
            }
        }
        let failed = ids.get(failed).map_or(0, |(seq_id, _)| *seq_id);
        let (count, numbers) = (done.len(), numbers.join(", "));
        error.with_context(format!(
            "of the {count} chunks that the server accepted, {failed} failed when [{numbers}] were done"
        ))
    }
}

fn delivered(
    outcome: Result<Result<Vec<Submitted>>, oneshot::error::RecvError>,
) -> Result<Vec<Submitted>> {
    outcome.unwrap_or_else(|_| {
        let message = "the task that sends this model's requests was aborted";
        Err(Error::new(ErrorKind::Aborted, Sent::MaybeSent, message))
    })
}

/// Returns the sequence number and the request id of an accepted request.
fn seq_and_request_id(submitted: &Submitted) -> Option<(u64, String)> {
    match submitted {
        Submitted::Accepted {
            response, seq_id, ..
        } => Some((*seq_id, response.request_id.clone())),
        Submitted::Found(_) => None,
    }
}

fn no_checkpoint<T>(_: TinkerPath) -> Result<T> {
    let message = "a pass saves no checkpoint that could be found";
    Err(Error::new(ErrorKind::Protocol, Sent::Answered, message))
}
