//! The server that the run talks to over HTTP: one inside this process on a free port, or one elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use tinkers::prelude::ServiceClient;
use tinkers_local::{BlockingServer, LocalConfig};

use crate::address::without_password;
use crate::args::{Key, Target};
use crate::aside::aside;
use crate::embedded::{self, Backend, Tools};
use crate::paths;

/// Sent to the embedded server, which takes any key, so that a key of the environment stays where it is.
const EMBEDDED_KEY: &str = "tml-embedded";

/// The server; the embedded one ends with this.
#[derive(Debug)]
pub(crate) enum Server {
    /// Inside this process.
    Embedded {
        /// It.
        server: BlockingServer,
        /// Where it keeps checkpoints.
        data_dir: PathBuf,
    },
    /// Elsewhere.
    Remote {
        /// Its address.
        base_url: String,
        /// The key, when one was given.
        api_key: Option<Key>,
    },
}

impl Server {
    /// Starts the embedded server where that is the target.
    pub(crate) async fn open(target: Target) -> Result<Self> {
        match target {
            Target::Remote { base_url, api_key } => Ok(Self::Remote { base_url, api_key }),
            Target::Embedded(given) => {
                let data_dir = paths::data_dir(given.as_deref())?;
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let backend = Backend::Model {
                    model_dir: None,
                    data_dir: data_dir.clone(),
                    // Whatever quickstart asks for has the seed of its arguments.
                    seed: 0,
                };
                let start = move || {
                    embedded::start(address, backend, LocalConfig::default(), Tools::default())
                };
                let server = aside(start).await??;
                Ok(Self::Embedded { server, data_dir })
            }
        }
    }

    /// Opens a session on it.
    pub(crate) async fn connect(&self) -> Result<ServiceClient> {
        let builder = ServiceClient::builder();
        let builder = match self {
            Self::Embedded { server, .. } => builder.base_url(server.url()).api_key(EMBEDDED_KEY),
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

    /// Where checkpoints are kept, as far as this program knows.
    pub(crate) fn data_dir(&self) -> Option<String> {
        match self {
            Self::Embedded { data_dir, .. } => Some(data_dir.display().to_string()),
            Self::Remote { .. } => None,
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
