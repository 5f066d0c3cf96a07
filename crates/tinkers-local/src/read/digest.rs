//! Digests of decoded bodies, to compare requests independently of their encoding.

use std::hash::{DefaultHasher, Hasher};

use serde::Serialize;

/// A digest of a decoded request body, by which a repeated request is distinguished from a different request with the same sequence
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    length: usize,
    hash: u64,
}

impl Digest {
    /// Computes the digest of a request from its kind, such as `create_model`, and its bytes.
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

    /// Computes the digest of a decoded request body. The digest does not depend on the encoding, such as the order of fields.
    pub(crate) fn of_body<T: Serialize>(kind: &str, body: &T) -> Self {
        Self::of(kind, &tinkers_wire::to_json(body))
    }

    /// Returns the number of bytes from which the digest was computed. It is an estimate of the size of the request body.
    pub(crate) fn bytes(self) -> usize {
        self.length
    }

    pub(crate) fn hash(self) -> u64 {
        self.hash
    }
}
