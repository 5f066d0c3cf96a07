//! The corpus in the repository: `corpus/TARGET/NAME`, one input in each file. What once broke a reader is kept here under a name
//! that says what it is; what is made in code, such as bombs, is not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the files of all targets are.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The name, which says what it is.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub input: Vec<u8>,
}

/// The files of a target, in the order of their names.
///
/// # Errors
/// When they cannot be read.
pub fn of(target: &str) -> io::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for path in entries(&Path::new(ROOT).join(target))? {
        kept.push(Kept {
            name: name(&path),
            input: fs::read(&path)?,
            path,
        });
    }
    Ok(kept)
}

/// The names of the targets that have files.
///
/// # Errors
/// When the directory cannot be read.
pub fn targets() -> io::Result<Vec<String>> {
    Ok(entries(Path::new(ROOT))?
        .iter()
        .map(|path| name(path))
        .collect())
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = listed.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
