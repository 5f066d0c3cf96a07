//! `cargo xtask peers`: installs and starts another open-source server of the Tinker API, and runs
//! a client against it.

mod options;
mod peer;
mod process;

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use options::{ClientKind, Options, Server};
use peer::{KEY, Peer};
use process::PeerProcess;

use crate::interop;
use crate::venv::{self, Venv};
use crate::{environment, metadata, out};

/// The package that contains the conformance suite.
const SUITE: &str = "tinkers-conformance";

/// The URL of a running server, and the name of the model that it offers.
#[derive(Debug)]
struct Address {
    url: String,
    model: &'static str,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let workspace = metadata::workspace()?;
    if options.client == ClientKind::Suite
        && !workspace
            .packages
            .iter()
            .any(|package| package.name == SUITE)
    {
        return Err(format!(
            "the package {SUITE} does not exist: pass a command after --"
        ));
    }
    let home = workspace.target.join("peers").join(options.server.name());
    std::fs::create_dir_all(&home)
        .map_err(|cause| format!("cannot create {}: {cause}", home.display()))?;
    let versions = match options.server {
        Server::Other(peer) => peer.python_versions(),
        Server::Local => 11..=15,
    };
    let python = venv::python(3, versions.clone()).ok_or_else(|| {
        let (least, most) = (versions.start(), versions.end());
        format!(
            "cannot find Python: install Python 3.{least} to 3.{most} with venv and ensurepip as python3 or python3.{least} to \
             python3.{most}"
        )
    })?;
    let client = client(&options, &python, &workspace.target)?;
    match options.server {
        Server::Local => with_local(&options, &workspace.target, &home, client),
        Server::Other(peer) => with_other(&options, peer, &python, &home, client),
    }
}

/// A function that returns the command that runs a client against the server at the given address.
type Client = Box<dyn FnOnce(&Address) -> Command>;

/// Installs the packages that the client needs, and returns a function that creates the command
/// that runs the client.
fn client(options: &Options, python: &str, target: &Path) -> Result<Client, String> {
    Ok(match &options.client {
        ClientKind::Suite => {
            let suite_options = match options.server {
                Server::Other(peer) => peer.suite_options(),
                Server::Local => &[],
            };
            Box::new(move |address| {
                let (url, model) = (address.url.as_str(), address.model);
                let mut command = environment::cargo(&[
                    "run",
                    "-q",
                    "-p",
                    SUITE,
                    "--",
                    "--base-url",
                    url,
                    "--api-key",
                    KEY,
                    "--model",
                    model,
                    "--profile",
                    "core",
                ]);
                command.args(suite_options);
                command
            })
        }
        ClientKind::Sdk(release) => {
            // `cargo xtask interop` uses the same virtual environments.
            let venv = Venv::with_sdk(python, &target.join("interop"), release)?;
            Box::new(move |address| {
                let mut command = interop::sdk(&venv, "peers/checks.py", &address.url, KEY);
                command.env("PEER_MODEL", address.model);
                command
            })
        }
        ClientKind::Command(words) => {
            let words = words.clone();
            Box::new(move |address| {
                let mut words = words.iter().map(|word| expand(word, address));
                let mut command = Command::new(words.next().unwrap_or_default());
                command.args(words).current_dir(environment::root());
                command
            })
        }
    })
}

fn expand(word: &str, address: &Address) -> String {
    word.replace("{url}", &address.url)
        .replace("{key}", KEY)
        .replace("{model}", address.model)
}

fn with_local(options: &Options, target: &Path, home: &Path, client: Client) -> Result<(), String> {
    let program = interop::build(target)?;
    let server =
        interop::Server::start(&program, home, "local", options.port.unwrap_or(0), KEY, &[])?;
    let address = Address {
        url: server.url().to_owned(),
        model: interop::MODEL,
    };
    run_client(options, &address, client)
}

