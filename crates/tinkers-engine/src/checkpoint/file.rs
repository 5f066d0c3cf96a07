//! Atomic and durable file operations, and the mapping of names to file names.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The suffix of complete checkpoint files. The names of temporary files have a further suffix after this suffix.
const FINISHED: &str = ".safetensors";
const UNFINISHED: &str = ".safetensors.tmp";

/// The maximum length of an encoded checkpoint name in bytes. With further suffixes, the file name stays below 255 bytes, the limit
/// of common file systems.
const MAX_ENCODED_LEN: usize = 200;

/// The device names of Windows. There, they are invalid file names, with or without an extension.
const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Replaces the file `path` with `bytes`, atomically and durably: writes a temporary file in the same directory, syncs it, renames
/// it to `path`, and syncs the directory.
///
/// On an error, an existing file at `path` is unchanged, and the temporary file is removed. Directories below `root` that are then
/// empty are removed too.
pub(super) fn replace(root: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(root);
    // The temporary name need not be unique, since one process writes one checkpoint at a time.
    let temporary = temporary_path(path);
    let is_new = !path.exists();
    let written = write(&temporary, bytes).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(Error::io("cannot rename to", path))
    });
    let result = match written {
        Ok(()) => sync_dir(dir).inspect_err(|_| {
            // The save is reported as failed, so the new file must not appear after a crash.
            if is_new {
                discard(path);
            }
        }),
        Err(error) => {
            discard(&temporary);
            Err(error)
        }
    };
    result.inspect_err(|_| remove_empty(root, dir))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    make_durable_dir(path.parent().unwrap_or(Path::new(".")))?;
    let mut file = File::create(path).map_err(Error::io("cannot write", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cannot write", path))
}

/// Removes an incomplete file of a failed save. If the removal fails, the file is removed when a checkpoint store is opened in the
/// directory again.
fn discard(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove an incomplete file");
        }
        _ => {}
    }
}

/// Removes `dir` and those of its ancestors below `root` that are empty.
fn remove_empty(root: &Path, dir: &Path) {
    let between = dir
        .ancestors()
        .take_while(|dir| *dir != root && dir.starts_with(root));
    for dir in between {
        // A directory that is not empty is kept, and so are its ancestors.
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

fn temporary_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(FINISHED).unwrap_or(&name);
    path.with_file_name(format!(".{name}{UNFINISHED}"))
}

/// Removes the temporary files of interrupted saves from `dir`. Removes only regular files whose names have the form that
/// [`replace`] uses for temporary files.
pub(super) fn remove_unfinished(dir: &Path) -> Result<()> {
    for path in entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_regular = path.symlink_metadata().is_ok_and(|found| found.is_file());
        if is_regular && name.starts_with('.') && name.ends_with(UNFINISHED) {
            tracing::info!(path = %path.display(), "removing the temporary file of an interrupted save");
            discard(&path);
        }
    }
    Ok(())
}

/// Reads the header of a safetensors file, without the tensors.
pub(super) fn header(path: &Path) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let mut size = [0u8; 8];
    file.read_exact(&mut size).map_err(|e| e.to_string())?;
    let size = u64::from_le_bytes(size);
    let limit = file.metadata().map_err(|e| e.to_string())?.len();
    if size > limit {
        return Err("the header is longer than the file".into());
    }
    let mut header = Vec::new();
    file.take(size)
        .read_to_end(&mut header)
        .map_err(|e| e.to_string())?;
    Ok(header)
}

/// Returns the sorted entries of a directory. Returns no entries if `dir` is not a directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let read = std::fs::read_dir(dir).map_err(Error::io("cannot read the directory", dir))?;
    let mut paths = read
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io("cannot read the directory", dir))?;
    paths.sort();
    Ok(paths)
}

/// Returns the file name of a checkpoint, or `None` if `name` is empty.
pub(super) fn file_name(name: &str) -> Option<String> {
    encode_name(name).map(|encoded| format!("{encoded}{FINISHED}"))
}

/// Encodes a name as a path component that is valid on every file system. Different names have different encodings. Returns `None`
/// if `name` is empty.
///
/// Letters, digits, `-`, `_` and inner dots are not changed. All other bytes are percent-encoded, as are the first letter of a
/// device name and a trailing dot. If an encoding is too long, it is truncated and ends in a hash of the name.
pub(super) fn encode_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let stem = name.split('.').next().unwrap_or_default();
    let is_device = DEVICES
        .iter()
        .any(|device| stem.eq_ignore_ascii_case(device));
    let last = name.len() - 1;
    let mut part = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            _ if index == 0 && is_device => part.push_str(&format!("%{byte:02X}")),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => part.push(char::from(byte)),
            b'.' if index > 0 && index < last => part.push('.'),
            _ => part.push_str(&format!("%{byte:02X}")),
        }
    }
    if part.len() > MAX_ENCODED_LEN {
        // Only encodings with a hash contain a tilde.
        let hash = format!("~{:x}", Sha256::digest(name.as_bytes()));
        part.truncate(MAX_ENCODED_LEN - hash.len());
        part.push_str(&hash);
    }
    Some(part)
}

