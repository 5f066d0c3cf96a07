//! Checks that requests and checkpoints are of the engine's base model.

use tinkers_local::engine::CheckpointRecord;
use tinkers_wire::TinkerPath;

use super::convert::key;
use super::{Shared, lock};
use crate::checkpoint::Saved;
use crate::error::{Error, Result};

impl Shared {
    /// Whether `name` names the base model.
    pub(super) fn check_name(&self, name: &str) -> Result<()> {
        if self.base.is_called(name) {
            return Ok(());
        }
        let expected = format!("{name:?}; this engine has {:?}", self.base.name);
        Err(Error::input("base_model", expected))
    }

    /// Reads a checkpoint, which must be of the base model.
    ///
    /// One without a fingerprint is from a version before there were any; it is accepted with a warning if its shape fits.
    pub(super) fn read(&self, path: &TinkerPath) -> Result<Saved> {
        let saved = self.store.load(&key(path))?;
        let record: CheckpointRecord = serde_json::from_str(&saved.record).map_err(|e| {
            let reason = format!("{path}: cannot decode its record: {e}");
            Error::input("path", reason)
        })?;
        if let Some(reason) = self.base.mismatch(&record) {
            return Err(Error::input("path", reason));
        }
        if record.base_fingerprint.is_none() && lock(&self.unmarked).insert(path.clone()) {
            tracing::warn!(
                %path,
                base_model = record.base_model,
                "the checkpoint has no fingerprint of its base model: cannot tell whether it belongs to the one that is served; \
                 save it again to add one"
            );
        }
        saved.lora.fits(self.model.config())?;
        Ok(saved)
    }
}
