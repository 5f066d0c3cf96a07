//! The management of checkpoints and sessions: publication, expiry, copies, projects, searches, the usage, the audit log and traces.

mod audit;
mod change_checkpoint;
mod search_checkpoints;
mod search_sessions;
mod trace;
mod usage;

use tinkers_wire::OwnerFilter;

use crate::access::Owner;

/// Returns whether a search with this filter finds objects of the caller's owner. A search returns no objects of other owners.
fn finds_own(filter: &OwnerFilter, owner: &Owner) -> bool {
    match filter {
        OwnerFilter::User { owner_urns } => owner_urns.contains(&owner.urn()),
        _ => true,
    }
}
