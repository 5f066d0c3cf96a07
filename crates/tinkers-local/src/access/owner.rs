//! The owner of the objects on the server.

use std::fmt;
use std::sync::Arc;

/// The owner of sessions, models, samplers and checkpoints. Requests of one owner see nothing of another owner.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner(Arc<str>);

impl Owner {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// The owner of requests to a server without keys, of keys without an owner, and of checkpoints that were saved before there were
/// owners.
impl Default for Owner {
    fn default() -> Self {
        Self::new("local")
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
