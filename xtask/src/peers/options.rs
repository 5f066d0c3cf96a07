//! Parses the options of `cargo xtask peers`.

use super::peer::Peer;

/// The parsed arguments of `cargo xtask peers`: the server, and the client that runs against it.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) server: Server,
    /// Whether the server keeps running after the client has ended, until the end of stdin
    /// (`--keep`).
    pub(crate) keep: bool,
    /// The port of the server. `None` to use a free port.
    pub(crate) port: Option<u16>,
    pub(crate) client: ClientKind,
}

/// The server against which the client runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Server {
    /// Another implementation of the Tinker API. The command installs it first.
    Other(Peer),
    /// The embedded server of this workspace, run as `tinkers serve`.
    Local,
}

/// The client that runs against the server.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientKind {
    /// The conformance suite of this workspace.
    Suite,
    /// The test script for the official Python SDK, with the given release of the SDK.
    Sdk(String),
    /// A command of the user, with its arguments. The arguments may contain the placeholders
    /// `{url}`, `{key}` and `{model}`.
    Command(Vec<String>),
}

const USAGE: &str =
    "usage: cargo xtask peers tuft|skyrl|hatchery|twinkle|local [--keep] [--port P] [--sdk RELEASE | -- COMMAND...]
{url}, {key} and {model} are replaced in COMMAND, which defaults to the conformance suite.
With --keep, the server keeps running after the command until stdin ends (Ctrl-D) or Ctrl-C.";

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let usage_error = |message: String| format!("{message}\n{USAGE}");
        let mut words = arguments.iter();
        let name = words
            .next()
            .ok_or_else(|| usage_error("missing server".to_owned()))?;
        let server = Server::from_name(name)
            .ok_or_else(|| usage_error(format!("unknown server `{name}`")))?;
        let mut options = Self {
            server,
            keep: false,
            port: None,
            client: ClientKind::Suite,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--keep" => options.keep = true,
                "--port" => options.port = Some(port(words.next()).map_err(usage_error)?),
                "--sdk" => {
                    options.client = ClientKind::Sdk(release(words.next()).map_err(usage_error)?)
                }
                "--" if options.client != ClientKind::Suite => {
                    return Err(usage_error(
                        "--sdk cannot be used with a command".to_owned(),
                    ));
                }
                "--" => {
                    options.client = ClientKind::Command(words.cloned().collect());
                    break;
                }
                other => return Err(usage_error(format!("unknown option `{other}`"))),
            }
        }
        if options.client == ClientKind::Command(Vec::new()) {
            return Err(usage_error("missing command after --".to_owned()));
        }
        Ok(options)
    }
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Other(peer) => peer.name(),
            Self::Local => "local",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let others = Peer::ALL.into_iter().map(Self::Other);
        others
            .chain([Self::Local])
            .find(|server| server.name() == name)
    }
}

fn port(word: Option<&String>) -> Result<u16, String> {
    let word = word.ok_or("--port requires a number")?;
    match word.parse() {
        Ok(0) | Err(_) => Err(format!(
            "--port: expected a number from 1 to 65535, got `{word}`"
        )),
        Ok(port) => Ok(port),
    }
}

/// Parses the release of the official Python SDK. The release becomes part of a path and of a pip
/// requirement, so it must be a plain version number.
fn release(word: Option<&String>) -> Result<String, String> {
    let word = word.ok_or("--sdk requires a release of the package tinker, such as 0.38.0")?;
    let is_version = word.split('.').count() > 1
        && word
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    is_version
        .then(|| word.clone())
        .ok_or_else(|| format!("--sdk: expected a release such as 0.38.0, got `{word}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn all_peers_options_are_parsed() {
        let plain = parse("tuft").unwrap();
        assert_eq!(
            (plain.keep, plain.port, plain.client),
            (false, None, ClientKind::Suite)
        );
        let sdk = parse("local --sdk 0.24.1 --keep").unwrap();
        assert_eq!((sdk.server, sdk.keep), (Server::Local, true));
        assert_eq!(sdk.client, ClientKind::Sdk("0.24.1".to_owned()));
        let command = parse("skyrl --port 81 -- echo {url} --keep").unwrap();
        assert_eq!((command.keep, command.port), (false, Some(81)));
        for peer in Peer::ALL {
            assert_eq!(parse(peer.name()).unwrap().server, Server::Other(peer));
        }
        let words = ["echo", "{url}", "--keep"].map(str::to_owned).to_vec();
        assert_eq!(command.client, ClientKind::Command(words));
    }

    #[test]
    fn invalid_peers_arguments_are_named_in_the_error() {
        for (line, message) in [
            ("", "missing server"),
            ("other", "other"),
            ("tuft --port", "--port"),
            ("tuft --port 0", "`0`"),
            ("tuft --port http", "http"),
            ("tuft --sdk", "--sdk"),
            ("tuft --sdk ../x", "../x"),
            ("tuft --sdk 1", "`1`"),
            ("tuft --sdk 0.25.0 -- true", "cannot be used"),
            ("tuft --", "missing command"),
            ("tuft --fast", "--fast"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(message), "`{line}`: {error}");
        }
    }
}
