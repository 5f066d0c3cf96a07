//! The server that the run talks to over HTTP: one inside this process on a free port, or one elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tinkers::prelude::ServiceClient;
use tinkers_local::LocalConfig;

use crate::address::without_password;
use crate::args::{Key, Target};
use crate::aside::aside;
use crate::embedded::{self, Backend, Embedded, Tools};
use crate::paths;

/// Sent to the embedded server, which takes any key, so that a key of the environment stays where it is.
const EMBEDDED_KEY: &str = "tml-embedded";

/// The server.
#[derive(Debug)]
pub(crate) enum Server {
    /// Inside this process.
    Embedded {
        /// It.
        server: Embedded,
        /// Where it keeps checkpoints.
        data: Data,
    },
    /// Elsewhere.
    Remote {
        /// Its address.
        base_url: String,
        /// The key, when one was given.
        api_key: Option<Key>,
    },
}

/// A data directory.
#[derive(Debug)]
pub(crate) enum Data {
    /// The user's, which stays.
    Kept(PathBuf),
    /// One that is removed with this.
    Temporary(TempDir),
}

impl Data {
    fn open(given: Option<&Path>) -> Result<Self> {
        match given {
            Some(_) => paths::data_dir(given).map(Self::Kept),
            None => TempDir::with_prefix("tinkers-quickstart-")
                .map(Self::Temporary)
                .with_context(|| {
                    let place = std::env::temp_dir();
                    format!(
                        "no temporary directory can be made in {}; name a data directory with --data-dir DIR",
                        place.display()
                    )
                }),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

impl Server {
    /// Starts the embedded server where that is the target.
    pub(crate) async fn open(target: Target) -> Result<Self> {
        match target {
            Target::Remote { base_url, api_key } => Ok(Self::Remote { base_url, api_key }),
            Target::Embedded(given) => {
                let data = Data::open(given.as_deref())?;
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let backend = Backend::Model {
                    model: None,
                    data_dir: data.path().to_owned(),
                    // Whatever quickstart asks for has the seed of its arguments.
                    seed: 0,
                };
                let start = move || {
                    embedded::start(address, backend, LocalConfig::default(), Tools::default())
                };
                let server = aside(start).await??;
                Ok(Self::Embedded { server, data })
            }
        }
    }

    /// Opens a session on it.
    pub(crate) async fn connect(&self) -> Result<ServiceClient> {
        let builder = ServiceClient::builder();
        let builder = match self {
            // It needs nothing of the environment, and so nothing there can stop it.
            Self::Embedded { server, .. } => builder
                .without_environment()
                .base_url(server.url())
                .api_key(EMBEDDED_KEY),
            Self::Remote { base_url, api_key } => match api_key {
                Some(key) => builder.base_url(base_url).api_key(key.expose()),
                None => builder.base_url(base_url),
            },
        };
        builder
            .connect()
            .await
            .with_context(|| format!("no session on {}", self.address()))
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Embedded { .. } => format!("{}, inside this program", self.address()),
            Self::Remote { .. } => self.address(),
        }
    }

    /// Where checkpoints stay when the run has ended, as far as this program knows.
    pub(crate) fn data_dir(&self) -> Option<String> {
        match self {
            Self::Embedded {
                data: Data::Kept(path),
                ..
            } => Some(path.display().to_string()),
            Self::Embedded { .. } | Self::Remote { .. } => None,
        }
    }

    /// Whether checkpoints go with the run.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Embedded {
                data: Data::Temporary(_),
                ..
            }
        )
    }

    /// Ends the embedded server and removes its temporary directory.
    ///
    /// # Errors
    /// When a save was not finished.
    pub(crate) async fn shutdown(self) -> Result<()> {
        match self {
            // The directory goes last.
            Self::Embedded {
                server,
                data: _data,
            } => server.shutdown().await,
            Self::Remote { .. } => Ok(()),
        }
    }

    /// The address without what may be a password in it.
    fn address(&self) -> String {
        match self {
            Self::Embedded { server, .. } => server.url(),
            Self::Remote { base_url, .. } => without_password(base_url),
        }
    }
}
