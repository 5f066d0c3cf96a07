//! Checks that requests and checkpoints belong to the engine's base model.

use tinkers_local::engine::CheckpointRecord;
use tinkers_wire::TinkerPath;

use super::convert::key;
use super::{Shared, lock};
use crate::checkpoint::CheckpointContents;
use crate::error::{Error, Result};

impl Shared {
    /// Checks that `name` is a name or an alias of the base model.
    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        if self.base.is_called(name) {
            return Ok(());
        }
        let expected = format!("is {name:?}, expected {:?}", self.base.name);
        Err(Error::input("base_model", expected))
    }

    /// Reads a checkpoint and checks that the checkpoint belongs to the base model.
    ///
    /// A checkpoint without a fingerprint of its base model, written by an older version, is accepted with a warning if its shapes match.
    pub(super) fn read(&self, path: &TinkerPath) -> Result<CheckpointContents> {
        let checkpoint = self.store.load(&key(path))?;
        let record: CheckpointRecord = serde_json::from_str(&checkpoint.record).map_err(|e| {
            let reason = format!("{path}: cannot decode its record: {e}");
            Error::input("path", reason)
        })?;
        if let Some(reason) = self.base.mismatch(&record) {
            return Err(Error::input("path", reason));
        }
        if record.base_fingerprint.is_none() && lock(&self.warned_checkpoints).insert(path.clone())
        {
            tracing::warn!(
                %path,
                base_model = record.base_model,
                "the checkpoint has no fingerprint: cannot check that it belongs to the served base model; \
                save it again to add one"
            );
        }
        checkpoint.lora.check_fits(self.model.config())?;
        Ok(checkpoint)
    }
}
