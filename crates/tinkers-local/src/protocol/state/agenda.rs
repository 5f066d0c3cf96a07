//! The deadlines of the protocol, in order.

use std::collections::BTreeSet;

use tinkers_core::Timestamp;
use tinkers_wire::TinkerPath;

use crate::protocol::ids::{ExchangeId, OperationId};

/// A deadline that the server has to handle at a certain time, for example the expiry of a result. The server then checks whether
/// the deadline still applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// The end of the time for which the server holds this poll open.
    Poll(ExchangeId),
    /// The end of a simulated lack of capacity, after which postponed operations start.
    Resume,
    /// The time at which this session expires unless a heartbeat has arrived.
    Session(String),
    /// The time at which the result of this operation expires.
    Result(OperationId),
    /// The time at which this sample is cancelled unless its client, which disconnected from a poll, has polled for it again.
    Abandoned(OperationId),
    /// The time at which requests of this model fail because they have waited too long for a missing `seq_id`.
    Gap(String),
    /// The time at which this checkpoint expires.
    Checkpoint(TinkerPath),
    /// The time at which changes of records are written that did not have to be written at once.
    Records,
}

/// A timer queue: the deadlines of the server, ordered by time.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BTreeSet<(Timestamp, Alarm)>);

impl Agenda {
    pub(crate) fn add(&mut self, at: Timestamp, alarm: Alarm) {
        self.0.insert((at, alarm));
    }

    pub(crate) fn remove(&mut self, at: Timestamp, alarm: Alarm) {
        self.0.remove(&(at, alarm));
    }

    /// Returns the time of the earliest deadline, or `None` if there are none.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes and returns the earliest deadline, if it is not later than `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Alarm> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, alarm)| alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timer_queue_returns_alarms_in_order_and_not_before_they_are_due() {
        let at = |seconds| Timestamp::ORIGIN.after(Duration::from_secs(seconds));
        let mut agenda = Agenda::default();
        let poll = |number| Alarm::Poll(ExchangeId(number));
        agenda.add(at(3), poll(1));
        agenda.add(at(1), poll(3));
        agenda.add(at(2), poll(2));
        agenda.add(at(1), poll(3));
        agenda.remove(at(2), poll(2));
        agenda.remove(at(2), poll(1));
        assert_eq!(agenda.next(), Some(at(1)));
        assert_eq!(agenda.pop_due(at(0)), None);
        assert_eq!(agenda.pop_due(at(2)), Some(poll(3)));
        assert_eq!(agenda.pop_due(at(2)), None);
        assert_eq!(agenda.pop_due(at(3)), Some(poll(1)));
        assert_eq!(agenda.next(), None);
    }
}
