//! Access to the server: API keys, short-lived tokens, and required headers.

mod grant;
#[cfg(feature = "script")]
mod keys_file;
mod owner;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tinkers_core::Clock;

pub(crate) use self::grant::Grant;
pub use self::grant::{AccessKey, Permission};
#[cfg(feature = "script")]
pub use self::keys_file::InvalidKeys;
pub(crate) use self::owner::Owner;
use crate::http::LazyResponse;
use crate::read::Refusal;

/// The rules by which the server accepts requests: API keys, the exchange of keys for short-lived tokens, and required headers. Clones
/// share the keys and the tokens, so a test can revoke or rotate them while the server runs.
///
/// ```
/// use std::time::Duration;
/// use tinkers_local::{AccessControl, LocalConfig};
///
/// let mut config = LocalConfig::default();
/// config.access = AccessControl::default()
///     .with_key("tml-one")
///     .with_token_exchange(Duration::from_secs(600));
/// let access = config.access.clone();
/// // The server that is started with this configuration now rejects the key and its tokens.
/// assert!(access.revoke_key("tml-one"));
/// ```
#[derive(Clone, Default)]
pub struct AccessControl(Arc<Mutex<Access>>);

#[derive(Clone, Default)]
struct Access {
    keys: Vec<Key>,
    /// Whether a key is required, even if all keys have been revoked.
    has_keys: bool,
    /// The lifetime of tokens; `None` if the server does not exchange keys for tokens.
    lifetime: Option<Duration>,
    header: CredentialHeader,
    required_headers: Vec<HeaderName>,
    /// The valid tokens.
    tokens: BTreeMap<String, Token>,
    exchanges: u64,
    next_id: u64,
    clock: Option<Arc<dyn Clock>>,
    /// The secret from which the signatures of tokens are computed.
    signer: RandomState,
}

/// The header in which clients must send their credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum CredentialHeader {
    #[default]
    ApiKey,
    Bearer,
}

#[derive(Clone)]
struct Key {
    id: KeyId,
    secret: String,
    grant: Arc<Grant>,
}

/// The number of an API key. A server without configured keys accepts any key, under the number 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeyId(u64);

/// The sender of a request, as its credential shows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyHolder {
    pub(crate) key: KeyId,
    pub(crate) grant: Arc<Grant>,
}

#[derive(Clone)]
struct Token {
    key: KeyId,
    /// The time since the Unix epoch at which the token expires.
    expires_at: Duration,
}

/// The credentials that a route accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepts {
    /// API keys and tokens: routes that a client needs before an exchange.
    KeysAndTokens,
    /// API keys only, for routes about the key itself.
    Keys,
    /// Tokens, or API keys if the server does not exchange keys for tokens.
    Tokens,
}

impl AccessControl {
    /// Accepts this API key, with all permissions. All keys that are added by this method have the same owner. Without a key, the server
    /// accepts any key, and requests without one.
    #[must_use]
    pub fn with_key(self, key: impl Into<String>) -> Self {
        self.with_access_key(AccessKey {
            secret: key.into(),
            grant: Grant::default(),
        })
    }

    /// Accepts this API key for its owner and with its permissions.
    #[must_use]
    pub fn with_access_key(self, key: AccessKey) -> Self {
        self.changed(|access| {
            access.has_keys = true;
            access.add(key.secret, Arc::new(key.grant));
        })
    }

    /// Requires that clients exchange their API key for a token that is valid for `lifetime` (`POST /auth/token`). All routes except those
    /// for the configuration and the key itself then reject API keys.
    #[must_use]
    pub fn with_token_exchange(self, lifetime: Duration) -> Self {
        self.changed(|access| access.lifetime = Some(lifetime))
    }

    /// Requires that clients send their credential as `Authorization: Bearer` instead of `X-API-Key`.
    #[must_use]
    pub fn with_bearer_only(self) -> Self {
        self.changed(|access| access.header = CredentialHeader::Bearer)
    }

    /// Requires that each request has a header of this name, with any value, as gateways in front of a server do.
    #[must_use]
    pub fn with_required_header(self, name: HeaderName) -> Self {
        self.changed(|access| access.required_headers.push(name))
    }

    /// Makes all tokens invalid that were issued so far, as a rotation of the secret that signs them does. Clients can exchange their keys
    /// again.
    pub fn revoke_tokens(&self) {
        let mut access = self.lock();
        access.tokens.clear();
        access.signer = RandomState::new();
    }

