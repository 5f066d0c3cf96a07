//! The traces: when the operations of sessions were accepted, started and ended, and the addresses under which traces are downloaded.

use std::collections::VecDeque;
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

/// An address from which the trace of a session can be downloaded.
#[derive(Debug)]
struct Address {
    secret: String,
    session: String,
    expires: Timestamp,
}

/// The traces of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    spans: VecDeque<Span>,
    /// The addresses from which traces can be downloaded, the oldest first.
    addresses: VecDeque<Address>,
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
        if self.addresses.len() == MAX_ADDRESSES {
            self.addresses.pop_front();
        }
        self.issued += 1;
        let half = |half: u8| self.secrets.hash_one((session, self.issued, half));
        let secret = format!("{:016x}{:016x}", half(0), half(1));
        self.addresses.push_back(Address {
            secret: secret.clone(),
            session: session.to_owned(),
            expires: now.after(VALIDITY),
        });
        secret
    }

    /// Returns the operations of the session whose trace can be downloaded with this secret. Returns `None` if the secret is wrong or has
    /// expired.
    pub(crate) fn of(&self, now: Timestamp, secret: &str) -> Option<Vec<Span>> {
        let mut addresses = self.addresses.iter();
        let address = addresses.find(|one| one.secret == secret && one.expires > now)?;
        let own = self.spans.iter();
        let own = own.filter(|span| span.session == address.session);
        Some(own.cloned().collect())
    }

    /// Returns whether there is an operation in the trace of a session.
    pub(crate) fn has(&self, session: &str) -> bool {
        self.spans.iter().any(|span| span.session == session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{at, span};

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
        let oldest = traces.issue(at(0), "a");
        let next = traces.issue(at(0), "a");
        for _ in 2..=MAX_ADDRESSES {
            traces.issue(at(0), "a");
        }
        assert!(traces.of(at(0), &oldest).is_none());
        assert!(traces.of(at(0), &next).is_some());
        assert_eq!(traces.spans.len(), MAX_OPERATIONS);
        assert_eq!(traces.addresses.len(), MAX_ADDRESSES);
    }
}
