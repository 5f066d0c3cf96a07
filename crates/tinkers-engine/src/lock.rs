//! One engine to a data directory: a second one would tidy away what the first is writing.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::checkpoint::make_durable_dir;
use crate::error::{Error, Result};

/// An engine of this process that is ending may hold its directory for a moment after its last handle was dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directories that engines of this process hold.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static GIVEN_BACK: Condvar = Condvar::new();

/// The right to write below a directory. It ends with this value, and with the process however it ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: PathBuf,
    file: Option<File>,
}

impl DirLock {
    /// Takes the directory, which is made where it is absent.
    ///
    /// # Errors
    /// [`Error::InUse`] where somebody else holds it, [`Error::Io`] where it cannot be used.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        Self::take_within(dir, PATIENCE)
    }

    fn take_within(dir: &Path, patience: Duration) -> Result<Self> {
        make_durable_dir(dir)?;
        let dir = dir
            .canonicalize()
            .map_err(Error::io("cannot use the directory", dir))?;
        let held = GIVEN_BACK.wait_timeout_while(lock(), patience, |held| held.contains(&dir));
        let (mut held, _) = held.unwrap_or_else(PoisonError::into_inner);
        if held.contains(&dir) {
            let holder = Some(std::process::id());
            return Err(Error::InUse { dir, holder });
        }
        let path = dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::io("cannot open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).ok();
                let holder = holder.and_then(|text| text.trim().parse().ok());
                return Err(Error::InUse { dir, holder });
            }
            // A file system without locks: two processes are then the user's own care.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), "this file system has no locks");
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("cannot lock", path)(error)),
        }
        // For the error of whoever finds it locked. The lock does not depend on it.
        let id = format!("{}\n", std::process::id());
        if let Err(error) = file
            .set_len(0)
            .and_then(|()| (&file).write_all(id.as_bytes()))
        {
            tracing::debug!(path = %path.display(), %error, "cannot write the id of this process");
        }
        held.insert(dir.clone());
        Ok(Self {
            dir,
            file: Some(file),
        })
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        let mut held = lock();
        // The file goes first, so that who is woken finds it free.
        drop(self.file.take());
        held.remove(&self.dir);
        GIVEN_BACK.notify_all();
    }
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = DirLock::take(&data).unwrap();
        let error = DirLock::take_within(&data, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        assert!(
            error.to_string().contains(data.to_str().unwrap()),
            "{error}"
        );
        // Waiting for one that ends is worth it.
        let second = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| DirLock::take_within(&data, Duration::from_secs(600)));
            drop(first);
            waiting.join().unwrap()
        });
        drop(second.unwrap());
        drop(DirLock::take_within(&data, Duration::ZERO).unwrap());
    }

    #[test]
    fn another_process_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        // A lock that this process's list does not know, as another process would hold it.
        let file = File::create(dir.path().join("lock")).unwrap();
        file.lock().unwrap();
        let error = DirLock::take(dir.path()).unwrap_err();
        assert!(
            matches!(error, Error::InUse { holder: None, .. }),
            "{error:?}"
        );
        (&file).write_all(b"4711\n").unwrap();
        let error = DirLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("process 4711"), "{error}");
        drop(file);
        drop(DirLock::take(dir.path()).unwrap());
    }
}
