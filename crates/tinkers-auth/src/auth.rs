//! The authentication of a client.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use tinkers_core::{
    BaseUrl, BoxFuture, Clock, Error, ErrorKind, Jitter, RecoveredErrors, Result, Sent, Transport,
    TransportError, TransportErrorKind,
};
use zeroize::Zeroizing;

use crate::claims::{Claims, Identity};
use crate::command::CredentialCommand;
use crate::credential::{Credential, Kind, Placement};
use crate::exchange::{Exchange, ExchangeCredential};
use crate::sources::{Resolved, Sources};
use crate::token_cache::TokenCache;

/// The authentication of a client: its credential, and the short-lived token for which the credential is exchanged if the server requires
/// that. The transports of a client share one value, and so one token.
pub struct Auth {
    sources: Sources,
    address: BaseUrl,
    source: &'static str,
    /// The bytes by which clients with the same credential are recognized.
    fingerprint_source: Zeroizing<Vec<u8>>,
    placement: Placement,
    header: CredentialHeader,
    exchanged: OnceLock<Arc<TokenCache>>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    jitter: Arc<dyn Jitter>,
    recovered_errors: Arc<RecoveredErrors>,
}

/// The header of requests before and without an exchange.
enum CredentialHeader {
    /// The client sends no credential.
    Absent,
    /// An API key, or a token without a known expiry.
    Fixed(HeaderValue),
    /// A JWT, which is not sent after its expiry.
    Token {
        value: HeaderValue,
        expires_at: SystemTime,
        identity: Option<Identity>,
    },
    /// The output of the credential command.
    Command(TokenCache),
}

/// A header to add to a request.
pub(crate) struct AuthHeader {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
    /// Whether the value is a token from an exchange, which can be replaced if the server rejects it.
    pub(crate) is_exchanged: bool,
}

impl Auth {
    /// Creates the authentication of a client with the credential that [`Sources::resolve`] has found in `sources` for the server at
    /// `address`. Token exchanges are sent through `transport`, which must not wait for other requests of the client, and adds no
    /// credential. Failed exchanges that are tried again are counted in `recovered_errors`. Nothing is sent.
    ///
    /// # Errors
    /// `InvalidInput` for a credential in an invalid form.
    pub fn new(
        sources: Sources,
        resolved: Resolved,
        address: BaseUrl,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        jitter: Arc<dyn Jitter>,
        recovered_errors: Arc<RecoveredErrors>,
    ) -> Result<Arc<Self>> {
        let Resolved { credential, source } = resolved;
        let none = Credential::api_key("");
        let credential = credential.unwrap_or(none);
        let placement = credential.placement()?;
        let header = match &credential.kind {
            Kind::ApiKey if credential.is_blank() => CredentialHeader::Absent,
            Kind::Command => CredentialHeader::Command(TokenCache::new(
                Box::new(command(&credential, source, &clock)),
                placement.clone(),
                Arc::clone(&clock),
                Arc::clone(&jitter),
                Arc::clone(&recovered_errors),
            )),
            _ => {
                let value = value(&placement, &credential)?;
                match Claims::of(credential.secret.expose_secret()) {
                    Some(claims) if claims.expires_at().is_some() => CredentialHeader::Token {
                        value,
                        expires_at: claims.expires_at().unwrap_or(SystemTime::UNIX_EPOCH),
                        identity: claims.identity().filter(|_| claims.is_login()),
                    },
                    _ => CredentialHeader::Fixed(value),
                }
            }
        };
        Ok(Arc::new(Self {
            fingerprint_source: Zeroizing::new(credential.expose().as_bytes().to_vec()),
            sources,
            address,
            source,
            placement,
            header,
            exchanged: OnceLock::new(),
            transport,
            clock,
            jitter,
            recovered_errors,
        }))
    }

    /// Returns the bytes by which clients with the same credential are recognized. They are secret.
    pub fn fingerprint_source(&self) -> &[u8] {
        &self.fingerprint_source
    }

