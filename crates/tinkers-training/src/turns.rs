//! The order of one model's requests: numbers are reserved when a method is called, and requests leave in that order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::{
    ClientId, Error, ErrorKind, Flight, Policy, ProgressCell, Result, Sent, SessionContext,
};
use tinkers_futures::{catch_unwind, join_all, promise};
use tinkers_wire::{Promise, TinkerPath};
use tokio::sync::oneshot;

use crate::parts::Part;
use crate::submit;

/// How a part was taken by the server.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Its result will come.
    Promised {
        promise: Promise,
        /// One unit of the in-flight window, held until the result is there.
        flight: Flight,
        elapsed: Duration,
    },
    /// A save whose reply was lost, found to have been made.
    Found(TinkerPath),
}

/// A call's place in the order.
#[derive(Debug)]
struct Turn {
    first_seq: u64,
    parts: Vec<Arc<dyn Part>>,
    progress: Arc<ProgressCell>,
    operation: &'static str,
    reply: oneshot::Sender<Result<Vec<Taken>>>,
}

impl Turn {
    /// The number behind the last of this turn.
    fn end(&self) -> u64 {
        self.first_seq + self.parts.len() as u64
    }
}

/// The queue of one model's submissions.
///
/// A call takes its numbers and its place under one lock. One task at a time sends; it ends when the queue is empty, so an idle
/// model costs none. Who waits for a result has no say in the sending: dropping the handle leaves no hole in the order.
pub(crate) struct Turns {
    session: Arc<dyn SessionContext>,
    model_id: Arc<str>,
    client: ClientId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_seq: u64,
    queue: VecDeque<Turn>,
    sending: bool,
    poison: Option<Poison>,
}

/// Why nothing more may be sent.
#[derive(Debug, Clone)]
struct Poison {
    cause: Error,
    /// The number to go on from, when the server is known to have taken nothing from it on.
    resume_at: Option<u64>,
}

impl Turns {
    /// The first number of a model is 1: its creation counts as 0.
    pub(crate) fn new(session: Arc<dyn SessionContext>, model_id: Arc<str>) -> Arc<Self> {
        let client = session.next_client();
        let state = Mutex::new(State {
            next_seq: 1,
            ..State::default()
        });
        Arc::new(Self {
            session,
            model_id,
            client,
            state,
        })
    }

    pub(crate) fn session(&self) -> &Arc<dyn SessionContext> {
        &self.session
    }

    pub(crate) fn model_id(&self) -> &Arc<str> {
        &self.model_id
    }

    pub(crate) fn client(&self) -> ClientId {
        self.client
    }

    /// Reserves the numbers of `parts` and queues them, in one step.
    pub(crate) fn take(
        self: &Arc<Self>,
        operation: &'static str,
        parts: Vec<Arc<dyn Part>>,
        progress: Arc<ProgressCell>,
    ) -> Result<oneshot::Receiver<Result<Vec<Taken>>>> {
        self.session.check_open()?;
        let (reply, receiver) = oneshot::channel();
        let mut state = self.lock();
        if let Some(poison) = &state.poison {
            return Err(poison.error());
        }
        let first_seq = state.next_seq;
        state.next_seq += parts.len() as u64;
        state.queue.push_back(Turn {
            first_seq,
            parts,
            progress,
            operation,
            reply,
        });
        let idle = !std::mem::replace(&mut state.sending, true);
        drop(state);
        // Without the lock: on a runtime that has ended the task is dropped inside `spawn`, and its guard takes the lock.
        if idle {
            let sender = Sender {
                turns: Arc::clone(self),
                finished: false,
            };
            self.session
                .spawner()
                .spawn(Box::pin(sender.run()))
                .detach();
        }
        Ok(receiver)
    }

    /// Lets calls go on after a refusal that left nothing on the server.
    pub(crate) fn recover(&self) -> Result<()> {
        let mut state = self.lock();
        let Some(poison) = &state.poison else {
            return Ok(());
        };
        let Some(resume_at) = poison.resume_at else {
            return Err(poison.error());
        };
        state.next_seq = resume_at;
        state.poison = None;
        Ok(())
    }

    /// Fails everything queued and everything to come with `poison`, unless an earlier one is there.
    fn poison(&self, poison: Poison) {
        let waiting = {
            let mut state = self.lock();
            state.poison.get_or_insert(poison);
            std::mem::take(&mut state.queue)
        };
        let error = self
            .lock()
            .poison
            .as_ref()
            .map_or_else(Error::closed, Poison::error);
        for turn in waiting {
            let _ = turn.reply.send(Err(error.clone()));
        }
    }

    /// The next turn; when there is none, the sending ends, under the same lock as a call that would start it anew.
    fn next(&self) -> Option<Turn> {
        let mut state = self.lock();
        let turn = state.queue.pop_front();
        state.sending = turn.is_some();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Turns")
            .field("model_id", &self.model_id)
            .field("next_seq", &state.next_seq)
            .field("queued", &state.queue.len())
            .field("poisoned", &state.poison.is_some())
            .finish_non_exhaustive()
    }
}

impl Poison {
    fn error(&self) -> Error {
        let advice = match self.resume_at {
            Some(_) => "nothing of it was applied; call recover() to go on",
            None => "create a client from the last checkpoint",
        };
        let message = format!(
            "not sent, because an earlier call of this model failed ({}); {advice}",
            self.cause
        );
        Error::new(ErrorKind::Poisoned, Sent::NotSent, message).with_source(self.cause.clone())
    }
}

/// The task that sends. However it ends, nobody is left waiting.
struct Sender {
    turns: Arc<Turns>,
    finished: bool,
}

