//! The completed samples of each client of a sampling session, and the held polls for all samples of a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tinkers_core::Timestamp;
use tinkers_wire::PollTarget;

use super::agenda::{Agenda, Alarm};
use super::operations::Origin;
use crate::protocol::ids::{ExchangeId, OperationId};

/// A client of a sampling session, as the session id and the number of the client. It polls for all its samples of the session at
/// once.
pub(crate) type Target = (String, u64);

/// The maximum number of completed samples in the response to one poll.
const MAX_IN_RESPONSE: usize = 4096;

/// Returns the client that polls for a sample with `retrieve_futures`, given the sampler to which the sample belongs. Returns
/// `None` for all other operations, which this route does not report.
pub(crate) fn target_of(origin: &Origin) -> Option<Target> {
    match origin {
        Origin::Sampler(sampler, number) => {
            Some((sampler.clone(), PollTarget::client_of(number.unwrap_or(0))))
        }
        Origin::Model(..) | Origin::Free(_) => None,
    }
}

/// A completed sample whose receipt its client has not acknowledged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) operation: OperationId,
    /// The size of the result in bytes. `None` if the sample failed.
    pub(crate) size: Option<u64>,
}

/// The completed samples of each client, numbered for the cursors with which clients poll. All clients share one counter, so a
/// client without completed samples needs no memory and no number is used twice.
#[derive(Debug, Default)]
pub(crate) struct CompletionLog {
    last: i64,
    events: BTreeMap<i64, (Completion, Arc<Target>)>,
    cursors: BTreeMap<OperationId, i64>,
    logs: BTreeMap<Arc<Target>, Log>,
    held: BTreeMap<ExchangeId, Held>,
}

#[derive(Debug, Default)]
struct Log {
    cursors: BTreeSet<i64>,
    waiters: Vec<ExchangeId>,
}

#[derive(Debug)]
struct Held {
    target: Arc<Target>,
    after: i64,
    until: Timestamp,
}

impl CompletionLog {
    /// Returns whether a client may poll with this cursor: 0 or the number of a completed sample.
    pub(crate) fn is_cursor(&self, cursor: i64) -> bool {
        (0..=self.last).contains(&cursor)
    }