/// Returns an existing file whose name differs from the file name of `path` only in case. Returns `None` on a file system that
/// distinguishes case.
pub(super) fn case_conflict(path: &Path) -> Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let all = entries(path.parent().unwrap_or(Path::new(".")))?;
    Ok(differing_in_case(path, all))
}

fn differing_in_case(path: &Path, all: Vec<PathBuf>) -> Option<PathBuf> {
    if all.iter().any(|other| other == path) {
        return None;
    }
    let is_same = |other: &PathBuf| other.as_os_str().eq_ignore_ascii_case(path.as_os_str());
    all.into_iter().find(is_same)
}

/// Creates a directory and its missing ancestors durably: they survive a power failure.
pub(crate) fn make_durable_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_durable_dir(parent)?;
    }
    std::fs::create_dir_all(dir).map_err(Error::io("cannot create the directory", dir))?;
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Syncs a directory, so that the creation, renaming and removal of its entries survive a power failure.
#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("cannot sync the directory", dir))
}

/// Does nothing: this platform cannot sync directories. Renames are atomic nevertheless.
#[cfg(not(unix))]
pub(super) fn sync_dir(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for path in entries(dir).unwrap() {
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
            names.extend(files(&path));
        }
        names
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_fails_the_save_and_leaves_no_files() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run/weights");
        let path = dir.join("a.safetensors");
        std::fs::create_dir_all(&dir).unwrap();
        // A write to /dev/full fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", temporary_path(&path)).unwrap();
        let error = replace(root.path(), &path, b"bytes").unwrap_err();
        let Error::Io { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), ErrorKind::StorageFull);
        assert_eq!(files(root.path()), [""; 0]);
        // The name can be used again.
        replace(root.path(), &path, b"bytes").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
    }

    #[test]
    fn failed_rename_leaves_no_files() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/weights/a.safetensors");
        std::fs::create_dir_all(path.join("occupied")).unwrap();
        let error = replace(root.path(), &path, b"bytes")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a.safetensors"), "{error}");
        assert_eq!(
            files(root.path()),
            ["run", "weights", "a.safetensors", "occupied"]
        );
    }

    #[test]
    fn failed_directory_creation_leaves_no_files() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("run"), "a file").unwrap();
        let path = root.path().join("run/weights/a.safetensors");
        let error = replace(root.path(), &path, b"bytes")
            .unwrap_err()
            .to_string();
        assert!(error.contains("run"), "{error}");
        assert_eq!(files(root.path()), ["run"]);
    }

    #[test]
    fn cleanup_removes_only_temporary_files_of_saves() {
        let dir = tempfile::tempdir().unwrap();
        let own = temporary_path(&dir.path().join("a.safetensors"));
        let foreign = [".a.tmp", "a.safetensors.tmp", ".notes", "b.safetensors"];
        for name in foreign {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join(".d.safetensors.tmp")).unwrap();
        std::fs::write(&own, "half").unwrap();
        remove_unfinished(dir.path()).unwrap();
        assert!(!own.exists());
        assert_eq!(entries(dir.path()).unwrap().len(), foreign.len() + 1);
    }

    #[test]
    fn encoded_checkpoint_names_are_valid_on_every_file_system() {
        let encode = |name| encode_name(name).unwrap();
        assert_eq!(encode("step-1.5_a"), "step-1.5_a");
        for name in [
            "CON", "nul", "aux.1", "Lpt9", "a.", "..", ".a", "a b", "ü/%", "a~b",
        ] {
            let encoded = encode(name);
            let stem = encoded.split('.').next().unwrap().to_lowercase();
            assert!(!DEVICES.contains(&stem.as_str()), "{encoded}");
            assert!(
                !encoded.starts_with('.') && !encoded.ends_with('.'),
                "{encoded}"
            );
            assert!(
                encoded
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b))
            );
        }
        assert_eq!(encode("console"), "console");
        let long = [
            "ü".repeat(100),
            "x".repeat(300),
            format!("{}y", "x".repeat(300)),
        ];
        let encoded = long.each_ref().map(|name| encode(name));
        assert!(
            encoded.iter().all(|name| name.len() == MAX_ENCODED_LEN),
            "{encoded:?}"
        );
        assert_ne!(encoded[1], encoded[2]);
        assert_eq!(encode_name(""), None);
    }

    #[test]
    fn checkpoint_names_that_differ_only_in_case_are_detected() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let conflict = |all| differing_in_case(Path::new("d/Step"), paths(all));
        assert_eq!(conflict(&["d/step", "d/x"]), Some(PathBuf::from("d/step")));
        assert_eq!(conflict(&["d/step", "d/Step"]), None);
        assert_eq!(conflict(&["d/other"]), None);
    }
}
