//! Whether two bodies say the same, however they were encoded.

use std::hash::{DefaultHasher, Hasher};

use serde::Serialize;

/// A fingerprint of what a request asks for, so that a retry can be told from another request of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    length: usize,
    hash: u64,
}

impl Digest {
    /// Of bytes, with the kind of request that they are.
    pub(crate) fn of(kind: &str, bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(kind.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(bytes);
        Self {
            length: bytes.len(),
            hash: hasher.finish(),
        }
    }

    /// Of a body as it was understood: what its encoding adds, such as the order of fields, does not count.
    pub(crate) fn of_body<T: Serialize>(kind: &str, body: &T) -> Self {
        Self::of(kind, &tinkers_wire::to_json(body))
    }

    /// The length of what was digested, which is about that of the body.
    pub(crate) fn bytes(self) -> usize {
        self.length
    }

    pub(crate) fn hash(self) -> u64 {
        self.hash
    }
}
