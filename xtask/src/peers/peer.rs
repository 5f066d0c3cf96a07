//! The servers there are: what each is installed from, and how it is started on a CPU.

use std::path::{Path, PathBuf};

use crate::machine;
use crate::venv::Venv;

/// The key that clients send. TuFT checks it, SkyRL takes any.
pub(crate) const KEY: &str = "tml-peer";

/// The model that clients ask for; with SkyRL it is also where the model is, below the server's directory.
pub(crate) const MODEL: &str = "tinkers/peer";

/// A server that speaks the protocol and comes from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// TuFT with its trainer and sampler for tests: the whole protocol, no learning.
    Tuft,
    /// SkyRL with its JAX backend: a small model that learns.
    Skyrl,
}

/// How a foreign server is started.
#[derive(Debug)]
pub(crate) struct Start {
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

    /// What the conformance suite is told of it: TuFT on a processor has a mock in place of a model.
    pub(crate) fn mock(self) -> &'static [&'static str] {
        match self {
            Self::Tuft => &["--mock"],
            Self::Skyrl => &[],
        }
    }

    /// The file that lists what it is installed from.
    pub(crate) fn requirements(self) -> PathBuf {
        scripts().join(format!("{}.txt", self.name()))
    }

    /// Its command on `port`, in the directory `home`, where the model is and everything that it writes goes.
    pub(crate) fn start(self, venv: &Venv, home: &Path, port: u16) -> Start {
        let python = venv.python().to_string_lossy().into_owned();
        let port = port.to_string();
        let below = |name: &str| home.join(name).to_string_lossy().into_owned();
        let shared = vec![
            (
                "PYTHONPATH",
                scripts().join("standins").to_string_lossy().into_owned(),
            ),
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("HF_HUB_OFFLINE", "1".to_owned()),
            ("HF_HOME", below("hugging-face")),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ];
        let (words, own) = match self {
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
                    ("TUFT_HOME", below("state")),
                ],
            ),
            // It starts its engine with `uv run` and the flags that it finds in its parent's command.
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
                    &below("state/checkpoints"),
                    "--database-url",
                    &format!("sqlite:///{}", below("state/skyrl.db")),
                    "--external-inference-lora-base",
                    &below("state/lora"),
                ]),
                vec![
                    ("JAX_PLATFORMS", "cpu".to_owned()),
                    ("UV_OFFLINE", "1".to_owned()),
                    ("UV_PYTHON_DOWNLOADS", "never".to_owned()),
                    ("UV_CACHE_DIR", below("uv-cache")),
                ],
            ),
        };
        Start {
            command: words,
            environment: shared.into_iter().chain(own).collect(),
        }
    }
}

/// Where the scripts for peers are.
pub(crate) fn scripts() -> PathBuf {
    machine::root().join("interop").join("peers")
}

/// The configuration that TuFT reads; SkyRL takes all of it as arguments.
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
    fn what_is_installed_is_pinned_and_brings_no_gpu() {
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
