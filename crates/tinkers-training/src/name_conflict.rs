//! Detects saves that failed because a checkpoint of the same name exists. Servers report this as a conflict (409), as another 4xx status,
//! or as a failed operation.

use bytes::Bytes;
use tinkers_core::{Error, ErrorKind};
use tinkers_wire::CheckpointKind;

use crate::requests::SavedName;

/// Returns whether a save failed because a checkpoint of the same name exists.
pub(crate) fn is_name_taken(error: &Error) -> bool {
    let kind = matches!(
        error.kind(),
        ErrorKind::Conflict | ErrorKind::Rejected | ErrorKind::OperationFailed
    );
    kind && says_exists(error)
}

/// Returns whether the server's error text says that an object exists already. This distinguishes a name conflict from a conflict about a
/// reused sequence number, which has another text.
pub(crate) fn says_exists(error: &Error) -> bool {
    let words = tinkers_wire::error_text(error.body()).unwrap_or_default();
    let words = words.to_ascii_lowercase();
    let is_missing = ["not exist", "n't exist", "no longer exist"];
    words.contains("exist") && !is_missing.iter().any(|missing| words.contains(missing))
}

/// Converts the error of a save whose name is in use to a `Conflict` error. Servers report such a conflict with different statuses.
pub(crate) fn name_taken(name: &SavedName, error: Error) -> Error {
    let overwrite = match name.kind {
        CheckpointKind::Training => ", or replace the checkpoint with SaveState::overwrite",
        _ => "",
    };
    let message = format!(
        "the checkpoint name {:?} is taken; save under another name{overwrite}",
        name.name
    );
    let taken = Error::new(ErrorKind::Conflict, error.sent(), message);
    let taken = match error.status() {
        Some(status) => taken.with_response(status, &Bytes::copy_from_slice(error.body())),
        None => taken,
    };
    let taken = match error.request_id() {
        Some(id) => taken.with_request_id(id),
        None => taken,
    };
    taken.with_source(error)
}
