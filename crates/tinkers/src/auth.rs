//! Credentials: where a client finds them, and what they say. The module mirrors `tinker.auth` of the Python SDK.
//!
//! A client uses the first credential that it finds:
//!
//! 1. a JWT, from [`ServiceClientBuilder::credential`](crate::ServiceClientBuilder::credential) or in `TINKER_API_KEY`;
//! 2. the credential of the builder, otherwise `TINKER_API_KEY`. The hosted service accepts keys that start with `tml-`;
//! 3. the output of the command in `TINKER_CREDENTIAL_CMD`;
//! 4. the key that `tinkers auth login` or `tinker auth login` has stored in `~/.tinker/credentials.json`. A stored key is sent only to
//!    the server for which it was stored.
//!
//! If the server requires it, the client exchanges the credential for a short-lived token. All requests then carry the token, which the
//! client refreshes about halfway through its lifetime. If the server rejects a token as invalid, the client gets a new one and sends the
//! request once more.

use tinkers_core::{ErrorKind, Result};

pub use tinkers_auth::{
    Claims, Credential, CredentialStore, Identity, StoredCredentials, StoredKey, StoredKeyKind,
};

use crate::builder::address;
use crate::{Environment, ServiceClient};

/// Returns the static credential of the environment: `TINKER_API_KEY`, or the stored key. Returns `None` if there is none, or if it comes
/// from the credential command, which is not run. `get_tinker_token` of the Python SDK.
///
/// # Errors
/// `InvalidInput` for a credential or a base URL in an invalid form. `Io` or `Configuration` if the stored key cannot be read.
pub fn tinker_token() -> Result<Option<Credential>> {
    let environment = Environment::read();
    let (_, address) = address(None, &environment)?;
    match environment.sources(None).resolve(&address, false) {
        Ok(resolved) => Ok(resolved.credential.filter(|found| !found.is_command())),
        Err(error) if error.kind() == ErrorKind::Authentication => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether the environment contains a credential. The server is not asked, and a credential command counts without being run.
/// `tinker_has_credentials` of the Python SDK.
///
/// # Errors
/// The errors of [`tinker_token`].
pub fn tinker_has_credentials() -> Result<bool> {
    let environment = Environment::read();
    let (_, address) = address(None, &environment)?;
    environment.sources(None).has_credential(&address)
}

/// Checks with the credential of the environment that the server accepts it. `raise_if_tinker_not_accessible` of the Python SDK.
///
/// # Errors
/// `Authentication` if the credential is missing or the server rejects it, `Connection` if the server is not reachable, and otherwise the
/// errors of the server.
pub async fn check_tinker_accessible() -> Result<()> {
    let client = ServiceClient::builder().rest_client()?;
    client.check_access().await
}
