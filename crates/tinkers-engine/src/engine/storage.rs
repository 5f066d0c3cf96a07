//! The storage thread: what concerns checkpoints alone, so that nobody waits for a pass to delete one.

use tinkers_local::engine::{EngineError, Job, Outcome, Work};

use super::Shared;
use super::convert::key;

pub(super) fn run(shared: &Shared, job: &Job) -> Result<Outcome, EngineError> {
    let Work::DeleteCheckpoint { path } = &job.work else {
        return Err(EngineError::server(
            "the storage thread was given another job",
        ));
    };
    shared
        .shelf
        .changing(path, || shared.store.delete(&key(path)))?;
    Ok(Outcome::Done)
}