impl Sender {
    async fn run(mut self) {
        while let Some(turn) = self.turns.next() {
            let outcome = catch_unwind(self.send(&turn)).await;
            match outcome {
                Ok(taken) => {
                    // Nobody may be waiting any more; the numbers are used all the same.
                    let _ = turn.reply.send(Ok(taken));
                }
                Err(error) => {
                    let poison = Poison {
                        resume_at: clean(&error).then_some(turn.first_seq),
                        cause: error.clone(),
                    };
                    // First the poison, then the news of it, so that who hears of it finds it in force.
                    self.turns.poison(poison);
                    let _ = turn.reply.send(Err(error));
                }
            }
        }
        self.finished = true;
    }

    async fn send(&self, turn: &Turn) -> Result<Vec<Taken>> {
        if turn.parts.len() == 1 {
            return Ok(vec![self.send_part(turn, 0).await?]);
        }
        let parallel = self.turns.session.config().parallel_fwdbwd_chunks;
        let mut taken: Vec<Option<Taken>> = turn.parts.iter().map(|_| None).collect();
        let mut failed = None;
        if parallel {
            // The server cannot begin before the first number is there, so it comes last: then all can be worked on together, and
            // if one of the others is refused nothing has been applied by a server that keeps the order.
            let others = join_all((1..turn.parts.len()).map(|i| self.send_part(turn, i))).await;
            for (i, outcome) in others.into_iter().enumerate() {
                match outcome {
                    Ok(part) => taken[i + 1] = Some(part),
                    Err(error) => failed = Some(failed.unwrap_or((i + 1, error))),
                }
            }
            if failed.is_none() {
                match self.send_part(turn, 0).await {
                    Ok(part) => taken[0] = Some(part),
                    Err(error) => failed = Some((0, error)),
                }
            }
        } else {
            for (i, slot) in taken.iter_mut().enumerate() {
                match self.send_part(turn, i).await {
                    Ok(part) => *slot = Some(part),
                    Err(error) => {
                        failed = Some((i, error));
                        break;
                    }
                }
            }
        }
        match failed {
            None => Ok(taken.into_iter().flatten().collect()),
            Some((at, error)) => Err(partly_taken(turn, at, &taken, error)),
        }
    }

    async fn send_part(&self, turn: &Turn, index: usize) -> Result<Taken> {
        let part = &turn.parts[index];
        let seq_id = turn.first_seq + index as u64;
        let sent = submit::submit(&*self.turns.session, &**part, seq_id, |call| {
            call.operation = Some(turn.operation);
            call.client = self.turns.client;
            call.progress = Some(Arc::clone(&turn.progress));
            call.policy.window = call
                .policy
                .window
                .max(self.turns.session.progress_deadline());
        });
        match sent.await {
            Ok(accepted) => {
                let elapsed = accepted.elapsed;
                Ok(Taken::Promised {
                    promise: promise(&accepted.response)?,
                    flight: accepted.flight,
                    elapsed,
                })
            }
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => match part.effect() {
                Some(effect) => {
                    submit::look_or_repeat(
                        &*self.turns.session,
                        &self.turns.model_id,
                        &**part,
                        &effect,
                        seq_id,
                        error,
                    )
                    .await
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            // The runtime ended, or the task was aborted.
            let message =
                "the task that sends this model's requests was aborted; its runtime has ended";
            let cause = Error::new(ErrorKind::Aborted, Sent::MaybeSent, message);
            self.turns.poison(Poison {
                cause,
                resume_at: None,
            });
            self.turns.lock().sending = false;
        }
    }
}

/// Whether an error of the only part of a call says that the server applied nothing and keeps no number.
fn clean(error: &Error) -> bool {
    match error.sent() {
        Sent::NotSent => true,
        Sent::MaybeSent => false,
        Sent::Answered => matches!(
            error.kind(),
            ErrorKind::Rejected
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Authentication
                | ErrorKind::PermissionDenied
                | ErrorKind::Billing
                | ErrorKind::RateLimited
        ),
    }
}

/// What is known when some parts of a call were taken and one was not.
fn partly_taken(turn: &Turn, at: usize, taken: &[Option<Taken>], error: Error) -> Error {
    let accepted: Vec<u64> = taken
        .iter()
        .enumerate()
        .filter(|(_, part)| part.is_some())
        .map(|(i, _)| turn.first_seq + i as u64)
        .collect();
    let failed = turn.first_seq + at as u64;
    if accepted.is_empty() && clean(&error) {
        return error;
    }
    let numbers: Vec<String> = accepted.iter().map(u64::to_string).collect();
    let gradients = match taken[0] {
        None => {
            "the first one was not sent, so a server that keeps the order adds no gradients; one that does not may have"
        }
        Some(_) => "gradients of the accepted ones are added",
    };
    let message = format!(
        "of the chunks {} to {} of this call, {failed} failed ({error}) and the server accepted [{}]; {gradients}",
        turn.first_seq,
        turn.end() - 1,
        numbers.join(", "),
    );
    let whole = Error::new(error.kind(), Sent::MaybeSent, message);
    let whole = match error.status() {
        Some(status) => whole.with_answer(status, &bytes::Bytes::copy_from_slice(error.body())),
        None => whole,
    };
    whole.with_source(error)
}

/// The policy of a submission to a server of this profile.
pub(crate) fn policy(deduplicates: bool) -> Policy {
    if deduplicates {
        Policy::PATIENT
    } else {
        Policy::PATIENT.giving_up_when_maybe_applied()
    }
}
