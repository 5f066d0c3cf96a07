//! The audit log: who changed what and when.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Owner;

/// The number of entries of the audit log that are kept. Older entries are deleted.
pub(crate) const KEPT_ENTRIES: usize = 100_000;

/// A kind of change, which the audit log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuditEvent {
    CheckpointSaved,
    CheckpointCopied,
    CheckpointPublished,
    CheckpointUnpublished,
    CheckpointTtlSet,
    CheckpointDeleted,
    /// The server deleted a checkpoint at the end of its time to live.
    CheckpointExpired,
    SessionProjectAssigned,
}

impl AuditEvent {
    /// Returns the name of the event in the audit log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CheckpointSaved => "checkpoint_saved",
            Self::CheckpointCopied => "checkpoint_copied",
            Self::CheckpointPublished => "checkpoint_published",
            Self::CheckpointUnpublished => "checkpoint_unpublished",
            Self::CheckpointTtlSet => "checkpoint_ttl_set",
            Self::CheckpointDeleted => "checkpoint_deleted",
            Self::CheckpointExpired => "checkpoint_expired",
            Self::SessionProjectAssigned => "session_project_assigned",
        }
    }

    /// Returns the kind of events to which the event belongs in queries.
    pub(crate) const fn kind(self) -> tinkers_wire::AuditEventType {
        match self {
            Self::SessionProjectAssigned => tinkers_wire::AuditEventType::Projects,
            _ => tinkers_wire::AuditEventType::Checkpoints,
        }
    }
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AuditRecord {
    /// The time of the event, in seconds since the Unix epoch.
    pub(crate) seconds: f64,
    pub(crate) owner: Owner,
    pub(crate) event: AuditEvent,
    /// What was changed and how, such as the path of a checkpoint.
    pub(crate) details: Value,
}
