//! The parts that searches for sessions and for checkpoints share.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::InvalidInput;
use crate::names::display_name;

/// Whose objects a list contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AccessScope {
    /// The objects of the user.
    #[default]
    Owned,
    /// All objects that the user may read, such as those of shared projects.
    Accessible,
}

impl AccessScope {
    /// Returns the name in queries: `owned` or `accessible`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Accessible => "accessible",
        }
    }
}

display_name!(AccessScope);

/// The owners whose objects a search finds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OwnerFilter {
    /// The user alone.
    #[default]
    Own,
    /// All owners whose objects the user may read.
    Accessible,
    /// The named owners.
    User {
        /// The URNs of 1 to 10 owners.
        owner_urns: Vec<String>,
    },
}

impl OwnerFilter {
    /// Checks the number of named owners.
    ///
    /// # Errors
    /// The error names the field `owner.owner_urns` unless 1 to 10 owners are named.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        match self {
            Self::User { owner_urns } if !(1..=10).contains(&owner_urns.len()) => {
                let expected = format!("1 to 10 owners, got {}", owner_urns.len());
                Err(InvalidInput::new("owner.owner_urns", expected))
            }
            _ => Ok(()),
        }
    }
}

/// The position at which the next page of a search begins. Send it back unchanged: only the server knows the meaning of its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SearchCursor(Value);

impl SearchCursor {
    /// Creates the cursor with this content.
    pub fn new(content: Value) -> Self {
        Self(content)
    }

    /// Returns the content of the cursor.
    pub fn content(&self) -> &Value {
        &self.0
    }
}

/// The highest number of entries on one page of a search.
pub const MAX_SEARCH_LIMIT: u64 = 200;

/// The number of entries on one page of a search, unless the caller sets another.
pub(crate) fn default_limit() -> u64 {
    50
}

/// Checks the number of entries per page of a search.
pub(crate) fn check_limit(limit: u64) -> Result<(), InvalidInput> {
    if (1..=MAX_SEARCH_LIMIT).contains(&limit) {
        return Ok(());
    }
    let expected = format_args!("1 to {MAX_SEARCH_LIMIT}, got {limit}");
    Err(InvalidInput::new("limit", expected))
}
