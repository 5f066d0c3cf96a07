//! Virtual environments of Python, made once and kept under the build directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::out;

/// A virtual environment with what was asked for in it.
#[derive(Debug)]
pub(crate) struct Venv {
    directory: PathBuf,
}

/// The first interpreter on the path that can make virtual environments and is of at least this version.
pub(crate) fn python(major: u32, minor: u32) -> Option<String> {
    let later = (minor..=minor + 4)
        .rev()
        .map(|minor| format!("python{major}.{minor}"));
    let names = std::iter::once("python3".to_owned()).chain(later);
    let asked =
        format!("import sys, venv, ensurepip; sys.exit(sys.version_info < ({major}, {minor}))");
    names.into_iter().find(|name| {
        let mut python = Command::new(name);
        python.args(["-c", &asked]).stdin(Stdio::null());
        python.stdout(Stdio::null()).stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    })
}

impl Venv {
    /// The environment in `directory` with what `pip install` makes of `packages`, made now unless a whole one with the
    /// same packages is there already. `what` names it to the user.
    pub(crate) fn prepare(
        python: &str,
        directory: PathBuf,
        what: &str,
        packages: &[&str],
    ) -> Result<Self, String> {
        let _turn = locked(&directory.with_added_extension("lock"))?;
        let venv = Self { directory };
        let mark = venv.directory.join("whole");
        let content = packages.join("\n");
        if std::fs::read_to_string(&mark).is_ok_and(|found| found == content) {
            return Ok(venv);
        }
        out::line(&format!("installing {what}"));
        let directory = venv.directory.to_string_lossy().into_owned();
        run(Command::new(python).args(["-m", "venv", "--clear", &directory]))?;
        run(venv
            .pip("install")
            .args(["--quiet", "--no-input"])
            .args(packages))?;
        std::fs::write(&mark, content)
            .map_err(|cause| format!("{} cannot be written: {cause}", mark.display()))?;
        Ok(venv)
    }

    /// The environment for one release of the official Python SDK below `home`.
    pub(crate) fn of_sdk(python: &str, home: &Path, release: &str) -> Result<Self, String> {
        let package = format!("tinker=={release}");
        let what = format!("tinker {release}");
        Self::prepare(python, home.join(release), &what, &[&package])
    }

    /// Its interpreter.
    pub(crate) fn python(&self) -> PathBuf {
        self.program("python")
    }

    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        if cfg!(windows) {
            return self.directory.join("Scripts").join(format!("{name}.exe"));
        }
        self.directory.join("bin").join(name)
    }

    /// Where its programs are.
    pub(crate) fn programs(&self) -> PathBuf {
        let python = self.python();
        python.parent().unwrap_or(&python).to_path_buf()
    }

    /// What is installed, as `NAME==VERSION` in the order of the alphabet, behind the version of Python.
    pub(crate) fn installed(&self) -> Result<Vec<String>, String> {
        let version = said(Command::new(self.python()).arg("--version"))?;
        let packages = said(self.pip("freeze").arg("--all"))?;
        let lines = version.lines().chain(packages.lines());
        Ok(lines.map(|line| line.trim().to_owned()).collect())
    }

    /// What its files take on disk, in MiB.
    pub(crate) fn size(&self) -> u64 {
        bytes_below(&self.directory) >> 20
    }

    fn pip(&self, command: &str) -> Command {
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", command, "--disable-pip-version-check"]);
        pip
    }
}

/// Waits for its turn at what `path` stands for; another run may be making it. The turn ends with the file.
fn locked(path: &Path) -> Result<File, String> {
    let open = || {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        let file = File::create(path)?;
        file.lock().map(|()| file)
    };
    open().map_err(|cause| format!("{} cannot be locked: {cause}", path.display()))
}

/// The bytes in the files below a directory; links are not followed, and what cannot be read counts as nothing.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    said(command).map(|_| ())
}

/// Runs a command to its end; what it said on standard output.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| format!("{command:?} could not be started: {cause}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}\n{said}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_an_error_with_what_it_said() {
        let mut rustc = Command::new("rustc");
        let said = run(rustc.arg("--no-such-flag")).unwrap_err();
        assert!(said.contains("no-such-flag"), "{said}");
    }

    #[test]
    fn a_second_turn_waits_for_the_first_to_end() {
        let path = std::env::temp_dir().join(format!("tinkers-xtask-{}.lock", std::process::id()));
        let first = locked(&path).unwrap();
        let another = File::open(&path).unwrap();
        assert!(another.try_lock().is_err());
        drop(first);
        assert!(another.try_lock().is_ok());
    }

    #[test]
    fn there_is_no_python_of_the_next_age() {
        assert_eq!(python(99, 0), None);
    }

    #[test]
    fn the_size_counts_files_in_directories_below() {
        let home = std::env::temp_dir().join(format!("tinkers-xtask-size-{}", std::process::id()));
        std::fs::create_dir_all(home.join("inner")).unwrap();
        std::fs::write(home.join("one"), [0; 10]).unwrap();
        std::fs::write(home.join("inner").join("two"), [0; 5]).unwrap();
        assert_eq!(bytes_below(&home), 15);
        assert_eq!(bytes_below(&home.join("nothing")), 0);
    }
}