    /// Exchanges the credential for a token, and sends the token with all later requests. Returns the background refresh of the token,
    /// which the caller runs as long as the client is open. Without it, tokens are fetched when a request needs one. With `from_command`,
    /// only the credential command is used, which a server may demand.
    ///
    /// # Errors
    /// `Authentication` if there is no credential, or the server rejects it. `Connection` or `Timeout` if the exchange gets no response.
    pub async fn start_exchange(&self, from_command: bool) -> Result<BoxFuture<'static, ()>> {
        let cache = match self.exchanged.get() {
            Some(cache) => Arc::clone(cache),
            None => Arc::new(self.new_exchange(from_command)?),
        };
        cache
            .token(None)
            .await
            .map_err(|failure| Error::from(failure.into_transport_error()))?;
        let cache = Arc::clone(self.exchanged.get_or_init(|| cache));
        Ok(Box::pin(cache.refresh()))
    }

    fn new_exchange(&self, from_command: bool) -> Result<TokenCache> {
        let resolved = self.sources.resolve(&self.address, from_command)?;
        let Some(credential) = resolved.credential else {
            let message = "the server requires a token exchange, and there is no credential to exchange; set TINKER_API_KEY or `api_key`";
            let error = Error::new(ErrorKind::Authentication, Sent::NotSent, message);
            return Err(error.with_field("api_key"));
        };
        let placement = credential.placement()?;
        let exchange = Exchange {
            transport: Arc::clone(&self.transport),
            credential: match credential.kind {
                Kind::Command => {
                    ExchangeCredential::Command(command(&credential, resolved.source, &self.clock))
                }
                _ => ExchangeCredential::Fixed(value(&placement, &credential)?),
            },
            placement,
            clock: Arc::clone(&self.clock),
            jitter: Arc::clone(&self.jitter),
            recovered_errors: Arc::clone(&self.recovered_errors),
            not_before: Mutex::default(),
        };
        Ok(TokenCache::new(
            Box::new(exchange),
            self.placement.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.jitter),
            Arc::clone(&self.recovered_errors),
        ))
    }

    /// Returns whether the client sends a credential. A credential command counts without being run.
    pub fn has_credential(&self) -> bool {
        !matches!(self.header, CredentialHeader::Absent)
    }

    /// Returns the user of the credential. Nothing is sent. The user comes from the claims of the exchanged token, or of a JWT that is a login.
    /// Returns `None` for API keys, which do not contain a user.
    pub fn identity(&self) -> Option<Identity> {
        match (self.exchanged.get(), &self.header) {
            (Some(cache), _) => cache.identity(),
            (None, CredentialHeader::Command(cache)) => cache.identity(),
            (None, CredentialHeader::Token { identity, .. }) => identity.clone(),
            (None, _) => None,
        }
    }

    /// Returns the header for the next request. Waits for an exchange or for the credential command if that is necessary. With
    /// `is_about_key`, returns the credential itself even after an exchange.
    pub(crate) async fn header(
        &self,
        is_about_key: bool,
    ) -> Result<Option<AuthHeader>, TransportError> {
        let exchanged = self.exchanged.get().filter(|_| !is_about_key);
        let (value, is_exchanged) = match (exchanged, &self.header) {
            (Some(cache), _) => (current(cache).await?, true),
            (None, CredentialHeader::Absent) => return Ok(None),
            (None, CredentialHeader::Fixed(value)) => (value.clone(), false),
            (
                None,
                CredentialHeader::Token {
                    value, expires_at, ..
                },
            ) => {
                if self.clock.wall() >= *expires_at {
                    let message =
                        format!("the token in {} has expired; set a new one", self.source);
                    let kind = TransportErrorKind::Credential;
                    return Err(TransportError::new(kind, Sent::NotSent, message));
                }
                (value.clone(), false)
            }
            (None, CredentialHeader::Command(cache)) => (current(cache).await?, false),
        };
        Ok(Some(AuthHeader {
            name: self.placement.name.clone(),
            value,
            is_exchanged,
        }))
    }

    /// Returns a token in place of `rejected`, which the server has refused.
    pub(crate) async fn replacement(
        &self,
        rejected: &HeaderValue,
    ) -> Result<HeaderValue, TransportError> {
        let Some(cache) = self.exchanged.get() else {
            return Ok(rejected.clone());
        };
        let token = cache.token(Some(rejected)).await;
        let token = token.map_err(|failure| failure.into_transport_error())?;
        Ok(token.value.clone())
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

async fn current(cache: &TokenCache) -> Result<HeaderValue, TransportError> {
    let token = cache.token(None).await;
    let token = token.map_err(|failure| failure.into_transport_error())?;
    Ok(token.value.clone())
}

fn command(
    credential: &Credential,
    source: &'static str,
    clock: &Arc<dyn Clock>,
) -> CredentialCommand {
    CredentialCommand {
        command: credential.secret.clone(),
        source,
        clock: Arc::clone(clock),
    }
}

fn value(placement: &Placement, credential: &Credential) -> Result<HeaderValue> {
    let value = placement.value(&credential.secret);
    value.map_err(|expected| Error::invalid("api_key", expected))
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
