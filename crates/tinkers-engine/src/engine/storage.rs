//! The storage thread, which deletes and copies checkpoints. On a separate thread, this does not wait for a running training job.

use tinkers_local::engine::{CheckpointRecord, EngineError, Job, Outcome, Work};
use tinkers_wire::TinkerPath;

use super::Shared;
use super::convert::key;

pub(super) fn run(shared: &Shared, job: &Job) -> Result<Outcome, EngineError> {
    match &job.work {
        Work::DeleteCheckpoint { path } => {
            shared
                .samplers
                .invalidate_during(path, || shared.store.delete(&key(path)))?;
            Ok(Outcome::Done)
        }
        Work::CopyCheckpoint { source, record } => copy(shared, source, record),
        _ => Err(EngineError::server(
            "the storage thread received a job of another kind",
        )),
    }
}

/// Saves the weights of the checkpoint `source` again, with another record and at the path of this record.
fn copy(
    shared: &Shared,
    source: &TinkerPath,
    record: &CheckpointRecord,
) -> Result<Outcome, EngineError> {
    let mut contents = shared.store.load(&key(source))?;
    contents.record = serde_json::to_string(record).map_err(|error| {
        EngineError::server(format!("cannot encode the checkpoint record: {error}"))
    })?;
    let size_bytes = shared.store.save(&key(&record.path), &contents)?;
    Ok(Outcome::Saved { size_bytes })
}
