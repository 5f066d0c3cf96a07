//! What of a sampling session has ended, in that order, for polls that ask for all of it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::Moment;
use tinkers_wire::{Completion, CompletionState, Completions, PollTarget, RetrieveFutures};

use super::agenda::Alarm;
use super::operation::{Origin, State};
use super::{ExchangeId, OperationId, Protocol, Stamp};
use crate::http::Answer;
use crate::read::Refusal;

/// A sampling session and one of its clients.
pub(super) type Target = (String, u64);

/// The most that one answer tells; the next one goes on from there.
const MOST_AT_ONCE: usize = 4096;

/// What has ended and was not yet seen, by target. Cursors count over all targets, so that a log that is empty needs no memory
/// and a cursor is never given twice.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    last: i64,
    events: BTreeMap<i64, Event>,
    cursors: BTreeMap<OperationId, i64>,
    logs: BTreeMap<Arc<Target>, Log>,
    held: BTreeMap<ExchangeId, Held>,
}

#[derive(Debug)]
struct Event {
    operation: OperationId,
    /// The size of the result in bytes; none of a failure.
    size: Option<u64>,
    log: Arc<Target>,
}

#[derive(Debug, Default)]
struct Log {
    events: BTreeSet<i64>,
    waiters: Vec<ExchangeId>,
}

/// A poll that is being held.
#[derive(Debug)]
struct Held {
    log: Arc<Target>,
    seen: i64,
    until: Moment,
}

impl Announcements {
    fn log(&mut self, target: &Target) -> (Arc<Target>, &mut Log) {
        let key = match self.logs.get_key_value(target) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(target.clone()),
        };
        (Arc::clone(&key), self.logs.entry(key).or_default())
    }

    /// An operation of `target` has ended. Beyond `most`, the oldest of all are forgotten.
    fn add(&mut self, target: &Target, operation: OperationId, size: Option<u64>, most: usize) {
        self.last += 1;
        let cursor = self.last;
        let (log, entry) = self.log(target);
        entry.events.insert(cursor);
        let event = Event {
            operation,
            size,
            log,
        };
        self.events.insert(cursor, event);
        self.cursors.insert(operation, cursor);
        while self.events.len() > most.max(1)
            && let Some((oldest, _)) = self.events.first_key_value()
        {
            let oldest = *oldest;
            self.remove_at(oldest);
        }
    }

    /// Nobody needs to be told of it any more.
    pub(super) fn remove(&mut self, operation: OperationId) {
        if let Some(cursor) = self.cursors.get(&operation) {
            self.remove_at(*cursor);
        }
    }

    fn remove_at(&mut self, cursor: i64) {
        let Some(event) = self.events.remove(&cursor) else {
            return;
        };
        self.cursors.remove(&event.operation);
        if let Some(log) = self.logs.get_mut(&event.log) {
            log.events.remove(&cursor);
        }
        self.tidy(&event.log);
    }

    /// What came up to `cursor` has been seen.
    fn seen(&mut self, target: &Target, cursor: i64) {
        let Some(log) = self.logs.get(target) else {
            return;
        };
        for seen in log.events.range(..=cursor).copied().collect::<Vec<_>>() {
            self.remove_at(seen);
        }
    }

    /// A log that is of no use takes up nothing.
    fn tidy(&mut self, target: &Target) {
        let is_idle = |log: &Log| log.events.is_empty() && log.waiters.is_empty();
        if self.logs.get(target).is_some_and(is_idle) {
            self.logs.remove(target);
        }
    }

    fn hold(&mut self, target: &Target, exchange: ExchangeId, seen: i64, until: Moment) {
        let (log, entry) = self.log(target);
        entry.waiters.push(exchange);
        self.held.insert(exchange, Held { log, seen, until });
    }

    fn release(&mut self, exchange: ExchangeId) -> Option<Held> {
        let held = self.held.remove(&exchange)?;
        if let Some(log) = self.logs.get_mut(&held.log) {
            log.waiters.retain(|waiter| *waiter != exchange);
        }
        self.tidy(&held.log);
        Some(held)
    }

    /// Whether a poll for what `origin` belongs to is being held.
    pub(super) fn is_watched(&self, origin: &Origin) -> bool {
        let log = target_of(origin).and_then(|target| self.logs.get(&target));
        log.is_some_and(|log| !log.waiters.is_empty())
    }

    /// The polls that are being held.
    pub(super) fn held(&self) -> Vec<ExchangeId> {
        self.held.keys().copied().collect()
    }
}

