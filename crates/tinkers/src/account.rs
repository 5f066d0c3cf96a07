//! Requests about the credential of the user, without a session.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::Value;
use tinkers_auth::{Auth, Identity};
use tinkers_core::call::response_error;
use tinkers_core::retry::failure_kind;
use tinkers_core::{
    Clock, Error, ErrorKind, HttpRequest, HttpResponse, Result, RouteClass, Sent, Timeouts,
    Transport,
};
use tinkers_wire::{Capabilities, ClientConfig, ConfigRequest, routes, to_json};

use crate::ServiceClientBuilder;
use crate::builder::AccountParts;
use crate::service::identity;

/// The time limit of a request.
const LIMIT: Duration = Duration::from_secs(30);

/// A client for requests about the credential of the user. It opens no session, and each request is sent once. Create it with
/// [`ServiceClientBuilder::account`].
#[derive(Debug)]
pub struct AccountClient {
    transport: Arc<dyn Transport>,
    auth: Arc<Auth>,
    clock: Arc<dyn Clock>,
}

/// The description of an API key by the server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct ApiKeyInfo {
    /// The id of the key.
    pub key_id: u64,
    /// The name of the key.
    #[serde(default)]
    pub name: String,
    /// The note of the user who created the key.
    #[serde(default)]
    pub note: Option<String>,
    /// The organization and the user of the key: `org_details` with `name`, and `user_details` with `email`.
    #[serde(default)]
    pub details: Option<Value>,
}

impl ServiceClientBuilder {
    /// Returns a client for requests about the credential: whether the server accepts it, who its user is, and its revocation. Nothing is
    /// sent, and no session is opened.
    ///
    /// # Errors
    /// The errors of [`connect`](Self::connect) for invalid settings.
    pub fn account(self) -> Result<AccountClient> {
        let AccountParts {
            transport,
            auth,
            clock,
        } = self.account_parts()?;
        Ok(AccountClient {
            transport,
            auth,
            clock,
        })
    }
}

impl AccountClient {
    /// Returns whether the client has a credential. The server is not asked, and a credential command is not run.
    pub fn has_credential(&self) -> bool {
        self.auth.has_credential()
    }

    /// Checks that the server accepts the credential, with a request for its capabilities.
    ///
    /// # Errors
    /// `Authentication` if the server rejects the credential, `Connection` if it is not reachable, and otherwise the errors of the server.
    pub async fn check_access(&self) -> Result<()> {
        self.exchange_if_required().await?;
        let response = self.send(Method::GET, routes::CAPABILITIES, None).await?;
        decode::<Capabilities>(&response, "get_server_capabilities").map(drop)
    }

    /// Returns the user of the credential. If the server exchanges credentials for tokens, the user is that of the token.
    ///
    /// # Errors
    /// `Unsupported` if neither the credential nor a token contains a user, and the errors of the server.
    pub async fn whoami(&self) -> Result<Identity> {
        if let Some(known) = self.auth.identity() {
            return Ok(known);
        }
        self.exchange_if_required().await?;
        identity(self.auth.identity())
    }

    /// Returns the server's description of the API key.
    ///
    /// # Errors
    /// `Authentication` if the server rejects the key, and otherwise the errors of the server.
    pub async fn api_key(&self) -> Result<ApiKeyInfo> {
        let response = self.send(Method::GET, routes::API_KEY, None).await?;
        decode(&response, "auth/apikey/me")
    }

    /// Revokes the API key on the server. Later requests with this key fail.
    ///
    /// # Errors
    /// `Authentication` if the server does not accept the key any more, and otherwise the errors of the server.
    pub async fn revoke_api_key(&self) -> Result<()> {
        self.send(Method::DELETE, routes::API_KEY, None)
            .await
            .map(drop)
    }

    async fn exchange_if_required(&self) -> Result<()> {
        let body = Some(ConfigRequest::default());
        let config = match self.send(Method::POST, routes::CLIENT_CONFIG, body).await {
            Ok(response) => decode::<ClientConfig>(&response, "client/config")?,
            // Servers for old versions of the SDK have no such route, and no exchange.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if config.pjwt_auth_enabled {
            let from_command = config.requires_credential_command();
            // Without the refresh of the token, which is used only for a few requests.
            drop(self.auth.start_exchange(from_command).await?);
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<ConfigRequest>,
    ) -> Result<HttpResponse> {
        let mut request = HttpRequest::new(method, path, RouteClass::Control);
        request.timeouts = Timeouts::within(LIMIT);
        if let Some(body) = body {
            request.body = to_json(&body);
            let json = HeaderValue::from_static("application/json");
            request.headers.insert(header::CONTENT_TYPE, json);
        }
        let sent = self.transport.send(request);
        let at = self.clock.now().after(LIMIT);
        let response = self.clock.deadline(at, sent).await.ok_or_else(|| {
            let message = format!("{path}: no response within {LIMIT:?}");
            Error::new(ErrorKind::Timeout, Sent::MaybeSent, message)
        })??;
        match response.status.is_success() {
            true => Ok(response),
            false => Err(response_error(failure_kind(response.status), &response)),
        }
    }
}

fn decode<T: for<'de> Deserialize<'de>>(response: &HttpResponse, name: &str) -> Result<T> {
    serde_json::from_slice(&response.body).map_err(|error| {
        let message = format!("cannot decode the response to {name}: {error}");
        Error::new(ErrorKind::Protocol, Sent::Answered, message)
            .with_response(response.status.as_u16(), &response.body)
    })
}
