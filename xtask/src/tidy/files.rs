//! The files of the repository: what git tracks, or without git whatever lies in the directory.

use std::path::Path;
use std::process::Command;

/// One text file of the repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    /// Relative to the root, with forward slashes.
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

/// Directories that are never part of the repository, for the walk without git.
const SKIPPED: &[&str] = &["target", ".git", ".venv", "__pycache__"];

/// The text files of the repository in order of their paths; what is not UTF-8 is left out.
pub(crate) fn tracked(root: &Path) -> Result<Vec<File>, String> {
    let mut paths = match git(root) {
        Some(paths) => paths,
        None => walk(root)?,
    };
    paths.sort();
    // A tracked file may have been deleted and not yet committed; that is not for tidy to say.
    let files = paths.into_iter().filter_map(|path| {
        let text = String::from_utf8(std::fs::read(root.join(&path)).ok()?).ok()?;
        Some(File { path, text })
    });
    Ok(files.collect())
}

fn git(root: &Path) -> Option<Vec<String>> {
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

fn walk(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let entries = std::fs::read_dir(&directory)
            .map_err(|cause| format!("{} cannot be listed: {cause}", directory.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && !SKIPPED.iter().any(|skipped| name == *skipped) {
                waiting.push(entry.path());
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
    use crate::machine;

    #[test]
    fn the_walk_finds_the_sources_and_leaves_the_build_out() {
        let found = walk(&machine::root()).unwrap();
        assert!(found.iter().any(|path| path == "xtask/src/tidy/files.rs"));
        assert!(!found.iter().any(|path| path.starts_with("target/")));
        assert!(!found.iter().any(|path| path.starts_with(".git/")));
    }

    #[test]
    fn git_and_the_walk_agree_on_the_root_manifest() {
        let files = tracked(&machine::root()).unwrap();
        assert!(
            files
                .iter()
                .any(|file| file.path == "Cargo.toml" && !file.text.is_empty())
        );
    }
}
