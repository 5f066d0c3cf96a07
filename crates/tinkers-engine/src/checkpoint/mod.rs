//! Checkpoints on disk: one safetensors file each, so that each is whole or absent.
//!
//! A file holds the adapter's matrices under the names of the PEFT library, and for training also both moments of the
//! optimizer; its metadata holds the adapter's shape, the optimizer's steps and a record that the caller gives. Gradients
//! that were accumulated and not stepped are not saved.

mod file;
mod format;

use std::path::{Path, PathBuf};

use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::lora::Lora;

pub(crate) use file::make_durable_dir;

/// The checkpoints below one directory: `<dir>/<run>/<kind>/<name>.safetensors`.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// Where a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The training run.
    pub run: String,
    /// What it is for, as a directory name.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What a checkpoint holds.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The adapter.
    pub lora: Lora,
    /// The optimizer's memory; absent from what was saved for sampling.
    pub optimizer: Option<AdamW>,
    /// What the caller gave with it.
    pub record: String,
}

impl Store {
    /// Opens the store below `dir`, which is made where it is absent. The temporary files of interrupted saves are removed.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self> {
        file::make_durable_dir(dir)?;
        let store = Self { dir: dir.into() };
        for dir in store.dirs()? {
            file::remove_unfinished(&dir)?;
        }
        Ok(store)
    }

    /// Saves a checkpoint; one of the same key is replaced at once, so that whoever reads sees the old one or the new.
    ///
    /// When this returns, the checkpoint survives a power failure. Gives its size in bytes.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written: nothing is left of it then, and the old one, if any, is as it was.
    /// [`Error::Input`] where the file system cannot tell its name from that of another checkpoint.
    pub fn save(&self, key: &Key, saved: &Saved) -> Result<u64> {
        let path = self.path(key)?;
        if let Some(other) = file::clash(&path)? {
            let other = other.file_stem().unwrap_or_default().to_string_lossy();
            let expected = format!(
                "{:?} differs from the existing {other:?} in case alone, which this file system ignores; choose another name",
                key.name
            );
            return Err(Error::input("path", expected));
        }
        let bytes = format::encode(saved)?;
        file::replace(&self.dir, &path, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Whether there is a checkpoint of this key.
    ///
    /// # Errors
    /// [`Error::Input`] where the key can be none.
    pub fn contains(&self, key: &Key) -> Result<bool> {
        Ok(self.path(key)?.is_file())
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where there is none or the file holds something else.
    pub fn load(&self, key: &Key) -> Result<Saved> {
        let path = self.path(key)?;
        match std::fs::read(&path) {
            Ok(bytes) => {
                format::decode(&bytes).map_err(|reason| Error::Checkpoint { path, reason })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::Checkpoint {
                path,
                reason: "is not there".into(),
            }),
            Err(e) => Err(Error::io("cannot read", path)(e)),
        }
    }

    /// Deletes a checkpoint, for good when this returns; that there is none is no error.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be deleted.
    pub fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Ok(()) => file::sync_dir(path.parent().unwrap_or(&self.dir)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("cannot remove", path)(e)),
        }
    }

    /// The records of all checkpoints with the sizes of their files, in the order of their paths. A file that cannot be
    /// read is logged and left out.
    ///
    /// # Errors
    /// [`Error::Io`] where a directory cannot be read.
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
                    tracing::warn!(path = %path.display(), reason, "left out a checkpoint that cannot be read");
                }
            }
        }
        Ok(records)
    }

    fn path(&self, key: &Key) -> Result<PathBuf> {
        let empty = |field: &'static str| move || Error::input(field, "is empty, expected a name");
        Ok(self
            .dir
            .join(file::part(&key.run).ok_or_else(empty("model_id"))?)
            .join(file::part(&key.kind).ok_or_else(empty("path"))?)
            .join(file::file_name(&key.name).ok_or_else(empty("path"))?))
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for dir in self.dirs()? {
            files.extend(file::entries(&dir)?);
        }
        Ok(files)
    }

    /// The directories that hold checkpoints.
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
    use crate::lora::LoraConfig;

    fn key(name: &str) -> Key {
        Key {
            run: "session:train:0".into(),
            kind: "weights".into(),
            name: name.into(),
        }
    }

    fn saved(seed: u64, record: &str) -> Saved {
        let config = LoraConfig {
            rank: 2,
            seed,
            train_attn: true,
            train_mlp: false,
            train_unembed: true,
        };
        let lora = Lora::new(config, &crate::builtin::config()).unwrap();
        Saved {
            optimizer: Some(AdamW::new(lora.params())),
            lora,
            record: record.into(),
        }
    }

    fn data(saved: &Saved) -> Vec<Vec<f32>> {
        saved
            .lora
            .params()
            .iter()
            .map(|p| p.data().to_vec())
            .collect()
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
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
    fn a_sampler_checkpoint_holds_no_optimizer() {
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
    fn saving_again_replaces_and_deleting_twice_is_no_error() {
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
        assert!(error.contains("is not there"), "{error}");
    }

    #[test]
    fn names_cannot_leave_the_directory() {
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
    fn what_an_interrupted_save_left_is_removed_and_damage_is_told() {
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
