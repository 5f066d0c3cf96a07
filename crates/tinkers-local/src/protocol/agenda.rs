//! What is to happen when, and nothing else.

use std::collections::BTreeSet;

use tinkers_core::Moment;
use tinkers_wire::TinkerPath;

use super::{ExchangeId, OperationId};

/// Something that is due at some moment. It may turn out to be moot when it comes up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A poll has been held long enough.
    Poll(ExchangeId),
    /// A pause may be over.
    Resume,
    /// A session may have gone too long without a heartbeat.
    Session(String),
    /// A result may have been kept long enough.
    Result(OperationId),
    /// A sample may have been left by its client.
    Left(OperationId),
    /// Requests of a model may have waited long enough for a missing number.
    Gap(String),
    /// A checkpoint may have reached the end of its time.
    Checkpoint(TinkerPath),
}

/// Alarms in their order.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Moment, Alarm)>);

impl Agenda {
    pub(super) fn add(&mut self, at: Moment, alarm: Alarm) {
        self.0.insert((at, alarm));
    }

    pub(super) fn remove(&mut self, at: Moment, alarm: Alarm) {
        self.0.remove(&(at, alarm));
    }

    pub(super) fn next(&self) -> Option<Moment> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The next alarm that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Moment) -> Option<Alarm> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, alarm)| alarm)
    }
}
