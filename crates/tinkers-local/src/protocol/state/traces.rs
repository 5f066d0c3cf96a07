//! The traces: when the operations of sessions were accepted, started and ended, and the addresses under which traces are downloaded.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tinkers_core::Timestamp;

use crate::trace::Span;

/// The number of operations in the traces of all sessions together. The oldest operations are dropped.
const MAX_OPERATIONS: usize = 100_000;

/// The number of addresses that are valid at the same time.
const MAX_ADDRESSES: usize = 1000;

/// How long a trace can be downloaded from its address.
const VALIDITY: Duration = Duration::from_secs(3600);

/// The traces of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    spans: VecDeque<Span>,
    /// The sessions whose traces can be downloaded, by the secret parts of the addresses, with the times at which the addresses expire.
    addresses: BTreeMap<String, (String, Timestamp)>,
    /// A hash that is keyed with random numbers of the operating system, so that secrets cannot be guessed.
    secrets: RandomState,
    issued: u64,
}

impl Traces {
    pub(crate) fn add(&mut self, span: Span) {
        if self.spans.len() == MAX_OPERATIONS {
            self.spans.pop_front();
        }
        self.spans.push_back(span);
    }

    /// Returns the secret part of an address from which the trace of a session can be downloaded for an hour.
    pub(crate) fn issue(&mut self, now: Timestamp, session: &str) -> String {
        self.addresses.retain(|_, (_, expires)| *expires > now);
        if self.addresses.len() >= MAX_ADDRESSES {
            self.addresses.pop_first();
        }
        self.issued += 1;
        let half = |half: u8| self.secrets.hash_one((session, self.issued, half));
        let secret = format!("{:016x}{:016x}", half(0), half(1));
        let known = (session.to_owned(), now.after(VALIDITY));
        self.addresses.insert(secret.clone(), known);
        secret
    }

    /// Returns the operations of the session whose trace can be downloaded with this secret. Returns `None` if the secret is wrong or has
    /// expired.
    pub(crate) fn of(&self, now: Timestamp, secret: &str) -> Option<Vec<Span>> {
        let (session, expires) = self.addresses.get(secret)?;
        let own = self.spans.iter().filter(|span| span.session == *session);
        (*expires > now).then(|| own.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    fn span(session: &str) -> Span {
        Span {
            session: session.to_owned(),
            of: format!("{session}:train:0"),
            name: "optim_step",
            accepted: at(1),
            started: Some(at(2)),
            ended: at(3),
            has_failed: false,
        }
    }

    #[test]
    fn address_of_a_trace_is_valid_for_an_hour_and_for_one_session() {
        let mut traces = Traces::default();
        traces.add(span("a"));
        traces.add(span("b"));
        let secret = traces.issue(at(10), "a");
        let found = traces.of(at(3609), &secret).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].session, "a");
        assert!(traces.of(at(3610), &secret).is_none());
        assert!(traces.of(at(10), "").is_none());
        assert_ne!(traces.issue(at(10), "a"), secret);
    }

    #[test]
    fn oldest_operations_and_addresses_are_dropped() {
        let mut traces = Traces::default();
        for _ in 0..=MAX_OPERATIONS {
            traces.add(span("a"));
        }
        for _ in 0..=MAX_ADDRESSES {
            traces.issue(at(0), "a");
        }
        assert_eq!(traces.spans.len(), MAX_OPERATIONS);
        assert_eq!(traces.addresses.len(), MAX_ADDRESSES);
    }
}
