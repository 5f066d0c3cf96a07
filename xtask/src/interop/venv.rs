//! Virtual environments of Python, one per release of the SDK, made once and kept under the build directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::out;

/// A virtual environment with one release of the SDK in it.
#[derive(Debug)]
pub(crate) struct Venv {
    directory: PathBuf,
    release: String,
}

/// Whether there is a python3 that can make virtual environments.
pub(crate) fn has_python() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null());
    python.stdout(Stdio::null()).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

impl Venv {
    /// The environment for `release` below `home`, made now unless a whole one is there already.
    pub(crate) fn prepare(home: &Path, release: &str) -> Result<Self, String> {
        let venv = Self {
            directory: home.join(release),
            release: release.to_owned(),
        };
        let mark = venv.directory.join("whole");
        if mark.exists() {
            return Ok(venv);
        }
        out::line(&format!("interop: installing tinker {release}"));
        let directory = venv.directory.to_string_lossy().into_owned();
        run(Command::new("python3").args(["-m", "venv", "--clear", &directory]))?;
        let package = format!("tinker=={release}");
        run(Command::new(venv.python())
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-input",
            ])
            .arg(package))?;
        std::fs::write(&mark, "installed to the end\n")
            .map_err(|cause| format!("{} cannot be written: {cause}", mark.display()))?;
        Ok(venv)
    }

    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// Its interpreter.
    pub(crate) fn python(&self) -> PathBuf {
        if cfg!(windows) {
            return self.directory.join("Scripts").join("python.exe");
        }
        self.directory.join("bin").join("python")
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| format!("{command:?} could not be started: {cause}"))?;
    if output.status.success() {
        return Ok(());
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
}