fn with_other(
    options: &Options,
    peer: Peer,
    python: &str,
    home: &Path,
    client: Client,
) -> Result<(), String> {
    let venv = install(peer, python, home)?;
    let _lock = lock(home)?;
    clear(&home.join("state"))?;
    let model = home.join(peer::MODEL);
    venv::run(
        Command::new(venv.python())
            .arg(peer::scripts().join("model.py"))
            .arg(&model),
    )?;
    std::fs::write(home.join("config.yaml"), peer::configuration())
        .map_err(|cause| format!("cannot write the configuration: {cause}"))?;
    let port = options.port.map_or_else(free_port, Ok)?;
    let address = Address {
        url: format!("http://127.0.0.1:{port}"),
        model: peer::MODEL,
    };
    let start = peer.start_command(&venv, home, port);
    let mut process = PeerProcess::start(&venv, peer, home, &address.url, &start)?;
    let result = run_client(options, &address, client);
    if process.is_up() {
        return result;
    }
    Err(format!(
        "{} crashed; its log ends with:\n{}",
        peer.name(),
        process.log_tail()
    ))
}

/// Installs a server of the Tinker API in a Python virtual environment, unless it is already installed. Prints the installed packages,
/// and what of the server does not run on a CPU.
fn install(peer: Peer, python: &str, home: &Path) -> Result<Venv, String> {
    let file = peer.requirements();
    let text = std::fs::read_to_string(&file)
        .map_err(|cause| format!("cannot read {}: {cause}", file.display()))?;
    let packages = text.lines().filter(|line| !line.starts_with('#'));
    let arguments: Vec<&str> = std::iter::once("--no-deps").chain(packages).collect();
    let venv = Venv::prepare(python, home.join("venv"), peer.name(), &arguments)?;
    let installed = venv.installed()?.join(", ");
    out::line(&format!(
        "{} with {installed}: {} MiB",
        peer.name(),
        venv.size()
    ));
    if let Some(limitation) = peer.limitation() {
        out::line(limitation);
    }
    Ok(venv)
}

/// Locks a directory. Two servers that run in the same directory would overwrite each other's
/// files.
fn lock(home: &Path) -> Result<File, String> {
    let open = || {
        let file = File::create(home.join("lock"))?;
        file.try_lock().map(|()| file).map_err(std::io::Error::from)
    };
    open().map_err(|cause| format!("{} is in use by another run: {cause}", home.display()))
}

fn clear(directory: &Path) -> Result<(), String> {
    let removed = if directory.exists() {
        std::fs::remove_dir_all(directory)
    } else {
        Ok(())
    };
    removed
        .and_then(|()| std::fs::create_dir_all(directory))
        .map_err(|cause| format!("cannot clear {}: {cause}", directory.display()))
}

/// Returns a free port for the server. If another process takes the port before the server does,
/// the start of the server fails.
fn free_port() -> Result<u16, String> {
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
    address
        .map(|address| address.port())
        .map_err(|cause| format!("cannot find a free port: {cause}"))
}

/// Runs the client against a running server. Returns an error if the client fails.
fn run_client(options: &Options, address: &Address, client: Client) -> Result<(), String> {
    out::line(&format!(
        "{} listens on {} with the model {} and the API key {KEY}",
        options.server.name(),
        address.url,
        address.model
    ));
    let mut command = client(address);
    let status = command
        .status()
        .map_err(|cause| format!("cannot run {command:?}: {cause}"))?;
    if options.keep {
        out::line("the server keeps running until stdin ends (Ctrl-D)");
        // A read error also ends the wait.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("the command failed: {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_in_client_command_arguments_are_expanded() {
        let options = Options {
            server: Server::Local,
            keep: false,
            port: None,
            client: ClientKind::Command(
                ["probe", "--at={url}/x", "{key}{model}", "{other}"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        };
        let client = client(&options, "python3", Path::new("target")).unwrap();
        let address = Address {
            url: "http://127.0.0.1:1".to_owned(),
            model: "m",
        };
        let command = client(&address);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["--at=http://127.0.0.1:1/x", "tml-peerm", "{other}"]);
    }

    #[test]
    fn server_directory_is_locked_by_one_run_at_a_time() {
        let home = std::env::temp_dir().join(format!("tinkers-xtask-lock-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let first = lock(&home).unwrap();
        assert!(lock(&home).unwrap_err().contains("in use"));
        drop(first);
        assert!(lock(&home).is_ok());
    }

    #[test]
    fn failed_client_command_is_an_error() {
        let options = Options::parse(&["local".to_owned()]).unwrap();
        let address = Address {
            url: String::new(),
            model: "m",
        };
        let result = run_client(
            &options,
            &address,
            Box::new(|_| environment::cargo(&["no-such-command"])),
        );
        assert!(result.unwrap_err().contains("the command failed"));
    }
}
