//! Files that are whole or absent, whatever happens while they are written.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The ends of a finished file and of one that is being written.
const FINISHED: &str = ".safetensors";
const UNFINISHED: &str = ".safetensors.tmp";

/// Longest part of a path; the temporary name of a file of this length stays below the 255 bytes of common file systems.
const LONGEST_PART: usize = 200;

/// The names of devices on Windows, which are no names for files there, with or without an extension.
const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8",
    "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it to `path`, and syncs the directory.
///
/// On an error nothing is left of it: the temporary file is removed, so are directories below `root` that are empty then, and an
/// older file at `path` is as it was.
pub(super) fn replace(root: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(root);
    // One process writes a store, and it writes one checkpoint at a time, so the name need not be unique.
    let beside = beside(path);
    let is_new = !path.exists();
    let written = write(&beside, bytes)
        .and_then(|()| std::fs::rename(&beside, path).map_err(Error::io("cannot rename to", path)));
    let kept = match written {
        Ok(()) => sync_dir(dir).inspect_err(|_| {
            // Whether the new name would survive is not known, and the caller is told that the save failed.
            if is_new {
                discard(path);
            }
        }),
        Err(error) => {
            discard(&beside);
            Err(error)
        }
    };
    kept.inspect_err(|_| remove_empty(root, dir))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    make_durable_dir(path.parent().unwrap_or(Path::new(".")))?;
    let mut file = File::create(path).map_err(Error::io("cannot write", path))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cannot write", path))
}

/// Removes a file that is of no use; one that stays is removed at the next start.
fn discard(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
        }
        _ => {}
    }
}

/// Removes `dir` and the directories between it and `root`, as far as they are empty.
fn remove_empty(root: &Path, dir: &Path) {
    let between = dir
        .ancestors()
        .take_while(|dir| *dir != root && dir.starts_with(root));
    for dir in between {
        // A directory that is not empty stays, and so do those above it.
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(FINISHED).unwrap_or(&name);
    path.with_file_name(format!(".{name}{UNFINISHED}"))
}

/// Removes the temporary files that a crash left in `dir`: plain files with the names that [`replace`] gives.
pub(super) fn remove_unfinished(dir: &Path) -> Result<()> {
    for path in entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_plain = path.symlink_metadata().is_ok_and(|found| found.is_file());
        if is_plain && name.starts_with('.') && name.ends_with(UNFINISHED) {
            tracing::info!(path = %path.display(), "removing what an interrupted save left");
            discard(&path);
        }
    }
    Ok(())
}

/// The header of a safetensors file, without the tensors behind it. Errors are told in words.
pub(super) fn header(path: &Path) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let mut size = [0u8; 8];
    file.read_exact(&mut size).map_err(|e| e.to_string())?;
    let size = u64::from_le_bytes(size);
    let limit = file.metadata().map_err(|e| e.to_string())?.len();
    if size > limit {
        return Err("its header is longer than the file".into());
    }
    let mut header = Vec::new();
    file.take(size)
        .read_to_end(&mut header)
        .map_err(|e| e.to_string())?;
    Ok(header)
}

/// What is in a directory, sorted; nothing where it is no directory.
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

/// The file of a checkpoint's name.
pub(super) fn file_name(name: &str) -> Option<String> {
    part(name).map(|part| format!("{part}{FINISHED}"))
}

/// A name as one part of a path that every file system takes; `None` for the empty name.
///
/// Letters, digits, `-`, `_` and inner dots stay, all else is percent-encoded, and so are the first letter of a device's name and
/// a dot at the end. What is too long then ends in a hash of the name. Different names give different parts.
pub(super) fn part(name: &str) -> Option<String> {
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
    if part.len() > LONGEST_PART {
        // No other part has a tilde.
        let hash = format!("~{:x}", Sha256::digest(name.as_bytes()));
        part.truncate(LONGEST_PART - hash.len());
        part.push_str(&hash);
    }
    Some(part)
}

/// The file in the directory of `path` that a file system which ignores case takes for `path`, where there is one.
pub(super) fn clash(path: &Path) -> Result<Option<PathBuf>> {
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

/// Makes a directory whose own entry, and those of the directories made on the way, survive a power failure.
pub(crate) fn make_durable_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_durable_dir(parent)?;
    }
    std::fs::create_dir_all(dir).map_err(Error::io("cannot make the directory", dir))?;
    sync_dir(parent.unwrap_or(Path::new(".")))
}

/// Makes what was removed from a directory, made or renamed in it survive a power failure.
#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("cannot make durable", dir))
}

/// Elsewhere directories cannot be opened to be synced; the rename is atomic all the same.
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
    fn a_full_disk_leaves_nothing_behind_and_is_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run/weights");
        let path = dir.join("a.safetensors");
        std::fs::create_dir_all(&dir).unwrap();
        // Writes to this device fail as those to a full disk.
        std::os::unix::fs::symlink("/dev/full", beside(&path)).unwrap();
        let error = replace(root.path(), &path, b"bytes").unwrap_err();
        let Error::Io { source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), ErrorKind::StorageFull);
        assert_eq!(files(root.path()), [""; 0]);
        // The name is free again.
        replace(root.path(), &path, b"bytes").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
    }

    #[test]
    fn a_rename_that_fails_leaves_nothing_behind() {
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
    fn a_directory_that_cannot_be_made_leaves_nothing_behind() {
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
    fn only_files_of_our_own_pattern_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let own = beside(&dir.path().join("a.safetensors"));
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
    fn parts_are_names_on_every_file_system() {
        let part = |name| part(name).unwrap();
        assert_eq!(part("step-1.5_a"), "step-1.5_a");
        for name in [
            "CON", "nul", "aux.1", "Lpt9", "a.", "..", ".a", "a b", "ü/%", "a~b",
        ] {
            let part = part(name);
            let stem = part.split('.').next().unwrap().to_lowercase();
            assert!(!DEVICES.contains(&stem.as_str()), "{part}");
            assert!(!part.starts_with('.') && !part.ends_with('.'), "{part}");
            assert!(
                part.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b))
            );
        }
        assert_eq!(part("console"), "console");
        let long = [
            "ü".repeat(100),
            "x".repeat(300),
            format!("{}y", "x".repeat(300)),
        ];
        let parts = long.each_ref().map(|name| part(name));
        assert!(
            parts.iter().all(|part| part.len() == LONGEST_PART),
            "{parts:?}"
        );
        assert_ne!(parts[1], parts[2]);
        assert_eq!(super::part(""), None);
    }

    #[test]
    fn names_that_differ_in_case_alone_are_told() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let clash = |all| differing_in_case(Path::new("d/Step"), paths(all));
        assert_eq!(clash(&["d/step", "d/x"]), Some(PathBuf::from("d/step")));
        assert_eq!(clash(&["d/step", "d/Step"]), None);
        assert_eq!(clash(&["d/other"]), None);
    }
}
