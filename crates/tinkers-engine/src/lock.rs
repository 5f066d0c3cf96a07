//! The exclusive lock of a data directory. Without it, a second engine would remove temporary files that the first one is writing.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::checkpoint::make_durable_dir;
use crate::error::{Error, Result};

/// How long to wait for the directory lock of another engine of this process that is being dropped.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The directories that are locked by engines of this process.
static HELD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static RELEASED: Condvar = Condvar::new();

/// An exclusive lock of a directory. The lock is released when this value is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    dir: PathBuf,
    file: Option<File>,
}

impl DirLock {
    /// Locks the directory. Creates the directory if it is missing.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InUse`] if another engine holds the lock, and [`Error::Io`] if the directory cannot be used.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        Self::take_within(dir, RELEASE_TIMEOUT)
    }

    fn take_within(dir: &Path, timeout: Duration) -> Result<Self> {
        make_durable_dir(dir)?;
        let dir = dir
            .canonicalize()
            .map_err(Error::io("cannot use the directory", dir))?;
        let held = RELEASED.wait_timeout_while(lock(), timeout, |held| held.contains(&dir));
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
            // On a file system without locks, the user must make sure that only one process uses the directory.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), "the file system does not support locks");
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("cannot lock", path)(error)),
        }
        // Other processes read this id for their error messages. The lock does not depend on it.
        let id = format!("{}\n", std::process::id());
        if let Err(error) = file
            .set_len(0)
            .and_then(|()| (&file).write_all(id.as_bytes()))
        {
            tracing::debug!(path = %path.display(), %error, "cannot write the process id");
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
        // The file is closed before the notification, so that a waiter can lock it.
        drop(self.file.take());
        held.remove(&self.dir);
        RELEASED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_lock_is_exclusive_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = DirLock::take(&data).unwrap();
        let error = DirLock::take_within(&data, Duration::ZERO).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        assert!(
            error.to_string().contains(data.to_str().unwrap()),
            "{error}"
        );
        // A thread that waits for the lock gets it when the lock is released.
        let second = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| DirLock::take_within(&data, Duration::from_secs(600)));
            drop(first);
            waiting.join().unwrap()
        });
        drop(second.unwrap());
        drop(DirLock::take_within(&data, Duration::ZERO).unwrap());
    }

    #[test]
    fn error_names_the_process_that_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        // This lock is not in `HELD`, so it looks like that of another process.
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
