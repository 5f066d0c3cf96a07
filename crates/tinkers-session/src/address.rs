//! Under which key an endpoint is shared: the base URL, and a fingerprint of the credential.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use tinkers_core::BaseUrl;

/// A server and a credential. The credential itself is in here in no form that leads back to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    address: BaseUrl,
    fingerprint: u64,
}

/// Keyed anew in each process, so that a fingerprint says nothing outside it and cannot be searched for.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl EndpointKey {
    /// The key of `address` with `credential`; an empty credential is none.
    pub fn new(address: BaseUrl, credential: &[u8]) -> Self {
        Self {
            address,
            fingerprint: FINGERPRINTS.hash_one(credential),
        }
    }

    /// The server.
    pub fn address(&self) -> &BaseUrl {
        &self.address
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointKey")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_credentials_apart_and_shows_none() {
        let address = BaseUrl::parse("http://host.example").expect("valid");
        let key = |credential: &[u8]| EndpointKey::new(address.clone(), credential);
        assert_eq!(key(b"tml-one"), key(b"tml-one"));
        assert_ne!(key(b"tml-one"), key(b"tml-two"));
        assert_ne!(key(b"tml-one"), key(b""));
        assert_eq!(
            format!("{:?}", key(b"tml-one")),
            "EndpointKey { address: BaseUrl(http://host.example), .. }"
        );
    }
}
