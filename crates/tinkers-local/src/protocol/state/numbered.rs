//! Requests by the sequence numbers that clients give them, to tell a repeated request from a different one.

use std::collections::BTreeMap;

use crate::read::{Digest, Refusal};

/// The accepted requests of a session or sampler, by their sequence numbers. Each has a digest of its content, to recognize
/// repeated requests.
#[derive(Debug, Clone)]
pub(crate) struct NumberedRequests<T>(BTreeMap<u64, (Digest, T)>);

impl<T> Default for NumberedRequests<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy> NumberedRequests<T> {
    /// Returns the value that was stored for the request with the sequence number `number`, if that request had the same content.
    /// Returns `None` if no request has used the number.
    ///
    /// # Errors
    ///
    /// If a different request used the sequence number. The error names the sequence number by its field `field`.
    pub(crate) fn known(
        &self,
        field: &str,
        number: u64,
        digest: Digest,
    ) -> Result<Option<T>, Refusal> {
        match self.0.get(&number) {
            None => Ok(None),
            Some((same, found)) if *same == digest => Ok(Some(*found)),
            Some(_) => Err(Self::conflict(field, number)),
        }
    }

    /// Checks that no request has used the sequence number `number`. `field` is the name of its field in the request body, for the
    /// error message.
    ///
    /// # Errors
    ///
    /// If a request used the sequence number.
    pub(crate) fn check_free(&self, field: &str, number: u64) -> Result<(), Refusal> {
        match self.0.contains_key(&number) {
            true => Err(Self::conflict(field, number)),
            false => Ok(()),
        }
    }

    fn conflict(field: &str, number: u64) -> Refusal {
        Refusal::conflict(format!(
            "{field} {number} was used by another request of this session"
        ))
    }

    /// Returns an unused sequence number, for a request that does not contain one.
    pub(crate) fn next_free(&self) -> u64 {
        let last = self.0.last_key_value().map(|(last, _)| *last);
        last.map_or(0, |last| last.saturating_add(1))
    }

    pub(crate) fn insert(&mut self, number: u64, digest: Digest, value: T) {
        self.0.insert(number, (digest, value));
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.0.remove(&number);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_number_cannot_be_reused_by_another_request() {
        let digest = |text: &str| Digest::of("test", text.as_bytes());
        let mut seen = NumberedRequests::default();
        assert_eq!(seen.next_free(), 0);
        seen.insert(4, digest("x"), 'x');
        assert_eq!(seen.next_free(), 5);
        assert_eq!(seen.known("seq_id", 4, digest("x")).unwrap(), Some('x'));
        assert_eq!(seen.known("seq_id", 5, digest("x")).unwrap(), None);
        assert_eq!(
            seen.known("seq_id", 4, digest("y")).unwrap_err().status(),
            409
        );
        assert!(seen.check_free("seq_id", 4).is_err());
        seen.remove(4);
        assert!(seen.check_free("seq_id", 4).is_ok());
    }
}
