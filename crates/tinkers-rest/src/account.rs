//! Requests about the credential: who its user is, whether the server accepts it, and its revocation.

use http::Method;
use tinkers_auth::{Identity, no_user};
use tinkers_core::Result;
use tinkers_wire::{ApiKeyInfo, Capabilities, routes};

use crate::RestClient;
use crate::connection::Request;

impl RestClient {
    /// Returns whether the client has a credential. The server is not asked, and a credential command is not run.
    pub fn has_credential(&self) -> bool {
        let auth = self.connection.parts.auth.as_ref();
        auth.is_some_and(|auth| auth.has_credential())
    }

    /// Checks that the server accepts the credential, with one request for its capabilities, which is not retried. It ends after at most
    /// 30 s, also if the server limits the rate of requests.
    ///
    /// # Errors
    /// `Authentication` if the server rejects the credential, `Connection` if it is not reachable, `Billing` if it requires payment,
    /// and otherwise the errors of the server.
    pub async fn check_access(&self) -> Result<()> {
        let route = routes::CAPABILITIES;
        let request = Request::new("RestClient.check_access", Method::GET, route, route).once();
        self.connection.get::<Capabilities>(request).await.map(drop)
    }

    /// Returns the user of the credential. If the server exchanges credentials for tokens, the user is that of the token.
    ///
    /// # Errors
    /// `Unsupported` if neither the credential nor a token contains a user, and the errors of the server.
    pub async fn whoami(&self) -> Result<Identity> {
        let identity = || self.connection.parts.auth.as_ref()?.identity();
        if let Some(known) = identity() {
            return Ok(known);
        }
        self.connection.exchange_if_required().await?;
        identity().ok_or_else(|| no_user().with_operation("RestClient.whoami"))
    }

    /// Returns the server's description of the API key. The request is not retried.
    ///
    /// # Errors
    /// `Authentication` if the server rejects the key, and otherwise the errors of the server.
    pub async fn get_api_key(&self) -> Result<ApiKeyInfo> {
        let route = routes::API_KEY;
        let request = Request::new("RestClient.get_api_key", Method::GET, route, route).once();
        self.connection.get_with_key(request).await
    }

    /// Revokes the API key on the server. Later requests with this key fail. The request is not retried.
    ///
    /// # Errors
    /// `Authentication` if the server does not accept the key any more, and otherwise the errors of the server.
    pub async fn revoke_api_key(&self) -> Result<()> {
        let route = routes::API_KEY;
        let request = Request::new("RestClient.revoke_api_key", Method::DELETE, route, route);
        self.connection.send_now(request.once()).await.map(drop)
    }
}
