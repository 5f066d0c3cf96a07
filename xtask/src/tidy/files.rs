//! The files of the repository. They are the files that git tracks or, without git, all files in
//! the directory.

use std::path::Path;
use std::process::Command;

/// A text file of the repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    /// The path relative to the workspace root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

#[cfg(test)]
impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// The directories that are not searched for files if git is not available. With git, only tracked
/// files are read.
const SKIPPED: &[&str] = &["target", ".git", ".venv", "__pycache__"];

/// Returns the text files of the repository, sorted by path. Skips files that are not valid UTF-8.
pub(crate) fn tracked(root: &Path) -> Result<Vec<File>, String> {
    let mut paths = match git_files(root) {
        Some(paths) => paths,
        None => directory_files(root)?,
    };
    paths.sort();
    // A tracked file may be deleted in the working tree. It is skipped.
    let files = paths.into_iter().filter_map(|path| {
        let text = String::from_utf8(std::fs::read(root.join(&path)).ok()?).ok()?;
        Some(File { path, text })
    });
    Ok(files.collect())
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let list = String::from_utf8(output.stdout).ok()?;
    Some(
        list.split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

fn directory_files(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory)
            .map_err(|cause| format!("cannot list {}: {cause}", directory.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && !SKIPPED.iter().any(|skipped| name == *skipped) {
                pending.push(entry.path());
            } else if !is_directory && let Ok(path) = entry.path().strip_prefix(root) {
                found.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment;

    #[test]
    fn file_list_without_git_excludes_build_output() {
        let found = directory_files(&environment::root()).unwrap();
        assert!(found.iter().any(|path| path == "xtask/src/tidy/files.rs"));
        assert!(!found.iter().any(|path| path.starts_with("target/")));
        assert!(!found.iter().any(|path| path.starts_with(".git/")));
    }

    #[test]
    fn tracked_files_include_the_root_manifest() {
        let files = tracked(&environment::root()).unwrap();
        assert!(
            files
                .iter()
                .any(|file| file.path == "Cargo.toml" && !file.text.is_empty())
        );
    }
}
