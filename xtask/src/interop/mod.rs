//! `cargo xtask interop`: clients that nobody here wrote, the official Python SDK in two releases, drive our server.

mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) use server::Server;

use crate::venv::{self, Venv};
use crate::{machine, metadata, no_arguments, out};

/// The releases: the newest one, and the last that speaks JSON both ways.
const RELEASES: &[&str] = &["0.38.0", "0.24.1"];

/// The built-in model of `tinkers serve`.
pub(crate) const MODEL: &str = "tinkers/tiny";

/// The key that the server is started with and that the driver sends.
const KEY: &str = "tml-interop";

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    no_arguments(arguments)?;
    let Some(python) = venv::python(3, 10) else {
        return without_python(machine::is_ci());
    };
    let target = metadata::workspace()?.target;
    let home = target.join("interop");
    let program = build(&target)?;
    for release in RELEASES {
        let venv = Venv::of_sdk(&python, &home, release)?;
        drive(&program, &home, release, &venv)?;
    }
    out::line(&format!(
        "interop: tinker {} passed",
        RELEASES.join(" and ")
    ));
    Ok(())
}

/// A user without Python is told; a CI without it has not checked what it is there to check.
fn without_python(is_ci: bool) -> Result<(), String> {
    let loud = "INTEROP NOT RUN: there is no python3 with venv on this machine";
    if is_ci {
        return Err(loud.to_owned());
    }
    out::line(loud);
    Ok(())
}

/// Builds the program that serves, and says where it is.
pub(crate) fn build(target: &Path) -> Result<PathBuf, String> {
    let status = machine::cargo(&["build", "--release", "--package", "tinkers-cli"])
        .status()
        .map_err(|cause| format!("cargo could not be started: {cause}"))?;
    status
        .success()
        .then(|| {
            let name = format!("tinkers{}", std::env::consts::EXE_SUFFIX);
            target.join("release").join(name)
        })
        .ok_or_else(|| "tinkers-cli does not build".to_owned())
}

/// One server, one release, one run of the driver; the server ends with this call whatever happens.
fn drive(program: &Path, home: &Path, release: &str, venv: &Venv) -> Result<(), String> {
    let mut server = Server::start(program, home, release, 0, KEY)?;
    out::line(&format!("tinker {release} against {}", server.url()));
    let status = sdk(venv, "drive.py", server.url(), KEY)
        .status()
        .map_err(|cause| format!("the driver could not be started: {cause}"))?;
    let is_up = server.is_up();
    drop(server);
    if status.success() && is_up {
        return Ok(());
    }
    let log = std::fs::read_to_string(server::log(home, release)).unwrap_or_default();
    let end = if is_up {
        format!("the driver ended with {status}")
    } else {
        "the server died".to_owned()
    };
    Err(format!("tinker {release}: {end}; the server said:\n{log}"))
}

/// A script of ours under the SDK in `venv`, pointed at a server; it waits for no input.
pub(crate) fn sdk(venv: &Venv, script: &str, url: &str, key: &str) -> Command {
    let mut command = Command::new(venv.python());
    command
        .arg("-u")
        .arg(machine::root().join("interop").join(script))
        // Neither the user's own settings nor a proxy may come between the driver and loopback.
        .env_clear()
        .envs(machine::variables(&["PATH", "HOME", "TMPDIR"]))
        .env("TINKER_BASE_URL", url)
        .env("TINKER_API_KEY", key)
        .env("TINKER_TELEMETRY", "0")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_python_fails_in_ci_and_not_for_a_user() {
        assert!(without_python(true).is_err());
        assert!(without_python(false).is_ok());
    }
}
