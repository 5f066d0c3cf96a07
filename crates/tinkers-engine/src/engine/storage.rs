//! The storage thread, which deletes checkpoints. On a separate thread, a deletion does not wait for a running training job.

use tinkers_local::engine::{EngineError, Job, Outcome, Work};

use super::Shared;
use super::convert::key;

pub(super) fn run(shared: &Shared, job: &Job) -> Result<Outcome, EngineError> {
    let Work::DeleteCheckpoint { path } = &job.work else {
        return Err(EngineError::server(
            "the storage thread received a job of another kind",
        ));
    };
    shared
        .samplers
        .invalidate_during(path, || shared.store.delete(&key(path)))?;
    Ok(Outcome::Done)
}
