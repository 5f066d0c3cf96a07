//! One turn on its way to the server: its requests, what became of each, and who is told when.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::foreign::contain;
use tinkers_core::{Error, ErrorKind, Flight, Result, Sent, Setback};
use tinkers_wire::{Promise, TinkerPath};

use crate::clean::is_clean;
use crate::lost;
use crate::poison::{Poison, Recovery};
use crate::submit::Submission;
use crate::taken::{is_taken, name_taken};
use crate::together::Together;
use crate::turns::{Reply, Turn, Turns};

/// How a part was taken by the server.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Its result will come.
    Promised {
        promise: Promise,
        /// One unit of the in-flight window, held until the result is there.
        flight: Flight,
        /// From the call of the method to the promise.
        elapsed: Duration,
        /// The number that it was sent under.
        seq_id: u64,
        /// What is known of the attempts before the one that was accepted.
        earlier: Sent,
        /// Of a save: nothing but these attempts can have made a checkpoint of its name.
        is_fresh: bool,
    },
    /// A save whose reply was lost, found to have been made.
    Found(TinkerPath),
}

impl Taken {
    /// The same after an attempt that may have been applied.
    pub(crate) fn after_lost_reply(mut self) -> Self {
        if let Self::Promised { earlier, .. } = &mut self {
            *earlier = Sent::MaybeSent;
        }
        self
    }
}

/// What became of a part so far.
#[derive(Debug)]
enum Fate {
    NeverSent,
    UnderWay,
    Taken(Taken),
    /// Taken, and nobody waits for its result: the call had failed.
    Orphaned,
    /// The server did nothing with it and its number is free.
    Refused,
    /// It may have been applied.
    Unknown,
}

/// One turn being sent. The waiter is told at the first failure, when the client is poisoned too; what is under way then is
/// seen to its end.
pub(crate) struct Delivery {
    turns: Arc<Turns>,
    turn: Arc<Turn>,
    /// Taken when the waiter is told.
    reply: Option<Reply>,
    fates: Vec<Fate>,
    /// Why a call failed that changes nothing, while it is not known yet whether all of its numbers are free.
    undecided: Option<Error>,
}

impl Delivery {
    pub(crate) fn new(turns: &Arc<Turns>, turn: Turn, reply: Reply) -> Self {
        let fates = turn.parts.iter().map(|_| Fate::NeverSent).collect();
        Self {
            turns: Arc::clone(turns),
            turn: Arc::new(turn),
            reply: Some(reply),
            fates,
            undecided: None,
        }
    }

    /// Sends the turn, to the end of its last request.
    pub(crate) async fn run(&mut self) {
        let count = self.turn.parts.len();
        if self.turns.session().config().parallel_fwdbwd_chunks {
            // The server cannot begin before the first number is there, so it comes last: then all can be worked on together, and
            // if one of the others is refused nothing has been applied by a server that keeps the order.
            self.send_together(1, count).await;
            if !self.has_failed() {
                self.send_together(0, 1).await;
            }
        } else {
            for index in 0..count {
                if !self.has_failed() {
                    self.send_together(index, index + 1).await;
                }
            }
        }
        if !self.has_failed() {
            self.tell_success();
        } else if let Some(cause) = self.undecided.take() {
            match self.recovery() {
                Recovery::From(_) => self.turns.release(count as u64),
                recovery => self.turns.poison(Poison { cause, recovery }),
            }
        } else {
            self.turns.decide(self.recovery());
        }
    }

    /// The sending itself broke off; no request of it is under way any more.
    pub(crate) fn broke_off(&mut self, error: Error) {
        for fate in &mut self.fates {
            if matches!(fate, Fate::UnderWay) {
                *fate = Fate::Unknown;
            }
        }
        if self.has_failed() {
            self.undelivered();
            contain(
                || tracing::error!(setback = Setback::Undelivered.name(), %error, "what was left of a failed call broke off"),
            );
            match self.undecided.take() {
                Some(cause) => self.turns.poison(Poison {
                    cause,
                    recovery: Recovery::Never,
                }),
                None => self.turns.decide(Recovery::Never),
            }
            return;
        }
        self.turns.poison(Poison {
            cause: error.clone(),
            recovery: Recovery::Never,
        });
        self.tell(Err(error));
    }