    fn log(&mut self, target: &Target) -> (Arc<Target>, &mut Log) {
        let key = match self.logs.get_key_value(target) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::new(target.clone()),
        };
        (Arc::clone(&key), self.logs.entry(key).or_default())
    }

    /// Adds a completed sample of a client. If more than `most` completed samples are stored afterwards, for all clients together,
    /// deletes the oldest.
    pub(crate) fn add(&mut self, target: &Target, completion: Completion, most: usize) {
        self.last += 1;
        let cursor = self.last;
        let (key, log) = self.log(target);
        log.cursors.insert(cursor);
        self.events.insert(cursor, (completion, key));
        self.cursors.insert(completion.operation, cursor);
        while self.events.len() > most.max(1)
            && let Some((oldest, _)) = self.events.first_key_value()
        {
            let oldest = *oldest;
            self.remove_at(oldest);
        }
    }

    /// Deletes the record that the sample with this operation number has completed.
    pub(crate) fn remove(&mut self, operation: OperationId) {
        if let Some(cursor) = self.cursors.get(&operation) {
            self.remove_at(*cursor);
        }
    }

    fn remove_at(&mut self, cursor: i64) {
        let Some((completion, target)) = self.events.remove(&cursor) else {
            return;
        };
        self.cursors.remove(&completion.operation);
        if let Some(log) = self.logs.get_mut(&target) {
            log.cursors.remove(&cursor);
        }
        self.remove_if_empty(&target);
    }

    /// Deletes the completed samples of a client up to the number `cursor`, because the client has received them.
    pub(crate) fn acknowledge(&mut self, target: &Target, cursor: i64) {
        let Some(log) = self.logs.get(target) else {
            return;
        };
        for received in log.cursors.range(..=cursor).copied().collect::<Vec<_>>() {
            self.remove_at(received);
        }
    }

    fn remove_if_empty(&mut self, target: &Target) {
        let is_empty = |log: &Log| log.cursors.is_empty() && log.waiters.is_empty();
        if self.logs.get(target).is_some_and(is_empty) {
            self.logs.remove(target);
        }
    }

    /// Returns the completed samples of a client after the cursor `after`, and the cursor for the next poll, which is the number of
    /// the last of them. They are not deleted until the client acknowledges them, since the response may be lost.
    pub(crate) fn after(&self, target: &Target, after: i64) -> (Vec<Completion>, i64) {
        let Some(log) = self.logs.get(target) else {
            return (Vec::new(), after);
        };
        let new = log
            .cursors
            .range(after.saturating_add(1)..)
            .take(MAX_IN_RESPONSE);
        let mut last = after;
        let completions = new.filter_map(|cursor| {
            last = *cursor;
            self.events.get(cursor).map(|(completion, _)| *completion)
        });
        (completions.collect(), last)
    }

    /// Holds a poll of a client open until a sample with a number above the cursor `after` completes, at most until `until`.
    pub(crate) fn hold(
        &mut self,
        agenda: &mut Agenda,
        exchange: ExchangeId,
        target: &Target,
        after: i64,
        until: Timestamp,
    ) {
        let (target, log) = self.log(target);
        log.waiters.push(exchange);
        let held = Held {
            target,
            after,
            until,
        };
        self.held.insert(exchange, held);
        agenda.add(until, Alarm::Poll(exchange));
    }

    /// Removes the poll that is held open in this exchange (request and response), if there is one. Returns the client and the
    /// cursor of the poll.
    pub(crate) fn release(
        &mut self,
        agenda: &mut Agenda,
        exchange: ExchangeId,
    ) -> Option<(Arc<Target>, i64)> {
        let held = self.held.remove(&exchange)?;
        agenda.remove(held.until, Alarm::Poll(exchange));
        if let Some(log) = self.logs.get_mut(&held.target) {
            log.waiters.retain(|waiter| *waiter != exchange);
        }
        self.remove_if_empty(&held.target);
        Some((held.target, held.after))
    }

    /// Returns the numbers of the exchanges (requests) in which polls of a client are held open.
    pub(crate) fn waiters(&self, target: &Target) -> &[ExchangeId] {
        self.logs.get(target).map_or(&[], |log| &log.waiters)
    }

    /// Returns the numbers of the exchanges (requests) in which `retrieve_futures` polls are held open.
    pub(crate) fn exchanges(&self) -> Vec<ExchangeId> {
        self.held.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(operation: u64) -> Completion {
        Completion {
            operation: OperationId(operation),
            size: Some(1),
        }
    }

    fn cursors(all: &CompletionLog) -> Vec<i64> {
        all.events.keys().copied().collect()
    }

    #[test]
    fn acknowledged_and_excess_completed_samples_use_no_memory() {
        let (mut all, mut agenda) = (CompletionLog::default(), Agenda::default());
        let target = ("s".to_owned(), 0);
        let other = ("s".to_owned(), 1);
        for operation in 1..=6 {
            all.add(&target, completion(operation), 4);
        }
        all.add(&other, completion(7), 4);
        assert_eq!(cursors(&all), [4, 5, 6, 7]);
        all.acknowledge(&target, 5);
        all.acknowledge(&other, 6);
        assert_eq!(cursors(&all), [6, 7]);
        all.hold(&mut agenda, ExchangeId(1), &target, 6, Timestamp::ORIGIN);
        all.remove(OperationId(6));
        all.remove(OperationId(7));
        all.remove(OperationId(7));
        assert_eq!((all.logs.len(), all.cursors.len()), (1, 0));
        assert!(all.release(&mut agenda, ExchangeId(1)).is_some());
        assert!(all.logs.is_empty() && all.held.is_empty() && agenda.next().is_none());
        // The cursors of deleted completions are not used again.
        all.add(&target, completion(8), 4);
        assert_eq!(cursors(&all), [8]);
    }

    #[test]
    fn completed_samples_are_stored_until_they_are_acknowledged() {
        let mut all = CompletionLog::default();
        let target = ("s".to_owned(), 0);
        for operation in 1..=3 {
            all.add(&target, completion(operation), 9);
        }
        for _ in 0..2 {
            assert_eq!(
                all.after(&target, 1),
                (vec![completion(2), completion(3)], 3)
            );
        }
        assert_eq!(all.after(&target, 3), (vec![], 3));
        assert_eq!(all.after(&("t".to_owned(), 0), 2), (vec![], 2));
        assert!(all.is_cursor(0) && all.is_cursor(3));
        assert!(!all.is_cursor(4) && !all.is_cursor(-1));
    }
}
