//! The supported servers, and the way in which each is installed and started on a CPU.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::environment;
use crate::venv::Venv;

/// The API key that clients send to the servers. TuFT and hatchery check the key; SkyRL and Twinkle accept any key.
pub(crate) const KEY: &str = "tml-peer";

/// The name of the model that the servers offer. It is also the path of the model in the
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
    /// Hatchery with its worker on the CPU. It trains a small model.
    Hatchery,
    /// Twinkle with its mock model and mock sampler. It does not learn: its other backends require CUDA or vLLM.
    Twinkle,
}

/// The command line and the environment variables that start a server.
#[derive(Debug)]
pub(crate) struct StartCommand {
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Peer {
    /// All supported servers.
    pub(crate) const ALL: [Self; 4] = [Self::Tuft, Self::Skyrl, Self::Hatchery, Self::Twinkle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tuft => "tuft",
            Self::Skyrl => "skyrl",
            Self::Hatchery => "hatchery",
            Self::Twinkle => "twinkle",
        }
    }

    /// Returns the minor versions of Python 3 that the packages of this server accept.
    pub(crate) fn python_versions(self) -> RangeInclusive<u32> {
        match self {
            Self::Tuft | Self::Skyrl => 11..=15,
            Self::Hatchery => 12..=14,
            Self::Twinkle => 11..=12,
        }
    }

    /// Returns a line about what of this server does not run on a CPU, or `None` if the whole server runs.
    pub(crate) fn limitation(self) -> Option<&'static str> {
        match self {
            Self::Tuft => Some(
                "tuft runs with its mock trainer and mock sampler: the others require CUDA, so nothing is learned",
            ),
            Self::Twinkle => Some(
                "twinkle runs with its mock model and mock sampler: its other models require CUDA, and its other sampler vLLM, so \
                 nothing is learned",
            ),
            Self::Skyrl | Self::Hatchery => None,
        }
    }

    /// Returns the options with which the conformance suite must run against this server: `--mock` if it has only a mock model on
    /// a CPU, and the headers that it requires.
    pub(crate) fn suite_options(self) -> &'static [&'static str] {
        match self {
            Self::Tuft => &["--mock"],
            Self::Twinkle => &["--mock", "--header", "X-Request-Id: tinkers-peer"],
            Self::Skyrl | Self::Hatchery => &[],
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
        let in_scripts = |name: &str| scripts().join(name).to_string_lossy().into_owned();
        let mut shared = vec![
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("HF_HUB_OFFLINE", "1".to_owned()),
            ("HF_HOME", in_home("hugging-face")),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ];
        // Hatchery has all packages that it imports.
        if self != Self::Hatchery {
            shared.push(("PYTHONPATH", in_scripts("standins")));
        }
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
            Self::Hatchery => (
                words(&[
                    &python,
                    &in_scripts("start_hatchery.py"),
                    &port,
                    KEY,
                    MODEL,
                    &in_home("state"),
                ]),
                vec![],
            ),
            Self::Twinkle => (
                words(&[
                    &python,
                    &in_scripts("start_twinkle.py"),
                    &port,
                    MODEL,
                    &in_home("state"),
                ]),
                // Each process of Ray imports transformers first, which takes longer than the default timeouts allow.
                vec![
                    ("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120".to_owned()),
                    ("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "120".to_owned()),
                    ("RAY_AUTH_MODE", "disabled".to_owned()),
                    ("RAY_USAGE_STATS_ENABLED", "0".to_owned()),
                ],
            ),
        };
        StartCommand {
            command: words,
            environment: shared.into_iter().chain(specific).collect(),
        }
    }
}

/// Returns the directory that contains the scripts and package lists of the servers.
pub(crate) fn scripts() -> PathBuf {
    environment::root().join("interop").join("peers")
}

/// Returns the contents of the configuration file of TuFT. The other servers are configured by arguments.
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
        for peer in Peer::ALL {
            let text = std::fs::read_to_string(peer.requirements()).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            for line in lines.clone() {
                let (name, version) = line.split_once("==").unwrap_or((line, ""));
                assert!(!version.is_empty(), "{line} has no version");
                // The worker of hatchery runs on torch, on a CPU too.
                let is_needed = peer == Peer::Hatchery && name != "vllm";
                let is_large = ["torch", "vllm", "triton"].contains(&name);
                assert!(is_needed || !is_large, "{line}");
            }
            assert!(lines.clone().any(|line| line.starts_with(peer.name())));
        }
    }
}
