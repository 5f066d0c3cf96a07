//! The corpus: files `corpus/TARGET/NAME` in the repository that each contain one input. The files
//! are regression tests for past failures, and their names describe the failures. Large inputs such
//! as decompression bombs are made in code instead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of the corpus, which contains the stored inputs of all fuzz targets.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

/// A stored input of a fuzz target, with its file in the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusFile {
    /// The file name. It describes the input.
    pub name: String,
    /// The path of the file.
    pub path: PathBuf,
    /// The contents of the file, which are the input.
    pub input: Vec<u8>,
}

/// Reads the corpus files of the fuzz target with the name `target`, sorted by file name.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub fn files(target: &str) -> io::Result<Vec<CorpusFile>> {
    let mut files = Vec::new();
    for path in entries(&Path::new(ROOT).join(target))? {
        files.push(CorpusFile {
            name: name(&path),
            input: fs::read(&path)?,
            path,
        });
    }
    Ok(files)
}

/// Returns the names of the fuzz targets that have corpus files.
///
/// # Errors
/// Returns an error if the directory cannot be read.
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
