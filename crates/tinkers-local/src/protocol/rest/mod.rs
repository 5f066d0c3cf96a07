//! The management of checkpoints and sessions: publication, expiry, copies, projects and searches.

mod change_checkpoint;
mod search_checkpoints;
mod search_sessions;

use tinkers_wire::OwnerFilter;

use crate::access::Owner;

/// Returns whether a search with this filter finds objects of the caller's owner. A search returns no objects of other owners.
fn finds_own(filter: &OwnerFilter, owner: &Owner) -> bool {
    match filter {
        OwnerFilter::User { owner_urns } => {
            // The user has the same name in the claims of tokens.
            let own = format!("tml:user:{}", owner.name());
            owner_urns.contains(&own)
        }
        _ => true,
    }
}