    async fn send_together(&mut self, from: usize, to: usize) {
        for fate in &mut self.fates[from..to] {
            *fate = Fate::UnderWay;
        }
        let parts = (from..to).map(|i| send(Arc::clone(&self.turns), Arc::clone(&self.turn), i));
        let mut parts = Together::new(parts);
        while let Some((place, outcome)) = parts.next().await {
            match outcome {
                Ok(taken) => self.taken(from + place, taken),
                Err(error) => self.failed(from + place, error),
            }
        }
    }

    fn taken(&mut self, index: usize, taken: Taken) {
        self.fates[index] = Fate::Taken(taken);
        if self.has_failed() {
            self.give_up_results();
        }
    }

    fn failed(&mut self, index: usize, error: Error) {
        let clean = is_clean(&error, &*self.turn.parts[index]);
        self.fates[index] = if clean { Fate::Refused } else { Fate::Unknown };
        let seq_id = self.turn.seq(index);
        if self.has_failed() {
            self.undelivered();
            contain(
                || tracing::warn!(setback = Setback::Undelivered.name(), operation = self.turn.operation, seq_id, %error, "another request of a call that had failed"),
            );
            return;
        }
        let recovery = self.recovery();
        if error.kind() == ErrorKind::Closed && self.turns.session().check_open().is_err() {
            // What is queued behind it, and every later call, is told of the end of the session, and not of a failure.
            let error = match recovery {
                Recovery::From(_) => error,
                _ => error.with_sent(Sent::MaybeSent),
            };
            self.tell(Err(error));
            self.give_up_results();
            return;
        }
        let error = match recovery {
            Recovery::From(_) => error,
            _ if self.turn.parts.len() == 1 => error,
            _ => self.partly(seq_id, error),
        };
        let is_harmless = recovery != Recovery::Never && !self.turn.parts[0].changes_model();
        if is_harmless {
            // What is queued behind it builds on nothing of it, and goes on once its numbers are known to be free.
            self.undecided = Some(error.clone());
        } else {
            // First the poison, then the news of it, so that who hears of it finds it in force.
            self.turns.poison(Poison {
                cause: error.clone(),
                recovery,
            });
        }
        self.tell(Err(error));
        self.give_up_results();
    }

    /// Whether there is a way back, as far as it is known now.
    fn recovery(&self) -> Recovery {
        let any = |is: fn(&Fate) -> bool| self.fates.iter().any(is);
        if any(|fate| matches!(fate, Fate::Taken(_) | Fate::Orphaned | Fate::Unknown)) {
            Recovery::Never
        } else if any(|fate| matches!(fate, Fate::UnderWay)) {
            Recovery::Undecided
        } else {
            Recovery::From(self.turn.first_seq)
        }
    }

    fn has_failed(&self) -> bool {
        self.reply.is_none()
    }

    fn tell_success(&mut self) {
        let taken = |fate: &mut Fate| match std::mem::replace(fate, Fate::Orphaned) {
            Fate::Taken(taken) => Some(taken),
            _ => None,
        };
        let taken = self.fates.iter_mut().filter_map(taken).collect();
        self.tell(Ok(taken));
    }

    fn tell(&mut self, outcome: Result<Vec<Taken>>) {
        if let Some(reply) = self.reply.take() {
            // Nobody may be waiting any more; the numbers are used all the same.
            if let Err(outcome) = reply.send(outcome) {
                self.undelivered();
                let (operation, seq_id) = (self.turn.operation, self.turn.first_seq);
                contain(
                    || tracing::debug!(setback = Setback::Undelivered.name(), operation, seq_id, error = ?outcome.err(), "nobody waits for what became of this submission"),
                );
            }
        }
    }

    /// An outcome that nobody waits for.
    fn undelivered(&self) {
        let caller = self.turns.session().caller();
        caller.setbacks.count(Setback::Undelivered);
    }

