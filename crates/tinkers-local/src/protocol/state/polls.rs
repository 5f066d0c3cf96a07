//! Held polls for the results of single operations.

use std::collections::BTreeMap;

use tinkers_core::Timestamp;

use super::agenda::{Agenda, Alarm};
use crate::protocol::ids::{ExchangeId, OperationId};
use crate::protocol::payload::Form;

/// A poll for the result of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) operation: OperationId,
    pub(crate) form: Form,
    /// Whether the server may respond with a notice of the size if the result is large, instead of the result.
    pub(crate) metadata_only: bool,
}

/// The polls for single results that the server holds open until the operation ends or a timeout passes.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    held: BTreeMap<ExchangeId, (Poll, Timestamp)>,
    /// For each operation, the numbers of the exchanges (requests) that poll for its result, in the order of their arrival.
    waiters: BTreeMap<OperationId, Vec<ExchangeId>>,
}

impl Polls {
    /// Holds a poll open until its operation ends, at most until `until`.
    pub(crate) fn hold(
        &mut self,
        agenda: &mut Agenda,
        exchange: ExchangeId,
        poll: Poll,
        until: Timestamp,
    ) {
        self.waiters
            .entry(poll.operation)
            .or_default()
            .push(exchange);
        self.held.insert(exchange, (poll, until));
        agenda.add(until, Alarm::Poll(exchange));
    }

    /// Removes and returns the poll that is held open in this exchange (request and response), if there is one. Removes its timeout
    /// too.
    pub(crate) fn release(&mut self, agenda: &mut Agenda, exchange: ExchangeId) -> Option<Poll> {
        let (poll, until) = self.held.remove(&exchange)?;
        agenda.remove(until, Alarm::Poll(exchange));
        if let Some(waiters) = self.waiters.get_mut(&poll.operation) {
            waiters.retain(|waiter| *waiter != exchange);
            if waiters.is_empty() {
                self.waiters.remove(&poll.operation);
            }
        }
        Some(poll)
    }

    /// Removes and returns all polls that are being held open for the result of an operation.
    pub(crate) fn release_all(
        &mut self,
        agenda: &mut Agenda,
        operation: OperationId,
    ) -> Vec<(ExchangeId, Poll)> {
        let waiters = self.waiters.remove(&operation).unwrap_or_default();
        let released = waiters
            .into_iter()
            .filter_map(|exchange| Some((exchange, self.release(agenda, exchange)?)));
        released.collect()
    }

    pub(crate) fn is_waited_for(&self, operation: OperationId) -> bool {
        self.waiters.contains_key(&operation)
    }

    pub(crate) fn exchanges(&self) -> Vec<ExchangeId> {
        self.held.keys().copied().collect()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_waiting_poll_also_removes_its_timeout() {
        let (mut polls, mut agenda) = (Polls::default(), Agenda::default());
        let poll = |operation| Poll {
            operation: OperationId(operation),
            form: Form::Json,
            metadata_only: false,
        };
        for (exchange, operation) in [(3, 1), (2, 1), (1, 2)] {
            let until = Timestamp::ORIGIN;
            polls.hold(&mut agenda, ExchangeId(exchange), poll(operation), until);
        }
        assert_eq!(polls.exchanges().len(), 3);
        assert_eq!(polls.release(&mut agenda, ExchangeId(1)), Some(poll(2)));
        assert_eq!(polls.release(&mut agenda, ExchangeId(1)), None);
        assert!(!polls.is_waited_for(OperationId(2)));
        let released = polls.release_all(&mut agenda, OperationId(1));
        assert_eq!(
            released,
            [(ExchangeId(3), poll(1)), (ExchangeId(2), poll(1))]
        );
        assert!(!polls.is_waited_for(OperationId(1)));
        assert_eq!((polls.exchanges(), agenda.next()), (vec![], None));
    }
}