    /// Makes one token invalid, for example a stolen one. Other tokens of the same key stay valid. Returns whether the token was valid.
    pub fn revoke_token(&self, token: &str) -> bool {
        self.lock().tokens.remove(token).is_some()
    }

    /// Makes all tokens expire now that were issued so far, although their claims name a later time, as if the clock of the client were
    /// slow. Clients can exchange their keys again.
    pub fn expire_tokens(&self) {
        let mut access = self.lock();
        let now = access.now();
        let tokens = access.tokens.values_mut();
        tokens.for_each(|token| token.expires_at = now);
    }

    /// Revokes all API keys of an owner and the tokens for which they were exchanged. The sessions, models and checkpoints of the owner stay
    /// and can be used with new keys. Returns the number of keys.
    pub fn revoke_owner(&self, owner: &str) -> usize {
        let mut access = self.lock();
        let keys = access.keys.iter();
        let own = keys.filter(|key| key.grant.owner.name() == owner);
        let ids: Vec<KeyId> = own.map(|key| key.id).collect();
        ids.iter().for_each(|id| access.revoke(*id));
        ids.len()
    }

    /// Accepts another API key from now on, for example after the keys of its owner were revoked.
    pub fn add_access_key(&self, key: AccessKey) {
        let mut access = self.lock();
        access.has_keys = true;
        access.add(key.secret, Arc::new(key.grant));
    }

    /// Revokes an API key and the tokens for which it was exchanged. Returns whether the key was valid.
    pub fn revoke_key(&self, key: &str) -> bool {
        let mut access = self.lock();
        let Some(id) = access.key(key.as_bytes()) else {
            return false;
        };
        access.revoke(id);
        true
    }

    /// Replaces the API key `old` by `new`, which has the same owner and permissions. The tokens of the old key become invalid. Returns
    /// whether `old` was valid.
    pub fn rotate_key(&self, old: &str, new: &str) -> bool {
        let mut access = self.lock();
        let Some(id) = access.key(old.as_bytes()) else {
            return false;
        };
        let grant = access.caller(id).grant;
        access.revoke(id);
        access.add(new.to_owned(), grant);
        true
    }

    /// Returns the number of successful exchanges of keys for tokens.
    pub fn exchanges(&self) -> u64 {
        self.lock().exchanges
    }

    /// Returns whether requests need an API key.
    pub fn needs_key(&self) -> bool {
        let access = self.lock();
        access.has_keys || access.lifetime.is_some()
    }

    /// Returns whether the server accepts only requests with one of its API keys.
    pub(crate) fn has_keys(&self) -> bool {
        self.lock().has_keys
    }

    /// Returns whether clients must exchange their keys for tokens.
    pub(crate) fn exchanges_keys(&self) -> bool {
        self.lock().lifetime.is_some()
    }

    /// Sets the clock by which tokens expire.
    pub(crate) fn install(&self, clock: &Arc<dyn Clock>) {
        self.lock().clock = Some(Arc::clone(clock));
    }