    /// The results of accepted requests of a failed call are waited for by nobody.
    fn give_up_results(&mut self) {
        let setbacks = Arc::clone(&self.turns.session().caller().setbacks);
        for (index, fate) in self.fates.iter_mut().enumerate() {
            if !matches!(fate, Fate::Taken(_)) {
                continue;
            }
            if let Fate::Taken(Taken::Promised { promise, .. }) =
                std::mem::replace(fate, Fate::Orphaned)
            {
                let seq_id = self.turn.seq(index);
                setbacks.count(Setback::Undelivered);
                contain(
                    || tracing::warn!(setback = Setback::Undelivered.name(), operation = self.turn.operation, seq_id, request_id = %promise.request_id, "accepted, though its call failed: nobody waits for its result"),
                );
            }
        }
    }

    /// What is known when one request of several failed and others were accepted, are under way, or may have been applied.
    fn partly(&self, failed: u64, error: Error) -> Error {
        let numbers = |is: fn(&Fate) -> bool| {
            let those = self.fates.iter().enumerate().filter(|(_, fate)| is(fate));
            let those: Vec<String> = those.map(|(i, _)| self.turn.seq(i).to_string()).collect();
            those.join(", ")
        };
        let accepted = numbers(|fate| matches!(fate, Fate::Taken(_)));
        let under_way = numbers(|fate| matches!(fate, Fate::UnderWay));
        let under_way = if under_way.is_empty() {
            String::new()
        } else {
            format!(", [{under_way}] are still under way")
        };
        let first = self.turn.first_seq;
        let last = self.turn.seq(self.turn.parts.len() - 1);
        let gradients = if self.turn.parts[0].adds_gradients() {
            self.gradients()
        } else {
            "it was a forward pass, which adds no gradients"
        };
        let message = format!(
            "of the chunks {first} to {last} of this call, {failed} failed ({error}); the server accepted [{accepted}]{under_way}; {gradients}"
        );
        let whole = Error::new(error.kind(), Sent::MaybeSent, message);
        let whole = match error.status() {
            Some(status) => whole.with_answer(status, &bytes::Bytes::copy_from_slice(error.body())),
            None => whole,
        };
        whole.with_source(error)
    }

    /// What happened to the gradients of the call, which hangs on its first request: a server that keeps the order applies
    /// nothing before it.
    fn gradients(&self) -> &'static str {
        match self.fates[0] {
            Fate::NeverSent | Fate::Refused => {
                "the first one is not at the server, so a server that keeps the order adds no gradients; one that does not may have added those of the accepted ones"
            }
            Fate::UnderWay | Fate::Unknown => {
                "the first one may be at the server, so gradients of this call may have been added"
            }
            Fate::Taken(_) | Fate::Orphaned => {
                "the first one was accepted, so gradients of the accepted ones are added"
            }
        }
    }
}

/// Sends one part.
async fn send(turns: Arc<Turns>, turn: Arc<Turn>, index: usize) -> Result<Taken> {
    let part = &*turn.parts[index];
    let name = part.saved_name();
    let submission = Submission {
        session: &**turns.session(),
        model_id: turns.model_id(),
        client: turns.client(),
        operation: turn.operation,
        progress: &turn.progress,
        taken_at: turn.taken_at,
        part,
        seq_id: turn.seq(index),
    };
    let known = name.as_ref().is_some_and(|name| turns.may_have_saved(name));
    let sent = lost::send(&submission, name.as_ref().filter(|_| !known)).await;
    let Some(name) = name else {
        return sent;
    };
    let sent = sent.map(|mut taken| {
        if let Taken::Promised { is_fresh, .. } = &mut taken {
            *is_fresh = !known;
        }
        taken
    });
    let sent = sent.map_err(|error| match is_taken(&error) {
        true => name_taken(&name, error),
        false => error,
    });
    if !matches!(&sent, Err(error) if is_clean(error, part)) {
        turns.tried_to_save(name);
    }
    sent
}
