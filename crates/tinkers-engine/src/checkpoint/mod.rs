//! Checkpoints on disk. Each checkpoint is one safetensors file, so it is either complete or absent.
//!
//! The file contains the adapter matrices, with the names of the PEFT library. Training checkpoints also contain both moments of the
//! optimizer. The metadata contains the LoRA config, the step count, and a record of the caller. Accumulated gradients are not
//! saved.

mod file;
mod format;

use std::path::{Path, PathBuf};

use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::lora::Lora;

pub(crate) use file::make_durable_dir;

/// A directory of checkpoints, with files `<dir>/<run>/<kind>/<name>.safetensors`.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// The key of a checkpoint in a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The id of the training run.
    pub run: String,
    /// The kind of checkpoint, which is also a directory name, such as `weights` or `sampler_weights`.
    pub kind: String,
    /// The name of the checkpoint.
    pub name: String,
}

/// The contents of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointContents {
    /// The LoRA adapter.
    pub lora: Lora,
    /// The state of the optimizer; `None` in sampler checkpoints.
    pub optimizer: Option<AdamW>,
    /// A text that the caller stores with the checkpoint. The store does not interpret this text.
    pub record: String,
}

impl Store {
    /// Opens the store in `dir`, creates the directory if it is missing, and removes the temporary files of interrupted saves.
    ///
    /// # Errors
    /// Returns [`Error::Io`] if the directory cannot be created or read.
    pub fn open(dir: &Path) -> Result<Self> {
        file::make_durable_dir(dir)?;
        let store = Self { dir: dir.into() };
        for dir in store.dirs()? {
            file::remove_unfinished(&dir)?;
        }
        Ok(store)
    }

    /// Saves a checkpoint durably and returns its size in bytes.
    ///
    /// An existing checkpoint with the same key is replaced atomically: a concurrent reader sees either the old or the new
    /// checkpoint.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Io`] if the file cannot be written. In this case, no partial file remains, and an existing checkpoint is
    /// unchanged. Returns [`Error::Input`] if, on a file system that ignores case, the name differs from the name of another
    /// checkpoint only in case.
    pub fn save(&self, key: &Key, saved: &CheckpointContents) -> Result<u64> {
        let path = self.path(key)?;
        if let Some(other) = file::case_conflict(&path)? {
            let other = other.file_stem().unwrap_or_default().to_string_lossy();
            let expected = format!(
                "{:?} differs from the saved {other:?} only in case, which this file system ignores; choose another name",
                key.name
            );
            return Err(Error::input("path", expected));
        }
        let bytes = format::encode(saved)?;
        file::replace(&self.dir, &path, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Returns whether a checkpoint with this key exists.
    ///
    /// # Errors
    /// Returns [`Error::Input`] if a part of the key is empty.
    pub fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.path(key)?.is_file())
    }

    /// Loads a checkpoint.
    ///
    /// # Errors
    /// Returns [`Error::Checkpoint`] if the file is missing or is not a valid checkpoint.
    pub fn load(&self, key: &Key) -> Result<CheckpointContents> {
        let path = self.path(key)?;
        match std::fs::read(&path) {
            Ok(bytes) => {
                format::decode(&bytes).map_err(|reason| Error::Checkpoint { path, reason })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::Checkpoint {
                path,
                reason: "the file is missing".into(),
            }),
            Err(e) => Err(Error::io("cannot read", path)(e)),
        }
    }