impl Protocol {
    /// `POST /retrieve_futures`. `None` when the poll is held.
    pub(super) fn retrieve_futures(
        &mut self,
        at: Stamp,
        exchange: ExchangeId,
        body: RetrieveFutures,
    ) -> Result<Option<Answer>, Refusal> {
        let PollTarget {
            sampling_session_id: id,
            cloned_sampler_id: client,
            ..
        } = body.target;
        // Also of one that has ended: its samples are told of all the same.
        self.known_sampler(&id)?;
        if let Some(sampler) = self.samplers.get_mut(&id) {
            sampler.polled = Some(at.now);
        }
        let target = (id, client);
        let hold = self.hold_for(body.timeout)?;
        let seen = body.prev_cursor;
        if !(0..=self.announcements.last).contains(&seen) {
            let reason = format!("expected 0 or a cursor of this server, got {seen}");
            return Err(Refusal::field("prev_cursor", reason));
        }
        let retrieved = self.retrieved(&target, &body.retrieved_request_ids)?;
        self.announcements.seen(&target, seen);
        for operation in retrieved {
            self.acknowledge(operation);
        }
        let answer = self.announced(&target, seen);
        if !answer.completions.is_empty() || hold.is_zero() || self.draining {
            return Ok(Some(Answer::ok(&answer)));
        }
        let until = at.now.after(hold);
        self.announcements.hold(&target, exchange, seen, until);
        self.agenda.add(until, Alarm::Poll(exchange));
        Ok(None)
    }

    fn hold_for(&self, timeout: Option<f64>) -> Result<Duration, Refusal> {
        let longest = self.config.long_poll;
        let Some(seconds) = timeout else {
            return Ok(longest);
        };
        if !(seconds.is_finite() && seconds >= 0.0) {
            let reason = format!("expected seconds from 0, got {seconds}");
            return Err(Refusal::field("timeout", reason));
        }
        // More than a duration holds is more than the longest poll.
        Ok(Duration::try_from_secs_f64(seconds).map_or(longest, |hold| hold.min(longest)))
    }

