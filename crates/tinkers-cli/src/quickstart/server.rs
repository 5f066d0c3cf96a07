//! The server of a run: the embedded one on a free port, or a remote one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tinkers::prelude::ServiceClient;
use tinkers_local::LocalConfig;

use crate::address::without_password;
use crate::args::{ConnectionArgs, Target};
use crate::blocking::run_blocking;
use crate::embedded::{self, Backend, Embedded, TestHooks};
use crate::{paths, remote};

/// The API key for the embedded server. This server accepts any API key. The API key of the environment must not be sent to it.
const EMBEDDED_KEY: &str = "tml-embedded";

/// The server of a quickstart run.
#[derive(Debug)]
pub(crate) enum Server {
    /// The embedded server, in this process.
    Embedded {
        /// The running server.
        server: Embedded,
        /// The directory in which the server stores checkpoints.
        data_dir: DataDir,
    },
    /// An existing server.
    Remote(ConnectionArgs),
}

/// The directory in which the embedded server stores checkpoints.
#[derive(Debug)]
pub(crate) enum DataDir {
    /// A directory chosen by the user.
    Permanent(PathBuf),
    /// A temporary directory. It is removed when this value is dropped.
    Temporary(TempDir),
}

impl DataDir {
    fn open(given: Option<&Path>) -> Result<Self> {
        match given {
            Some(_) => paths::data_dir(given).map(Self::Permanent),
            None => TempDir::with_prefix("tinkers-quickstart-")
                .map(Self::Temporary)
                .with_context(|| {
                    let parent = std::env::temp_dir();
                    format!(
                        "cannot create a temporary directory in {}: set --data-dir DIR",
                        parent.display()
                    )
                }),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Permanent(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

impl Server {
    /// Starts the embedded server if `target` selects it. For a remote server, only stores its options.
    pub(crate) async fn open(target: Target) -> Result<Self> {
        match target {
            Target::Remote(server) => Ok(Self::Remote(server)),
            Target::Embedded(given) => {
                let data_dir = DataDir::open(given.as_deref())?;
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let backend = Backend::Model {
                    model: None,
                    data_dir: data_dir.path().to_owned(),
                    // The seed is not used, since all requests of quickstart have one.
                    seed: 0,
                };
                let start = move || {
                    embedded::start(
                        address,
                        backend,
                        LocalConfig::default(),
                        TestHooks::default(),
                    )
                };
                let server = run_blocking(start).await??;
                Ok(Self::Embedded { server, data_dir })
            }
        }
    }

    /// Opens a session on the server.
    pub(crate) async fn connect(&self) -> Result<ServiceClient> {
        let builder = ServiceClient::builder();
        match self {
            Self::Remote(server) => remote::connect(builder, server).await,
            // The environment is ignored, so that invalid settings in it cannot make the connection fail.
            Self::Embedded { server, .. } => builder
                .without_environment()
                .base_url(server.url())
                .api_key(EMBEDDED_KEY)
                .connect()
                .await
                .with_context(|| format!("cannot open a session on {}", server.url())),
        }
    }

    /// Describes the server for display.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Embedded { .. } => format!("{}, embedded in this process", self.address()),
            Self::Remote(_) => self.address(),
        }
    }

    /// Returns the directory in which the checkpoints remain after the run. Returns `None` if the directory is temporary or the
    /// server is remote.
    pub(crate) fn data_dir(&self) -> Option<String> {
        match self {
            Self::Embedded {
                data_dir: DataDir::Permanent(path),
                ..
            } => Some(path.display().to_string()),
            Self::Embedded { .. } | Self::Remote(_) => None,
        }
    }

    /// Returns whether the checkpoints are removed at the end of the run.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Embedded {
                data_dir: DataDir::Temporary(_),
                ..
            }
        )
    }

    /// Shuts the embedded server down and removes its temporary directory.
    ///
    /// # Errors
    /// If the save of a checkpoint does not complete within 30 s.
    pub(crate) async fn shutdown(self) -> Result<()> {
        match self {
            // The temporary directory is removed after the shutdown.
            Self::Embedded {
                server,
                data_dir: _data_dir,
            } => server.shutdown().await,
            Self::Remote(_) => Ok(()),
        }
    }

    /// Returns the URL of the server without credentials.
    fn address(&self) -> String {
        match self {
            Self::Embedded { server, .. } => server.url(),
            Self::Remote(server) => without_password(server.base_url()),
        }
    }
}
