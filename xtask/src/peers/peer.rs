//! The supported servers, and the way in which each is installed and started on a CPU.

use std::path::{Path, PathBuf};

use crate::environment;
use crate::venv::Venv;

/// The API key that clients send to TuFT and SkyRL. TuFT checks the key; SkyRL accepts any key.
pub(crate) const KEY: &str = "tml-peer";

/// The name of the model that TuFT and SkyRL offer. It is also the path of the model in the
/// server's directory.
pub(crate) const MODEL: &str = "tinkers/peer";

/// Another open-source server of the Tinker API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// TuFT with its mock trainer and sampler. It implements the complete protocol, but does not
    /// learn.
    Tuft,
    /// SkyRL with its JAX backend. It trains a small model.
    Skyrl,
}

/// The command line and the environment variables that start a server.
#[derive(Debug)]
pub(crate) struct StartCommand {
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tuft => "tuft",
            Self::Skyrl => "skyrl",
        }
    }

    /// Returns the options with which the conformance suite must run against this server. For TuFT,
    /// this is `--mock`, because TuFT has only a mock model on a CPU.
    pub(crate) fn suite_options(self) -> &'static [&'static str] {
        match self {
            Self::Tuft => &["--mock"],
            Self::Skyrl => &[],
        }
    }

    /// Returns the path of the pip requirements file that lists the packages of this server.
    pub(crate) fn requirements(self) -> PathBuf {
        scripts().join(format!("{}.txt", self.name()))
    }

    /// Returns the command that starts the server on `port`. The directory `home` contains the
    /// model and all files that the server writes.
    pub(crate) fn start_command(self, venv: &Venv, home: &Path, port: u16) -> StartCommand {
        let python = venv.python().to_string_lossy().into_owned();
        let port = port.to_string();
        let in_home = |name: &str| home.join(name).to_string_lossy().into_owned();
        let shared = vec![
            (
                "PYTHONPATH",
                scripts().join("standins").to_string_lossy().into_owned(),
            ),
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("HF_HUB_OFFLINE", "1".to_owned()),
            ("HF_HOME", in_home("hugging-face")),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ];
        let (words, specific) = match self {
            Self::Tuft => (
                words(&[
                    &python,
                    "-m",
                    "tuft",
                    "launch",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--config",
                    "config.yaml",
                ]),
                vec![
                    ("TUFT_CPU_TEST", "1".to_owned()),
                    ("TUFT_HOME", in_home("state")),
                ],
            ),
            // SkyRL starts its engine with `uv run` and the options of its parent process. So the
            // parent process must be `uv run`, too.
            Self::Skyrl => (
                words(&[
                    &venv.program("uv").to_string_lossy(),
                    "run",
                    "--no-project",
                    "--python",
                    &python,
                    "-m",
                    "skyrl.tinker.api",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--base-model",
                    MODEL,
                    "--backend",
                    "jax",
                    "--backend-config",
                    r#"{"max_lora_adapters": 64, "max_lora_rank": 32}"#,
                    "--checkpoints-base",
                    &in_home("state/checkpoints"),
                    "--database-url",
                    &format!("sqlite:///{}", in_home("state/skyrl.db")),
                    "--external-inference-lora-base",
                    &in_home("state/lora"),
                ]),
                vec![
                    ("JAX_PLATFORMS", "cpu".to_owned()),
                    ("UV_OFFLINE", "1".to_owned()),
                    ("UV_PYTHON_DOWNLOADS", "never".to_owned()),
                    ("UV_CACHE_DIR", in_home("uv-cache")),
                ],
            ),
        };
        StartCommand {
            command: words,
            environment: shared.into_iter().chain(specific).collect(),
        }
    }
}

/// Returns the directory that contains the scripts and package lists for TuFT and SkyRL.
pub(crate) fn scripts() -> PathBuf {
    environment::root().join("interop").join("peers")
}

/// Returns the contents of the configuration file of TuFT. SkyRL is configured by arguments.
pub(crate) fn configuration() -> String {
    format!(
        "checkpoint_dir: state/checkpoints\n\
         supported_models:\n  \
         - model_name: {MODEL}\n    \
         model_path: {MODEL}\n    \
         max_model_len: 2048\n    \
         max_lora_rank: 32\n    \
         max_loras: 64\n\
         authorized_users:\n  \
         {KEY}: peer\n"
    )
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_other_servers_are_pinned_and_need_no_gpu() {
        for peer in [Peer::Tuft, Peer::Skyrl] {
            let text = std::fs::read_to_string(peer.requirements()).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            for line in lines.clone() {
                let (name, version) = line.split_once("==").unwrap_or((line, ""));
                assert!(!version.is_empty(), "{line} has no version");
                assert!(!["torch", "vllm", "triton"].contains(&name), "{line}");
            }
            assert!(lines.clone().any(|line| line.starts_with(peer.name())));
        }
    }
}
