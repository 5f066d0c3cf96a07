//! The owner of the objects on the server.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The owner of sessions, models, samplers and checkpoints. Requests of one owner see nothing of another owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(crate) struct Owner(Arc<str>);

impl Owner {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Returns the URN of the owner, as in the claims of tokens.
    pub(crate) fn urn(&self) -> String {
        format!("tml:user:{}", self.name())
    }
}

/// The owner of requests to a server without keys, of keys without an owner, and of checkpoints that were saved before there were
/// owners.
impl Default for Owner {
    fn default() -> Self {
        Self::new("local")
    }
}

impl From<String> for Owner {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.name().to_owned()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
