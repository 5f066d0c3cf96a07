//! `cargo xtask interop`: tests the embedded server with two releases of the official Python SDK.

mod server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) use server::Server;

use crate::venv::{self, Venv};
use crate::{environment, metadata, no_arguments, out};

/// The releases of the official Python SDK to test: the latest release, and the last release that
/// sends and receives only JSON.
const RELEASES: &[&str] = &["0.38.0", "0.24.1"];

/// The name of the built-in model of `tinkers serve`.
pub(crate) const MODEL: &str = "tinkers/tiny";

/// The API key that the server requires.
const KEY: &str = "tml-interop";

/// A test script, and the options of the new server that it runs against.
#[derive(Debug)]
struct Test {
    script: &'static str,
    server_options: &'static [&'static str],
}

/// The test scripts, which run one after the other.
const TESTS: &[Test] = &[
    Test {
        script: "drive.py",
        server_options: &[],
    },
    // The SDK reads whose key it uses from the token that it gets in exchange for the key.
    Test {
        script: "manage.py",
        server_options: &["--token-exchange", "3600"],
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    no_arguments(arguments)?;
    let Some(python) = venv::python(3, 10..=15) else {
        return skip_without_python(environment::is_ci());
    };
    let target = metadata::workspace()?.target;
    let home = target.join("interop");
    let program = build(&target)?;
    for release in RELEASES {
        let venv = Venv::with_sdk(&python, &home, release)?;
        if *release == RELEASES[0] {
            let printed = venv::stdout_of(&mut python_script(&venv, "surface.py"))?;
            check_surface(
                release,
                &printed,
                include_str!("../../../interop/surface.txt"),
            )?;
        }
        for test in TESTS {
            test.run(&program, &home, release, &venv)?;
        }
    }
    out::line(&format!(
        "interop: tinker {} passed",
        RELEASES.join(" and ")
    ));
    Ok(())
}

/// Reports that the tests are skipped because Python is missing. This is an error only in CI.
fn skip_without_python(is_ci: bool) -> Result<(), String> {
    let message = "INTEROP NOT RUN: python3 with venv is not installed";
    if is_ci {
        return Err(message.to_owned());
    }
    out::line(message);
    Ok(())
}

/// Builds the program `tinkers` and returns its path.
pub(crate) fn build(target: &Path) -> Result<PathBuf, String> {
    let status = environment::cargo(&["build", "--release", "--package", "tinkers-cli"])
        .status()
        .map_err(|cause| format!("cannot run cargo: {cause}"))?;
    status
        .success()
        .then(|| {
            let name = format!("tinkers{}", std::env::consts::EXE_SUFFIX);
            target.join("release").join(name)
        })
        .ok_or_else(|| "cannot build tinkers-cli".to_owned())
}

impl Test {
    /// Starts a server, and runs the script with one release of the official Python SDK against it.
    fn run(&self, program: &Path, home: &Path, release: &str, venv: &Venv) -> Result<(), String> {
        let Self {
            script,
            server_options,
        } = self;
        let name = format!("{release}-{}", script.trim_end_matches(".py"));
        let mut server = Server::start(program, home, &name, 0, KEY, server_options)?;
        out::line(&format!(
            "{script}: tinker {release} against {}",
            server.url()
        ));
        let status = sdk(venv, script, server.url(), KEY)
            .status()
            .map_err(|cause| format!("cannot run {script}: {cause}"))?;
        let is_up = server.is_up();
        drop(server);
        if status.success() && is_up {
            return Ok(());
        }
        let log = std::fs::read_to_string(server::log(home, &name)).unwrap_or_default();
        let failure = if is_up {
            format!("{script} failed: {status}")
        } else {
            "the server crashed".to_owned()
        };
        Err(format!(
            "tinker {release}: {failure}; log of the server:\n{log}"
        ))
    }
}

/// Checks that the names in the latest release of the official Python SDK are those in
/// interop/surface.txt, for which docs/parity.md has rows.
fn check_surface(release: &str, printed: &str, committed: &str) -> Result<(), String> {
    let lines = |text: &str| {
        text.lines()
            .map(str::to_owned)
            .collect::<BTreeSet<String>>()
    };
    let (printed, committed) = (lines(printed), lines(committed));
    let [added, removed] = [&printed - &committed, &committed - &printed];
    if added.is_empty() && removed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "interop/surface.txt is not the list of tinker {release}: missing {added:?}, unknown {removed:?}; \
         run interop/surface.py with that release and write its output to the file"
    ))
}

/// Returns a command that runs a script in the directory `interop` with the interpreter of `venv`.
fn python_script(venv: &Venv, script: &str) -> Command {
    let mut command = Command::new(venv.python());
    command
        .arg("-u")
        .arg(environment::root().join("interop").join(script))
        // The settings and proxies of the user must not affect the script.
        .env_clear()
        .envs(environment::variables(&["PATH", "HOME", "TMPDIR"]))
        .stdin(Stdio::null());
    command
}

/// Returns a command that runs a Python script against the server at `url`. The script uses the
/// official Python SDK that is installed in `venv`.
pub(crate) fn sdk(venv: &Venv, script: &str, url: &str, key: &str) -> Command {
    let mut command = python_script(venv, script);
    command
        .env("TINKER_BASE_URL", url)
        .env("TINKER_API_KEY", key)
        .env("TINKER_TELEMETRY", "0")
        .env("NO_PROXY", "127.0.0.1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_between_sdk_and_committed_names_is_an_error() {
        assert_eq!(check_surface("1", "A\nB\n", "A\nB\n"), Ok(()));
        let error = check_surface("1", "A\nB\n", "A\nC\n").unwrap_err();
        assert!(
            error.contains("missing {\"B\"}, unknown {\"C\"}"),
            "{error}"
        );
    }

    #[test]
    fn missing_python_is_an_error_only_in_ci() {
        assert!(skip_without_python(true).is_err());
        assert!(skip_without_python(false).is_ok());
    }
}
