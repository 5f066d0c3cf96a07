//! The directory of checkpoints.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etcetera::base_strategy::{BaseStrategy, choose_native_strategy};

/// Returns the directory in which checkpoints are stored. Creates the directory if it is missing. The directory is `given`; if it
/// is `None`, the directory is `tinkers` in the platform's data directory (`$XDG_DATA_HOME` or `~/.local/share` on Linux,
/// `~/Library/Application Support` on macOS, `%APPDATA%` on Windows).
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf> {
    let dir = match given {
        Some(dir) => dir.to_path_buf(),
        None => default_data_dir()
            .context("cannot find the platform's data directory: set --data-dir DIR")?,
    };
    std::fs::create_dir_all(&dir).with_context(|| unusable_message(&dir))?;
    std::path::absolute(&dir)
        .with_context(|| format!("cannot make the path {} absolute", dir.display()))
}

/// Returns the error message for a data directory that cannot be created, locked or written.
pub(crate) fn unusable_message(dir: &Path) -> String {
    format!(
        "cannot use the data directory {}: set --data-dir DIR to another one",
        dir.display()
    )
}

/// Returns the help text of an option that sets the data directory: `description`, followed by the default.
pub(crate) fn data_dir_help(description: &str) -> String {
    match default_data_dir() {
        Some(dir) => format!("{description} [default: {}]", dir.display()),
        None => format!("{description} [required: this machine has no data directory]"),
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
    fn missing_data_dir_is_created_and_invalid_data_dir_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let created = data_dir(Some(&dir.path().join("a/b"))).unwrap();
        assert!(created.is_absolute() && created.is_dir());
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
