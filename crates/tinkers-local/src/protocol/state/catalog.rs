//! The base models and losses of the engine.

use std::sync::Arc;

use tinkers_wire::LossFn;

use crate::engine::{BaseModel, CheckpointRecord};
use crate::read::Refusal;

/// The base models and loss functions that the engine offers. The server reads them once, when it starts.
#[derive(Debug)]
pub(crate) struct Catalog {
    bases: Vec<Arc<BaseModel>>,
    losses: Vec<LossFn>,
}

impl Catalog {
    pub(crate) fn new(bases: Vec<BaseModel>, losses: Vec<LossFn>) -> Self {
        Self {
            bases: bases.into_iter().map(Arc::new).collect(),
            losses,
        }
    }

    pub(crate) fn bases(&self) -> impl Iterator<Item = &BaseModel> {
        self.bases.iter().map(AsRef::as_ref)
    }

    pub(crate) fn losses(&self) -> &[LossFn] {
        &self.losses
    }

    /// Returns the base model that has this name or this alias.
    ///
    /// # Errors
    ///
    /// If there is no base model of this name.
    pub(crate) fn base(&self, name: &str) -> Result<Arc<BaseModel>, Refusal> {
        let found = self.bases.iter().find(|base| base.is_called(name));
        found.map(Arc::clone).ok_or_else(|| {
            let known: Vec<&str> = self.bases.iter().map(|base| base.name.as_str()).collect();
            Refusal::not_found(format!(
                "no base_model {name:?} on this server; it has {}",
                known.join(", ")
            ))
        })
    }

    /// Returns the base model of a checkpoint. The base model is found by its fingerprint. If the checkpoint or the base model has
    /// no fingerprint, the base model is found by its name.
    ///
    /// # Errors
    ///
    /// If the checkpoint belongs to another base model.
    pub(crate) fn base_of(&self, record: &CheckpointRecord) -> Result<Arc<BaseModel>, Refusal> {
        let print = record.base_fingerprint.as_ref();
        let same = self
            .bases
            .iter()
            .find(|base| print.is_some() && base.fingerprint.as_ref() == print);
        if let Some(same) = same {
            return Ok(Arc::clone(same));
        }
        let base = match (self.base(&record.base_model), self.bases.as_slice()) {
            // The name is unknown and there is one base model, so its other fingerprint explains the error better.
            (Err(_), [only]) if only.mismatch(record).is_some() => Arc::clone(only),
            (base, _) => base?,
        };
        match base.mismatch(record) {
            Some(reason) => Err(Refusal::field("path", reason)),
            None => Ok(base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoints::tests::record;
    use super::super::samplers::tests::base;
    use super::*;

    fn saved_on(base_model: &str, fingerprint: Option<&str>) -> CheckpointRecord {
        CheckpointRecord {
            base_model: base_model.to_owned(),
            base_fingerprint: fingerprint.map(str::to_owned),
            ..record("c", None)
        }
    }

    #[test]
    fn base_model_of_a_checkpoint_is_found_by_fingerprint_or_name() {
        let bases = vec![base("a", Some("1")), base("b", Some("2"))];
        let catalog = Catalog::new(bases, Vec::new());
        let found = |record| catalog.base_of(&record).map(|base| base.name.clone());
        assert_eq!(found(saved_on("other", Some("2"))).unwrap(), "b");
        assert_eq!(found(saved_on("a", None)).unwrap(), "a");
        assert_eq!(found(saved_on("a", Some("3"))).unwrap_err().status(), 422);
        assert_eq!(found(saved_on("other", None)).unwrap_err().status(), 404);
    }

    #[test]
    fn checkpoint_with_an_unknown_fingerprint_is_refused() {
        let catalog = Catalog::new(vec![base("a", Some("1"))], Vec::new());
        let error = catalog.base_of(&saved_on("other", Some("3"))).unwrap_err();
        assert_eq!(error.status(), 422);
        assert_eq!(catalog.base("other").unwrap_err().status(), 404);
    }
}
