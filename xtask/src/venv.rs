//! Python virtual environments, which are cached in the target directory.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::out;

/// A Python virtual environment with its installed packages.
#[derive(Debug)]
pub(crate) struct Venv {
    directory: PathBuf,
}

/// Finds a Python interpreter that can create virtual environments. Its version must be `major`, with a minor version in `minors`.
pub(crate) fn python(major: u32, minors: RangeInclusive<u32>) -> Option<String> {
    let (least, most) = (*minors.start(), *minors.end());
    let others = minors.rev().map(|minor| format!("python{major}.{minor}"));
    let names = std::iter::once("python3".to_owned()).chain(others);
    let script = format!(
        "import sys, venv, ensurepip; sys.exit(not ({major}, {least}) <= sys.version_info[:2] <= ({major}, {most}))"
    );
    names.into_iter().find(|name| {
        let mut python = Command::new(name);
        python.args(["-c", &script]).stdin(Stdio::null());
        python.stdout(Stdio::null()).stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    })
}

impl Venv {
    /// Creates a Python virtual environment in `directory`, and installs `packages` with pip. Does
    /// nothing if the environment already exists with the same packages. `description` is shown to
    /// the user.
    pub(crate) fn prepare(
        python: &str,
        directory: PathBuf,
        description: &str,
        packages: &[&str],
    ) -> Result<Self, String> {
        let name = directory.file_name().unwrap_or_default();
        let lock_name = format!("{}.lock", name.to_string_lossy());
        let _lock = lock(&directory.with_file_name(lock_name))?;
        let venv = Self { directory };
        let marker = venv.directory.join("complete");
        let content = packages.join("\n");
        if std::fs::read_to_string(&marker).is_ok_and(|found| found == content) {
            return Ok(venv);
        }
        out::line(&format!("installing {description}"));
        let directory = venv.directory.to_string_lossy().into_owned();
        run(Command::new(python).args(["-m", "venv", "--clear", &directory]))?;
        run(venv
            .pip("install")
            .args(["--quiet", "--no-input"])
            .args(packages))?;
        std::fs::write(&marker, content)
            .map_err(|cause| format!("cannot write {}: {cause}", marker.display()))?;
        Ok(venv)
    }

    /// Prepares the virtual environment for a release of the official Python SDK, in a subdirectory
    /// of `home`.
    pub(crate) fn with_sdk(python: &str, home: &Path, release: &str) -> Result<Self, String> {
        let package = format!("tinker=={release}");
        let description = format!("tinker {release}");
        Self::prepare(python, home.join(release), &description, &[&package])
    }

    /// Returns the path of the Python interpreter of this environment.
    pub(crate) fn python(&self) -> PathBuf {
        self.program("python")
    }

    /// Returns the path of the program `name` that is installed in this environment.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        if cfg!(windows) {
            return self.directory.join("Scripts").join(format!("{name}.exe"));
        }
        self.directory.join("bin").join(name)
    }

    /// Returns the path of the directory with the programs that are installed in this environment.
    pub(crate) fn programs(&self) -> PathBuf {
        let python = self.python();
        python.parent().unwrap_or(&python).to_path_buf()
    }

    /// Returns the Python version, followed by the installed packages in alphabetical order in the
    /// form `NAME==VERSION`.
    pub(crate) fn installed(&self) -> Result<Vec<String>, String> {
        let version = stdout_of(Command::new(self.python()).arg("--version"))?;
        let packages = stdout_of(self.pip("freeze").arg("--all"))?;
        let lines = version.lines().chain(packages.lines());
        Ok(lines.map(|line| line.trim().to_owned()).collect())
    }

    /// Returns the size of the environment on disk, in MiB.
    pub(crate) fn size(&self) -> u64 {
        directory_size(&self.directory) >> 20
    }

    fn pip(&self, command: &str) -> Command {
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", command, "--disable-pip-version-check"]);
        pip
    }
}

/// Waits until this process can lock a file. Dropping the returned file releases the lock.
fn lock(path: &Path) -> Result<File, String> {
    let open = || {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        let file = File::create(path)?;
        file.lock().map(|()| file)
    };
    open().map_err(|cause| format!("cannot lock {}: {cause}", path.display()))
}

/// Returns the total size of the files in a directory, in bytes. Does not follow links, and ignores
/// unreadable files.
fn directory_size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Runs a command. If the command fails, the returned error contains its stderr.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    stdout_of(command).map(|_| ())
}

/// Runs a command and returns its stdout. If the command fails, the returned error contains its
/// stderr.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| format!("cannot run {command:?}: {cause}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} failed: {}\n{stderr}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_a_failed_command_contains_its_stderr() {
        let mut rustc = Command::new("rustc");
        let error = run(rustc.arg("--no-such-flag")).unwrap_err();
        assert!(error.contains("no-such-flag"), "{error}");
    }

    #[test]
    fn file_lock_is_exclusive_until_it_is_dropped() {
        let path = std::env::temp_dir().join(format!("tinkers-xtask-{}.lock", std::process::id()));
        let first = lock(&path).unwrap();
        let second = File::open(&path).unwrap();
        assert!(second.try_lock().is_err());
        drop(first);
        assert!(second.try_lock().is_ok());
    }

    #[test]
    fn python_search_returns_none_if_the_version_is_missing() {
        assert_eq!(python(99, 0..=4), None);
        assert_eq!(python(3, 0..=1), None);
    }

    #[test]
    fn directory_size_includes_subdirectories() {
        let home = std::env::temp_dir().join(format!("tinkers-xtask-size-{}", std::process::id()));
        std::fs::create_dir_all(home.join("inner")).unwrap();
        std::fs::write(home.join("one"), [0; 10]).unwrap();
        std::fs::write(home.join("inner").join("two"), [0; 5]).unwrap();
        assert_eq!(directory_size(&home), 15);
        assert_eq!(directory_size(&home.join("nothing")), 0);
    }
}
