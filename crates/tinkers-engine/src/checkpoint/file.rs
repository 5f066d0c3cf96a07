//! Files that are whole or absent, whatever happens while they are written.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const UNFINISHED: &str = "tmp";

/// Writes `bytes` beside `path`, makes them durable, and renames them to `path`.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_durable_dir(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // One process writes a store, and it writes one checkpoint at a time, so the name need not be unique.
    let beside = dir.join(format!(".{name}.{UNFINISHED}"));
    let mut file = File::create(&beside).map_err(Error::io("cannot write", &beside))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cannot write", &beside))?;
    drop(file);
    std::fs::rename(&beside, path).map_err(Error::io("cannot rename to", path))?;
    sync_dir(dir)
}

/// Whether a file is what an interrupted [`replace`] left.
pub(super) fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && path.extension().is_some_and(|e| e == UNFINISHED)
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

/// What is in a directory, sorted, with what is in the directories of [`below`]; nothing where it is no directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let read = std::fs::read_dir(dir).map_err(Error::io("cannot read the directory", dir))?;
    let mut paths = Vec::new();
    for entry in read {
        let path = entry
            .map_err(Error::io("cannot read the directory", dir))?
            .path();
        match path.to_string_lossy().ends_with(CONTINUED) {
            true => paths.extend(entries(&path)?),
            false => paths.push(path),
        }
    }
    paths.sort();
    Ok(paths)
}

/// Ends a directory that holds the first part of a name, which no encoded name contains.
const CONTINUED: char = '~';

/// The longest part of a name in one file name. Most file systems take 255 bytes, an ending and that of an unfinished file
/// included.
const LONGEST: usize = 200;

/// The path of an encoded name in a directory. One that is too long for a file name goes into directories within it.
pub(super) fn below(dir: &Path, name: &str) -> PathBuf {
    match name.split_at_checked(LONGEST) {
        Some((first, rest)) if name.len() > LONGEST + ".safetensors".len() => {
            below(&dir.join(format!("{first}{CONTINUED}")), rest)
        }
        _ => dir.join(name),
    }
}

/// A name as one part of a path: letters, digits, `-`, `_` and inner dots stay, all else is percent-encoded.
pub(super) fn part(name: &str) -> String {
    let mut part = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => part.push(char::from(byte)),
            b'.' if index > 0 => part.push('.'),
            _ => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
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