    /// Checks the credential and the other headers of a request. `is_key_needed` requires a key even if the server accepts any key.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        accepts: Accepts,
        is_key_needed: bool,
    ) -> Result<KeyHolder, Refusal> {
        let access = self.lock();
        let missing = access
            .required_headers
            .iter()
            .find(|name| !headers.contains_key(*name));
        if let Some(name) = missing {
            let reason = format!("this server requires the header {name}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        }
        let credential = access.credential(headers);
        let exchanges = access.lifetime.is_some();
        let Some(credential) = credential else {
            if access.has_keys || exchanges || is_key_needed {
                let reason = match access.header {
                    CredentialHeader::ApiKey => "no API key; send it in the header X-API-Key",
                    CredentialHeader::Bearer => {
                        "no token; send it in the header Authorization: Bearer"
                    }
                };
                return Err(Refusal::new(StatusCode::UNAUTHORIZED, reason));
            }
            return Ok(KeyHolder::default());
        };
        if exchanges && accepts != Accepts::Keys {
            match access.token(credential) {
                TokenState::Valid(key) => return Ok(access.caller(key)),
                TokenState::Expired => return Err(Refusal::invalid_token("the token has expired")),
                TokenState::Unknown if credential.starts_with(b"eyJ") => {
                    return Err(Refusal::invalid_token("the token is not valid"));
                }
                TokenState::Unknown if accepts == Accepts::Tokens => {
                    let reason = "this route requires a token; exchange the API key at auth/token";
                    return Err(Refusal::new(StatusCode::UNAUTHORIZED, reason));
                }
                TokenState::Unknown => {}
            }
        }
        let key = access.key(credential).ok_or_else(unknown_key)?;
        Ok(access.caller(key))
    }

    /// Exchanges a key for a token, and returns the response with the token.
    pub(crate) fn exchange(&self, key: KeyId) -> Result<LazyResponse, Refusal> {
        let mut access = self.lock();
        // The key may have been revoked since the request was checked.
        if access.has_keys && !access.keys.iter().any(|known| known.id == key) {
            return Err(unknown_key());
        }
        let Some(lifetime) = access.lifetime else {
            return Err(Refusal::not_found(
                "this server does not exchange API keys for tokens",
            ));
        };
        let now = access.now();
        access.tokens.retain(|_, token| token.expires_at > now);
        access.exchanges += 1;
        let token = access.sign(key, now, lifetime);
        let expires_at = now.saturating_add(lifetime);
        access
            .tokens
            .insert(token.clone(), Token { key, expires_at });
        Ok(LazyResponse::ok(&json!({ "jwt": token })))
    }

    /// Returns the response to a request for the description of a key.
    pub(crate) fn describe(&self, key: KeyId) -> LazyResponse {
        let grant = self.lock().caller(key).grant;
        LazyResponse::ok(&json!({
            "key_id": key.0,
            "name": format!("key {}", key.0),
            "note": "",
            "details": {
                "org_details": { "name": grant.organization },
                "user_details": { "email": grant.email() },
            },
        }))
    }

    /// Revokes a key at the request of its user, and returns the response.
    pub(crate) fn revoke(&self, key: KeyId) -> LazyResponse {
        self.lock().revoke(key);
        LazyResponse::ok(&json!({}))
    }

    fn changed(self, change: impl FnOnce(&mut Access)) -> Self {
        // A new value, so that a clone of the old one keeps its rules.
        let mut access = self.lock().clone();
        change(&mut access);
        Self(Arc::new(Mutex::new(access)))
    }

    fn lock(&self) -> MutexGuard<'_, Access> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown_key() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "this API key is not the server's")
}

/// Whether a token is valid, and for which key.
enum TokenState {
    Valid(KeyId),
    Expired,
    Unknown,
}

impl Access {
    fn credential<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let credential = match self.header {
            CredentialHeader::ApiKey => headers.get("x-api-key")?.as_bytes(),
            CredentialHeader::Bearer => headers
                .get(AUTHORIZATION)?
                .as_bytes()
                .strip_prefix(b"Bearer ")?,
        };
        (!credential.is_empty() || self.has_keys).then_some(credential)
    }

    fn key(&self, given: &[u8]) -> Option<KeyId> {
        if !self.has_keys {
            return Some(KeyId(0));
        }
        let mut keys = self.keys.iter();
        keys.find(|key| matches(key.secret.as_bytes(), given))
            .map(|key| key.id)
    }

    fn token(&self, given: &[u8]) -> TokenState {
        let text = std::str::from_utf8(given).ok();
        match text.and_then(|text| self.tokens.get(text)) {
            Some(token) if token.expires_at > self.now() => TokenState::Valid(token.key),
            Some(_) => TokenState::Expired,
            None => TokenState::Unknown,
        }
    }

    fn add(&mut self, secret: String, grant: Arc<Grant>) {
        self.next_id += 1;
        self.keys.push(Key {
            id: KeyId(self.next_id),
            secret,
            grant,
        });
    }

    /// Returns the sender of a request with this key.
    fn caller(&self, key: KeyId) -> KeyHolder {
        let known = self.keys.iter().find(|known| known.id == key);
        KeyHolder {
            key,
            grant: known.map_or_else(Arc::default, |known| Arc::clone(&known.grant)),
        }
    }

    fn revoke(&mut self, key: KeyId) {
        self.keys.retain(|known| known.id != key);
        self.tokens.retain(|_, token| token.key != key);
    }

    fn now(&self) -> Duration {
        let wall = self.clock.as_ref().map(|clock| clock.wall());
        let since = wall.map(|wall| wall.duration_since(SystemTime::UNIX_EPOCH));
        since.and_then(Result::ok).unwrap_or_default()
    }

    /// Creates a token: a JWT with the claims of the hosted service.
    fn sign(&self, key: KeyId, now: Duration, lifetime: Duration) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let grant = self.caller(key).grant;
        let claims = json!({
            "iss": "passport-tinkers-local",
            "sub": grant.owner.urn(),
            "org_id": grant.organization,
            "email": grant.email(),
            "iat": now.as_secs_f64(),
            "exp": now.saturating_add(lifetime).as_secs_f64(),
        });
        let signed = format!(
            "{}.{}",
            part(&json!({ "alg": "none", "typ": "JWT" })),
            part(&claims)
        );
        // The hash is keyed with random numbers of the operating system, so tokens cannot be guessed.
        let hash = |half: u8| {
            self.signer
                .hash_one((&signed, self.exchanges, half))
                .to_be_bytes()
        };
        let signature = URL_SAFE_NO_PAD.encode([hash(0), hash(1)].concat());
        format!("{signed}.{signature}")
    }
}

