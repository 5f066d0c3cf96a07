//! Where things are kept on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};

/// The directory of checkpoints, made if it is not there: `given`, or `tinkers` in the platform's data directory
/// (`$XDG_DATA_HOME` or `~/.local/share` on Linux, `~/Library/Application Support` on macOS, `%APPDATA%` on Windows).
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf> {
    let dir = match given {
        Some(dir) => dir.to_path_buf(),
        None => default_data_dir()
            .context("this machine has no place for data; name one with --data-dir DIR")?,
    };
    std::fs::create_dir_all(&dir).with_context(|| unusable(&dir))?;
    // What is shown is to be found from anywhere.
    std::path::absolute(&dir).with_context(|| format!("{} has no absolute path", dir.display()))
}

/// What is said of a data directory that cannot be made, locked or written.
pub(crate) fn unusable(dir: &Path) -> String {
    format!(
        "the data directory {} cannot be used; name another with --data-dir DIR",
        dir.display()
    )
}

/// Help for an argument that names the directory, with the default of this machine.
pub(crate) fn data_dir_help(what: &str) -> String {
    match default_data_dir() {
        Some(dir) => format!("{what} [default: {}]", dir.display()),
        None => format!("{what}; needed on this machine, which has no place for data"),
    }
}

fn default_data_dir() -> Option<PathBuf> {
    let strategy = choose_native_strategy().ok()?;
    Some(strategy.data_dir().join("tinkers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_directory_is_made_and_what_cannot_be_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let made = data_dir(Some(&dir.path().join("a/b"))).unwrap();
        assert!(made.is_absolute() && made.is_dir());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = data_dir(Some(&file)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("file") && error.contains("--data-dir DIR"),
            "{error}"
        );
    }
}
