//! The management of checkpoints and sessions: publication, expiry, copies, projects and searches.

mod change_checkpoint;
mod search_checkpoints;
mod search_sessions;
