//! The deadlines of the protocol, in order.

use std::collections::BTreeSet;

use tinkers_core::Timestamp;
use tinkers_wire::TinkerPath;

use crate::protocol::ids::{ExchangeId, OperationId};

/// A check that the server makes at a certain time, for example whether a result has expired. By then, there may be nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// A held poll has reached its maximum time.
    Poll(ExchangeId),
    /// The capacity pause may be over.
    Resume,
    /// A session may have expired because no heartbeat arrived.
    Session(String),
    /// A result may have expired.
    Result(OperationId),
    /// A sample may have been abandoned by its client.
    Abandoned(OperationId),
    /// Requests of a model may have waited too long for a missing seq_id.
    Gap(String),
    /// A checkpoint may have reached its expiry.
    Checkpoint(TinkerPath),
}

/// A timer queue: alarms ordered by time.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BTreeSet<(Timestamp, Alarm)>);

impl Agenda {
    pub(crate) fn add(&mut self, at: Timestamp, alarm: Alarm) {
        self.0.insert((at, alarm));
    }

    pub(crate) fn remove(&mut self, at: Timestamp, alarm: Alarm) {
        self.0.remove(&(at, alarm));
    }

    /// Returns the time of the earliest alarm.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes and returns the earliest alarm that is due at `now`.
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
