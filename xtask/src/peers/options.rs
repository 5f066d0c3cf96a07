//! What `cargo xtask peers` was asked for.

use super::peer::Peer;

/// The arguments, read.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) server: Server,
    /// Whether the server stays up behind the command, until the input ends.
    pub(crate) keeps: bool,
    /// The port; any free one where there is none.
    pub(crate) port: Option<u16>,
    pub(crate) against: Against,
}

/// The server that is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Server {
    /// One from elsewhere, installed here.
    Foreign(Peer),
    /// `tinkers serve`.
    Local,
}

/// What is run against the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Against {
    /// The conformance suite.
    Suite,
    /// The checks under this release of the official Python SDK.
    Sdk(String),
    /// A command with `{url}`, `{key}` and `{model}` in it.
    Command(Vec<String>),
}

const USAGE: &str =
    "usage: cargo xtask peers tuft|skyrl|local [--keep] [--port P] [--sdk RELEASE | -- COMMAND...]
In COMMAND {url}, {key} and {model} are replaced. Without one it is the conformance suite.
With --keep the server stays up behind the command until the input ends (Ctrl-D) or Ctrl-C.";

impl Options {
    pub(crate) fn read(arguments: &[String]) -> Result<Self, String> {
        let fault = |what: String| format!("{what}\n{USAGE}");
        let mut words = arguments.iter();
        let name = words
            .next()
            .ok_or_else(|| fault("which server?".to_owned()))?;
        let server = Server::named(name).ok_or_else(|| fault(format!("no server `{name}`")))?;
        let mut options = Self {
            server,
            keeps: false,
            port: None,
            against: Against::Suite,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--keep" => options.keeps = true,
                "--port" => options.port = Some(port(words.next()).map_err(fault)?),
                "--sdk" => options.against = Against::Sdk(release(words.next()).map_err(fault)?),
                "--" if options.against != Against::Suite => {
                    return Err(fault("--sdk and a command exclude each other".to_owned()));
                }
                "--" => {
                    options.against = Against::Command(words.cloned().collect());
                    break;
                }
                other => return Err(fault(format!("unexpected `{other}`"))),
            }
        }
        if options.against == Against::Command(Vec::new()) {
            return Err(fault("no command behind --".to_owned()));
        }
        Ok(options)
    }
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Foreign(peer) => peer.name(),
            Self::Local => "local",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [
            Self::Foreign(Peer::Tuft),
            Self::Foreign(Peer::Skyrl),
            Self::Local,
        ]
        .into_iter()
        .find(|server| server.name() == name)
    }
}

fn port(word: Option<&String>) -> Result<u16, String> {
    let word = word.ok_or("--port takes a number")?;
    match word.parse() {
        Ok(0) | Err(_) => Err(format!(
            "--port takes a number from 1 to 65535, found `{word}`"
        )),
        Ok(port) => Ok(port),
    }
}

/// A release becomes part of a path and of what pip is asked for, so it is a version and nothing else.
fn release(word: Option<&String>) -> Result<String, String> {
    let word = word.ok_or("--sdk takes a release of the package tinker, as 0.38.0")?;
    let is_version = word.split('.').count() > 1
        && word
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    is_version
        .then(|| word.clone())
        .ok_or_else(|| format!("--sdk takes a release as 0.38.0, found `{word}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::read(&words)
    }

    #[test]
    fn all_forms_are_read() {
        let plain = read("tuft").unwrap();
        assert_eq!(
            (plain.keeps, plain.port, plain.against),
            (false, None, Against::Suite)
        );
        let sdk = read("local --sdk 0.24.1 --keep").unwrap();
        assert_eq!((sdk.server, sdk.keeps), (Server::Local, true));
        assert_eq!(sdk.against, Against::Sdk("0.24.1".to_owned()));
        let command = read("skyrl --port 81 -- echo {url} --keep").unwrap();
        assert_eq!((command.keeps, command.port), (false, Some(81)));
        let words = ["echo", "{url}", "--keep"].map(str::to_owned).to_vec();
        assert_eq!(command.against, Against::Command(words));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (line, named) in [
            ("", "which server"),
            ("nobody", "nobody"),
            ("tuft --port", "--port"),
            ("tuft --port 0", "`0`"),
            ("tuft --port http", "http"),
            ("tuft --sdk", "--sdk"),
            ("tuft --sdk ../x", "../x"),
            ("tuft --sdk 1", "`1`"),
            ("tuft --sdk 0.25.0 -- true", "exclude"),
            ("tuft --", "no command"),
            ("tuft --fast", "--fast"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(named), "`{line}`: {said}");
        }
    }
}