/// Returns whether `given` is the key `key`. The duration of the comparison does not depend on the position of the first difference.
fn matches(key: &[u8], given: &[u8]) -> bool {
    let differing = (0..given.len()).fold(0u8, |bits, i| {
        // The modulo keeps the index valid; the number of steps depends on the length of `given` only.
        bits | given[i] ^ key.get(i % key.len().max(1)).copied().unwrap_or(0)
    });
    differing == 0 && given.len() == key.len()
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = self.lock();
        f.debug_struct("AccessControl")
            .field("keys", &access.keys.len())
            .field("lifetime", &access.lifetime)
            .field("header", &access.header)
            .field("required_headers", &access.required_headers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tinkers_core::ManualClock;

    use super::*;

    fn check(access: &AccessControl, header: &'static str, value: &str) -> Result<KeyId, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(header, HeaderValue::from_str(value).unwrap());
        let caller = access.check(&headers, Accepts::Tokens, false)?;
        Ok(caller.key)
    }

    fn exchanged(access: &AccessControl, key: KeyId) -> String {
        let response = access.exchange(key).unwrap().encode();
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        body["jwt"].as_str().unwrap().to_owned()
    }

    #[test]
    fn api_key_matches_only_completely_and_is_hidden_in_debug() {
        let access = AccessControl::default().with_key("tml-abab");
        assert!(check(&access, "x-api-key", "tml-abab").is_ok());
        for wrong in ["", "tml-aba", "tml-ababtml-abab", "tml-abac", "TML-abab"] {
            assert!(check(&access, "x-api-key", wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{access:?}").contains("abab"));
    }

    #[test]
    fn token_is_valid_until_it_expires_or_is_revoked() {
        let clock = ManualClock::new();
        let access = AccessControl::default()
            .with_key("tml-a")
            .with_key("tml-b")
            .with_token_exchange(Duration::from_secs(60));
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        access.install(&shared);
        assert!(
            check(&access, "x-api-key", "tml-a").is_err(),
            "a key is no token"
        );
        let (a, b) = (KeyId(1), KeyId(2));
        let token = exchanged(&access, a);
        assert_eq!(check(&access, "x-api-key", &token).unwrap(), a);
        clock.advance(Duration::from_secs(60));
        let refused = check(&access, "x-api-key", &token)
            .unwrap_err()
            .into_response();
        let challenge = refused.encode().headers["www-authenticate"].clone();
        assert!(
            challenge
                .to_str()
                .unwrap()
                .contains("error=\"invalid_token\"")
        );
        let (token_a, token_b) = (exchanged(&access, a), exchanged(&access, b));
        assert!(access.rotate_key("tml-a", "tml-new"));
        assert!(check(&access, "x-api-key", &token_a).is_err());
        assert_eq!(check(&access, "x-api-key", &token_b).unwrap(), b);
        access.revoke_tokens();
        assert!(check(&access, "x-api-key", &token_b).is_err());
        assert!(!access.revoke_key("tml-a"));
        assert_eq!(access.exchanges(), 3);
    }

    #[test]
    fn required_headers_and_bearer_credentials_are_checked() {
        let access = AccessControl::default()
            .with_key("tml-a")
            .with_bearer_only();
        assert!(check(&access, "x-api-key", "tml-a").is_err());
        assert!(check(&access, "authorization", "Bearer tml-a").is_ok());
        let gate = access.with_required_header(HeaderName::from_static("modal-key"));
        let refused = check(&gate, "authorization", "Bearer tml-a").unwrap_err();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    }
}
