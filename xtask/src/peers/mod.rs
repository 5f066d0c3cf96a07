//! `cargo xtask peers`: another open server of the protocol, installed and run here, and a command against it.

mod held;
mod options;
mod peer;

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use held::Held;
use options::{Against, Options, Server};
use peer::{KEY, Peer};

use crate::interop;
use crate::venv::{self, Venv};
use crate::{machine, metadata, out};

/// The package that holds the conformance suite.
const SUITE: &str = "tinkers-conformance";

/// What a client has to know of a server.
#[derive(Debug)]
struct Address {
    url: String,
    model: &'static str,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::read(arguments)?;
    let workspace = metadata::workspace()?;
    if options.against == Against::Suite && !workspace.packages.iter().any(|one| one.name == SUITE)
    {
        return Err(format!(
            "the package {SUITE} is not there; give a command behind --"
        ));
    }
    let home = workspace.target.join("peers").join(options.server.name());
    std::fs::create_dir_all(&home)
        .map_err(|cause| format!("{} cannot be made: {cause}", home.display()))?;
    let python = venv::python(3, 11).ok_or(
        "Python 3.11 or newer, with venv and ensurepip, is required; found none as python3 or python3.11 to python3.15",
    )?;
    let command = against(&options, &python, &workspace.target)?;
    match options.server {
        Server::Local => with_local(&options, &workspace.target, &home, command),
        Server::Foreign(peer) => with_foreign(&options, peer, &python, &home, command),
    }
}

/// A command that is told the address when there is one.
type Client = Box<dyn FnOnce(&Address) -> Command>;

/// The command, with everything that it needs installed before a server is started.
fn against(options: &Options, python: &str, target: &Path) -> Result<Client, String> {
    Ok(match &options.against {
        Against::Suite => {
            let mock = match options.server {
                Server::Foreign(peer) => peer.mock(),
                Server::Local => &[],
            };
            Box::new(move |address| {
                let (url, model) = (address.url.as_str(), address.model);
                let mut command = machine::cargo(&[
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
                command.args(mock);
                command
            })
        }
        Against::Sdk(release) => {
            // The interop check keeps its environments in the same place.
            let venv = Venv::of_sdk(python, &target.join("interop"), release)?;
            Box::new(move |address| {
                let mut command = interop::sdk(&venv, "peers/checks.py", &address.url, KEY);
                command.env("PEER_MODEL", address.model);
                command
            })
        }
        Against::Command(words) => {
            let words = words.clone();
            Box::new(move |address| {
                let mut words = words.iter().map(|word| filled(word, address));
                let mut command = Command::new(words.next().unwrap_or_default());
                command.args(words).current_dir(machine::root());
                command
            })
        }
    })
}

fn filled(word: &str, address: &Address) -> String {
    word.replace("{url}", &address.url)
        .replace("{key}", KEY)
        .replace("{model}", address.model)
}

fn with_local(options: &Options, target: &Path, home: &Path, client: Client) -> Result<(), String> {
    let program = interop::build(target)?;
    let server = interop::Server::start(&program, home, "local", options.port.unwrap_or(0), KEY)?;
    let address = Address {
        url: server.url().to_owned(),
        model: interop::MODEL,
    };
    drive(options, &address, client)
}

fn with_foreign(
    options: &Options,
    peer: Peer,
    python: &str,
    home: &Path,
    client: Client,
) -> Result<(), String> {
    let venv = install(peer, python, home)?;
    let _alone = alone(home)?;
    empty(&home.join("state"))?;
    let model = home.join(peer::MODEL);
    venv::run(
        Command::new(venv.python())
            .arg(peer::scripts().join("model.py"))
            .arg(&model),
    )?;
    std::fs::write(home.join("config.yaml"), peer::configuration())
        .map_err(|cause| format!("the configuration cannot be written: {cause}"))?;
    let port = options.port.map_or_else(free_port, Ok)?;
    let address = Address {
        url: format!("http://127.0.0.1:{port}"),
        model: peer::MODEL,
    };
    let start = peer.start(&venv, home, port);
    let mut held = Held::start(&venv, peer, home, &address.url, &start)?;
    let driven = drive(options, &address, client);
    if held.is_up() {
        return driven;
    }
    Err(format!(
        "{} died; its log ends with:\n{}",
        peer.name(),
        held.tail()
    ))
}

/// The peer's environment, made where it is not there yet, and a list of what is in it.
fn install(peer: Peer, python: &str, home: &Path) -> Result<Venv, String> {
    let file = peer.requirements();
    let text = std::fs::read_to_string(&file)
        .map_err(|cause| format!("{} cannot be read: {cause}", file.display()))?;
    let packages = text.lines().filter(|line| !line.starts_with('#'));
    let arguments: Vec<&str> = std::iter::once("--no-deps").chain(packages).collect();
    let venv = Venv::prepare(python, home.join("venv"), peer.name(), &arguments)?;
    let installed = venv.installed()?.join(", ");
    out::line(&format!(
        "{} with {installed}: {} MiB",
        peer.name(),
        venv.size()
    ));
    Ok(venv)
}

/// The directory for this run alone: two servers in it would write over each other.
fn alone(home: &Path) -> Result<File, String> {
    let open = || {
        let file = File::create(home.join("lock"))?;
        file.try_lock().map(|()| file).map_err(std::io::Error::from)
    };
    open().map_err(|cause| format!("{} is in use by another run: {cause}", home.display()))
}

fn empty(directory: &Path) -> Result<(), String> {
    let emptied = if directory.exists() {
        std::fs::remove_dir_all(directory)
    } else {
        Ok(())
    };
    emptied
        .and_then(|()| std::fs::create_dir_all(directory))
        .map_err(|cause| format!("{} cannot be emptied: {cause}", directory.display()))
}

/// A port that nobody listens on now. Somebody may take it before the server does, which then says so.
fn free_port() -> Result<u16, String> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|cause| format!("there is no free port: {cause}"))
}

