//! The copy of the repository that is mutated. Later runs reuse it, so that cargo rebuilds only
//! changed files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Makes the directory `copy` equal to the files of `root` that git tracks or does not ignore.
///
/// Files whose contents are already equal are not written, so that cargo does not rebuild them. A
/// file that an interrupted run left mutated is restored.
pub(super) fn refresh(root: &Path, copy: &Path) -> Result<(), String> {
    let files = listed(root)?;
    let kept: BTreeSet<PathBuf> = files.iter().map(|file| copy.join(file)).collect();
    let failed = |path: &Path, cause| format!("cannot copy {}: {cause}", path.display());
    for file in &files {
        let (from, to) = (root.join(file), copy.join(file));
        let content = match std::fs::read(&from) {
            Ok(content) => content,
            // The file was deleted, but the deletion has not been committed.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(failed(&from, cause)),
        };
        if std::fs::read(&to).is_ok_and(|present| present == content) {
            continue;
        }
        if let Some(directory) = to.parent() {
            std::fs::create_dir_all(directory).map_err(|cause| failed(directory, cause))?;
        }
        std::fs::write(&to, content).map_err(|cause| failed(&to, cause))?;
    }
    clean(root, copy, copy, &kept)
}

/// Deletes files below `directory`, a directory of the copy, if they are not in `kept` or if their
/// original in `root` no longer exists.
fn clean(
    root: &Path,
    copy: &Path,
    directory: &Path,
    kept: &BTreeSet<PathBuf>,
) -> Result<(), String> {
    let failed = |path: &Path, cause| format!("cannot clean {}: {cause}", path.display());
    for entry in std::fs::read_dir(directory).map_err(|cause| failed(directory, cause))? {
        let entry = entry.map_err(|cause| failed(directory, cause))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clean(root, copy, &path, kept)?;
            continue;
        }
        let has_original = path
            .strip_prefix(copy)
            .is_ok_and(|file| root.join(file).exists());
        if !kept.contains(&path) || !has_original {
            std::fs::remove_file(&path).map_err(|cause| failed(&path, cause))?;
        }
    }
    Ok(())
}

fn listed(root: &Path) -> Result<Vec<PathBuf>, String> {
    let output = std::process::Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .map_err(|cause| format!("git could not be started: {cause}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git ls-files failed: {}", said.trim()));
    }
    let list = String::from_utf8_lossy(&output.stdout);
    let files = list.split('\0').filter(|file| !file.is_empty());
    Ok(files.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment;

    #[test]
    fn refresh_of_the_copy_restores_mutated_and_deletes_unknown_files() {
        let copy = std::env::temp_dir().join(format!("tinkers-copy-{}", std::process::id()));
        let root = environment::root();
        std::fs::create_dir_all(copy.join("crates")).unwrap();
        std::fs::write(copy.join("Cargo.toml"), "mutated").unwrap();
        std::fs::write(copy.join("crates/strange"), "x").unwrap();
        refresh(&root, &copy).unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let manifest = copy.join("Cargo.toml");
        assert_eq!(read(manifest.clone()), read(root.join("Cargo.toml")));
        assert!(!copy.join("crates/strange").exists());
        assert!(!copy.join("target").exists());
        let written = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
        let before = written(&manifest);
        refresh(&root, &copy).unwrap();
        assert_eq!(
            written(&manifest),
            before,
            "the same content is not written"
        );
        std::fs::remove_dir_all(&copy).unwrap();
    }
}