    /// Deletes a checkpoint durably. Succeeds if the checkpoint does not exist.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Io`] if the file cannot be deleted.
    pub fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Ok(()) => file::sync_dir(path.parent().unwrap_or(&self.dir)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("cannot remove", path)(e)),
        }
    }

    /// Returns the record (the text that the caller stored with the checkpoint) and the file size of each checkpoint, in the order
    /// of the paths. Files that cannot be read are skipped with a warning.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Io`] if a directory cannot be read.
    pub fn records(&self) -> Result<Vec<(String, u64)>> {
        let mut records = Vec::new();
        for path in self.files()? {
            match file::header(&path).and_then(|header| format::record(&header)) {
                Ok(record) => {
                    let size = path
                        .metadata()
                        .map_err(Error::io("cannot read", &path))?
                        .len();
                    records.push((record, size));
                }
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason, "skipping a checkpoint: cannot read its record");
                }
            }
        }
        Ok(records)
    }

    fn path(&self, key: &Key) -> Result<PathBuf> {
        let empty = |field: &'static str| move || Error::input(field, "is empty, expected a name");
        Ok(self
            .dir
            .join(file::encode_name(&key.run).ok_or_else(empty("model_id"))?)
            .join(file::encode_name(&key.kind).ok_or_else(empty("path"))?)
            .join(file::file_name(&key.name).ok_or_else(empty("path"))?))
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for dir in self.dirs()? {
            files.extend(file::entries(&dir)?);
        }
        Ok(files)
    }

    /// Returns the directories that contain checkpoint files.
    fn dirs(&self) -> Result<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        for run in file::entries(&self.dir)? {
            dirs.extend(file::entries(&run)?);
        }
        Ok(dirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::AdapterConfig;

    fn key(name: &str) -> Key {
        Key {
            run: "session:train:0".into(),
            kind: "weights".into(),
            name: name.into(),
        }
    }

    fn saved(seed: u64, record: &str) -> CheckpointContents {
        let config = AdapterConfig {
            rank: 2,
            seed,
            train_attn: true,
            train_mlp: false,
            train_unembed: true,
        };
        let lora = Lora::new(config, &crate::builtin::config()).unwrap();
        CheckpointContents {
            optimizer: Some(AdamW::new(lora.params())),
            lora,
            record: record.into(),
        }
    }

    fn data(saved: &CheckpointContents) -> Vec<Vec<f32>> {
        saved
            .lora
            .params()
            .iter()
            .map(|p| p.data().to_vec())
            .collect()
    }

    #[test]
    fn saved_checkpoint_is_loaded_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut first = saved(1, "one");
        if let Some(optimizer) = &mut first.optimizer {
            optimizer.steps = 7;
            optimizer.first[0][3] = 0.25;
            optimizer.second[1][2] = 1e-30;
        }
        let size = store.save(&key("a"), &first).unwrap();
        let read = store.load(&key("a")).unwrap();
        assert_eq!(data(&read), data(&first));
        assert_eq!(read.optimizer, first.optimizer);
        assert_eq!(read.lora.config(), first.lora.config());
        assert_eq!(store.records().unwrap(), [("one".to_owned(), size)]);
    }

    #[test]
    fn checkpoint_without_optimizer_state_is_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let with = store.save(&key("a"), &saved(1, "")).unwrap();
        let mut only = saved(1, "");
        only.optimizer = None;
        let without = store.save(&key("b"), &only).unwrap();
        assert!(without * 2 < with);
        assert!(store.load(&key("b")).unwrap().optimizer.is_none());
    }

    #[test]
    fn checkpoint_can_be_saved_again_and_deleted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&key("a"), &saved(1, "one")).unwrap();
        store.save(&key("a"), &saved(2, "two")).unwrap();
        assert_eq!(store.load(&key("a")).unwrap().record, "two");
        assert_eq!(data(&store.load(&key("a")).unwrap()), data(&saved(2, "")));
        store.delete(&key("a")).unwrap();
        store.delete(&key("a")).unwrap();
        assert!(!store.contains(&key("a")).unwrap());
        let error = store.load(&key("a")).unwrap_err().to_string();
        assert!(error.contains("the file is missing"), "{error}");
    }

    #[test]
    fn checkpoint_names_cannot_escape_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("in")).unwrap();
        for name in ["..", "../../x", "a/b", ".hidden", "ü", "%2e%2e"] {
            store.save(&key(name), &saved(1, name)).unwrap();
            assert_eq!(store.load(&key(name)).unwrap().record, name);
        }
        assert_eq!(store.records().unwrap().len(), 6);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(store.save(&key(""), &saved(1, "")).is_err());
    }

    #[test]
    fn opening_a_store_removes_temporary_and_refuses_truncated_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&key("a"), &saved(1, "one")).unwrap();
        let path = store.path(&key("a")).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(path.with_file_name(".b.safetensors.tmp"), &bytes[..99]).unwrap();
        std::fs::write(
            path.with_file_name("c.safetensors"),
            &bytes[..bytes.len() / 2],
        )
        .unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2
        );
        let error = store.load(&key("c")).unwrap_err().to_string();
        assert!(error.contains("c.safetensors"), "{error}");
        assert_eq!(store.load(&key("a")).unwrap().record, "one");
    }
}
