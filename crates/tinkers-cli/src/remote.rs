//! Connections to remote servers.

use anyhow::{Context, Result};
use tinkers::ServiceClientBuilder;
use tinkers::prelude::ServiceClient;

use crate::address::without_password;
use crate::args::ConnectionArgs;

/// Opens a session on a remote server. `builder` contains further client options.
pub(crate) async fn connect(
    builder: ServiceClientBuilder,
    server: &ConnectionArgs,
) -> Result<ServiceClient> {
    let mut builder = builder.base_url(server.base_url());
    if let Some(key) = &server.api_key {
        builder = builder.api_key(key.expose());
    }
    if let Some(format) = server.body_format {
        builder = builder.body_format(format.into());
    }
    let connected = builder.connect().await;
    connected.with_context(|| {
        format!(
            "cannot open a session on {}",
            without_password(server.base_url())
        )
    })
}
