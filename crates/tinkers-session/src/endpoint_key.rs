//! The key of an endpoint: the base URL of the server and a fingerprint of the API key.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use tinkers_core::BaseUrl;

/// The key of an endpoint, made from the base URL of the server and the API key. Sessions with equal keys share the endpoint. The API key
/// cannot be recovered from the endpoint key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    address: BaseUrl,
    fingerprint: u64,
}

/// The random hash seeds from which the fingerprints of API keys are computed. The seeds differ in each process, so a fingerprint is
/// useless outside of the process.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl EndpointKey {
    /// Creates the key of the endpoint for a server and an API key. `credential` is the API key, or empty if there is none.
    pub fn new(address: BaseUrl, credential: &[u8]) -> Self {
        Self {
            address,
            fingerprint: FINGERPRINTS.hash_one(credential),
        }
    }

    /// Returns the base URL of the server.
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
    fn endpoint_key_depends_on_the_api_key_and_does_not_show_it() {
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