    /// The operations behind `names`, without those that are gone already: an acknowledgement may come twice.
    fn retrieved(&self, target: &Target, names: &[String]) -> Result<Vec<OperationId>, Refusal> {
        let mut found = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            let field = format!("retrieved_request_ids[{i}]");
            let Some(id) = self.ids.parse_request_id(name) else {
                let reason = format!("no request {name} was made to this server");
                return Err(Refusal::field(&field, reason));
            };
            let Some(operation) = self.operations.get(&id) else {
                continue;
            };
            if target_of(&operation.origin).as_ref() != Some(target) {
                let reason = format!("request {name} is not one of the target's");
                return Err(Refusal::field(&field, reason));
            }
            found.push(id);
        }
        Ok(found)
    }

    /// Nobody wants the result of a sample any more: because it was fetched, or because it was given up.
    fn acknowledge(&mut self, id: OperationId) {
        self.announcements.remove(id);
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if let State::Ended(_) = operation.state {
            return self.forget(id);
        }
        operation.abandoned = true;
        self.cancel(id, "its client gave it up");
    }

    /// Tells the polls of a sample's client that it has ended.
    pub(super) fn announce(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let (Some(target), State::Ended(result)) = (target_of(&operation.origin), &operation.state)
        else {
            return;
        };
        let size = result
            .as_ref()
            .ok()
            .map(|payload| payload.kept_bytes() as u64);
        if operation.abandoned {
            return self.forget(id);
        }
        let most = self.config.max_queued;
        self.announcements.add(&target, id, size, most);
        let log = self.announcements.logs.get(&target);
        for exchange in log.map(|log| log.waiters.clone()).unwrap_or_default() {
            self.answer_held(exchange);
        }
    }

    /// Answers a poll of this kind, if it is being held, with what there is.
    pub(super) fn answer_held(&mut self, exchange: ExchangeId) {
        if let Some(held) = self.forget_held(exchange) {
            let answer = self.announced(&held.log, held.seen);
            self.respond(exchange, Answer::ok(&answer));
        }
    }

    /// Takes a held poll of this kind out.
    fn forget_held(&mut self, exchange: ExchangeId) -> Option<Held> {
        let held = self.announcements.release(exchange)?;
        self.agenda.remove(held.until, Alarm::Poll(exchange));
        Some(held)
    }

    /// Takes a poll out whose other side has gone.
    pub(super) fn disconnect_held(&mut self, at: Stamp, exchange: ExchangeId) {
        let Some(held) = self.forget_held(exchange) else {
            return;
        };
        let of_target = (self.operations.iter())
            .filter(|(_, operation)| target_of(&operation.origin).as_ref() == Some(&*held.log));
        let left: Vec<OperationId> = of_target.map(|(id, _)| *id).collect();
        self.left(at, &left);
    }

    /// What has ended after `seen`, in that order. It stays until it is acknowledged, so that a lost answer loses nothing.
    fn announced(&self, target: &Target, seen: i64) -> Completions {
        let all = &self.announcements;
        let Some(log) = all.logs.get(target) else {
            return Completions {
                completions: Vec::new(),
                cursor: seen,
            };
        };
        let after = seen.saturating_add(1);
        let told = || log.events.range(after..).take(MOST_AT_ONCE);
        let completion = |event: &Event| Completion {
            state: match event.size {
                Some(_) => CompletionState::Finished,
                None => CompletionState::Failed,
            },
            request_id: self.ids.request_id(event.operation),
            response_payload_uncompressed_size: event.size,
        };
        Completions {
            completions: told()
                .filter_map(|cursor| all.events.get(cursor))
                .map(completion)
                .collect(),
            cursor: told().last().copied().unwrap_or(seen),
        }
    }
}

/// Whose polls are told of an operation of this origin.
fn target_of(origin: &Origin) -> Option<Target> {
    match origin {
        Origin::Sampler(sampler, number) => {
            Some((sampler.clone(), PollTarget::client_of(number.unwrap_or(0))))
        }
        Origin::Model(..) | Origin::Free => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_or_is_too_much_leaves_nothing_behind() {
        let mut all = Announcements::default();
        let target = ("s".to_owned(), 0);
        let other = ("s".to_owned(), 1);
        for operation in 1..=6 {
            all.add(&target, OperationId(operation), Some(1), 4);
        }
        all.add(&other, OperationId(7), None, 4);
        // The oldest went: 4 of 7 are left.
        assert_eq!(all.events.keys().copied().collect::<Vec<_>>(), [4, 5, 6, 7]);
        all.seen(&target, 5);
        all.seen(&other, 6);
        assert_eq!(all.events.keys().copied().collect::<Vec<_>>(), [6, 7]);
        all.hold(&target, ExchangeId(1), 6, Moment::ORIGIN);
        all.remove(OperationId(6));
        all.remove(OperationId(7));
        all.remove(OperationId(7));
        assert_eq!((all.logs.len(), all.cursors.len()), (1, 0));
        assert!(all.release(ExchangeId(1)).is_some());
        assert!(all.logs.is_empty() && all.held.is_empty());
        // A cursor is never given twice.
        all.add(&target, OperationId(8), None, 4);
        assert_eq!(all.events.keys().copied().collect::<Vec<_>>(), [8]);
    }
}
