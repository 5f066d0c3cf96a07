//! Signed addresses, which grant access without a credential.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A signed address: a `GET` or `PUT` request for it needs no credential. The address grants access to its file until it expires, so it
/// does not occur in `Debug` output.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SignedUrl(String);

impl SignedUrl {
    /// Wraps an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Returns the address. Do not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedUrl(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_address_does_not_occur_in_debug_output() {
        let url: SignedUrl =
            serde_json::from_str(r#""https://files.example/a?sig=s3cret""#).unwrap();
        assert!(!format!("{url:?}").contains("s3cret"));
        assert!(url.expose().ends_with("s3cret"));
    }
}