/// Runs the command against a server that is up.
fn drive(options: &Options, address: &Address, client: Client) -> Result<(), String> {
    out::line(&format!(
        "{} listens on {} with the model {} and the key {KEY}",
        options.server.name(),
        address.url,
        address.model
    ));
    let mut command = client(address);
    let status = command
        .status()
        .map_err(|cause| format!("{command:?} could not be started: {cause}"))?;
    if options.keeps {
        out::line("the server stays up until the input ends (Ctrl-D)");
        // An input that cannot be read has ended.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("the command ended with {status}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_the_address_in_every_word() {
        let options = Options {
            server: Server::Local,
            keeps: false,
            port: None,
            against: Against::Command(
                ["probe", "--at={url}/x", "{key}{model}", "{other}"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        };
        let client = against(&options, "python3", Path::new("target")).unwrap();
        let address = Address {
            url: "http://127.0.0.1:1".to_owned(),
            model: "m",
        };
        let command = client(&address);
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["--at=http://127.0.0.1:1/x", "tml-peerm", "{other}"]);
    }

    #[test]
    fn a_directory_is_had_by_one_run_at_a_time() {
        let home = std::env::temp_dir().join(format!("tinkers-xtask-alone-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let one = alone(&home).unwrap();
        assert!(alone(&home).unwrap_err().contains("in use"));
        drop(one);
        assert!(alone(&home).is_ok());
    }

    #[test]
    fn a_command_that_fails_is_a_failure() {
        let options = Options::read(&["local".to_owned()]).unwrap();
        let address = Address {
            url: String::new(),
            model: "m",
        };
        let said = drive(
            &options,
            &address,
            Box::new(|_| machine::cargo(&["no-such-command"])),
        );
        assert!(said.unwrap_err().contains("ended with"));
    }
}
