//! The token that all requests share, fetched by one request at a time and refreshed before it expires.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tinkers_core::user_code::catch_panic;
use tinkers_core::{BoxFuture, Clock, Jitter, RecoveredError, RecoveredErrors, Timestamp};
use tokio::sync::Notify;

use crate::claims::{Claims, Identity};
use crate::credential::Placement;
use crate::failure::Failure;
use crate::single_flight::{Fetch, SingleFlight, Turn};

/// A source of tokens, such as an exchange or a command.
pub(crate) trait TokenSource: Send + Sync + fmt::Debug {
    /// Fetches a token with at most this number of attempts.
    fn fetch(&self, attempts: u32) -> BoxFuture<'_, Result<SecretString, Failure>>;
}

/// A token is fetched again when less than this time is left. For tokens that live less than two minutes, it is half of their lifetime.
const MARGIN: Duration = Duration::from_secs(60);
/// The lifetime of a token without readable claims.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(120);
/// The pause before the next refresh after a failed one, or if the lifetime of the token is unknown.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// The number of attempts of a fetch while no usable token is left. A request retries its fetch, too.
const ATTEMPTS: u32 = 5;

/// A cache of one token. Any number of requests may ask for the token at the same time: one of them fetches it, and the others wait for
/// the outcome of that fetch, whether it succeeds or fails. If the fetching request is dropped, the next waiter fetches the token.
pub(crate) struct TokenCache {
    source: Box<dyn TokenSource>,
    placement: Placement,
    clock: Arc<dyn Clock>,
    jitter: Arc<dyn Jitter>,
    recovered_errors: Arc<RecoveredErrors>,
    flight: SingleFlight<Arc<Token>, Failure>,
    /// Wakes the background refresh after it has stopped.
    resumed: Notify,
}

/// A token, as the value of a header.
pub(crate) struct Token {
    pub(crate) value: HeaderValue,
    pub(crate) identity: Option<Identity>,
    lifetime: Option<Duration>,
    /// The time until which the token is used without a new fetch. `None` for a credential that does not expire.
    fresh_until: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

impl TokenCache {
    pub(crate) fn new(
        source: Box<dyn TokenSource>,
        placement: Placement,
        clock: Arc<dyn Clock>,
        jitter: Arc<dyn Jitter>,
        recovered_errors: Arc<RecoveredErrors>,
    ) -> Self {
        Self {
            source,
            placement,
            clock,
            jitter,
            recovered_errors,
            flight: SingleFlight::new(),
            resumed: Notify::new(),
        }
    }

    /// Returns the current token, and fetches it if less than a minute of its lifetime is left. The token `rejected`, which the server has
    /// refused, is not returned unless a fetch returns it again.
    ///
    /// If a fetch fails although the server does not reject the credential, a token that has not expired stays in use.
    pub(crate) async fn token(
        &self,
        rejected: Option<&HeaderValue>,
    ) -> Result<Arc<Token>, Failure> {
        let is_usable = |token: &Arc<Token>| self.is_fresh(token) && !is_rejected(token, rejected);
        let failure = match self.flight.turn(is_usable).await {
            Turn::Value(token) => return Ok(token),
            Turn::Failed(failure) => return self.despite(failure, rejected),
            Turn::Fetch(fetch) => match self.fetch(fetch).await {
                Ok(token) => return Ok(token),
                Err(failure) => failure,
            },
        };
        let outcome = self.despite(failure.clone(), rejected);
        if outcome.is_ok() {
            self.recovered_errors.count(RecoveredError::TokenRefresh);
            let recovered_error = RecoveredError::TokenRefresh.name();
            catch_panic(|| {
                tracing::warn!(recovered_error, error = %failure, "cannot fetch a new token; the old one stays in use until it expires");
            });
        }
        outcome
    }

    /// Returns the user of the current token.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.flight.value()?.identity.clone()
    }

    /// Refreshes the token in the background, forever: about halfway through its lifetime. After a failure, tries again in 60 s. Stops
    /// while the server rejects the credential and the token is about to expire, until a request has fetched a token again.
    pub(crate) async fn refresh(self: Arc<Self>) {
        let mut pause = self.refresh_pause();
        let mut has_failed = false;
        loop {
            self.clock.sleep(pause).await;
            let fetched = match self.flight.turn(|_| false).await {
                Turn::Value(token) => Ok(token),
                Turn::Failed(failure) => Err(failure),
                Turn::Fetch(fetch) => self.fetch(fetch).await,
            };
            let failure = match fetched {
                Ok(_) => {
                    has_failed = false;
                    pause = self.refresh_pause();
                    continue;
                }
                Err(failure) => failure,
            };
            self.recovered_errors.count(RecoveredError::TokenRefresh);
            let recovered_error = RecoveredError::TokenRefresh.name();
            catch_panic(|| match has_failed {
                false => {
                    tracing::warn!(recovered_error, error = %failure, "cannot refresh the token; trying again in 60 s")
                }
                true => {
                    tracing::debug!(recovered_error, error = %failure, "cannot refresh the token")
                }
            });
            has_failed = true;
            pause = RETRY_PAUSE;
            if failure.is_rejection() && self.stop_refresh() {
                self.resumed.notified().await;
                pause = self.refresh_pause();
            }
        }
    }

    /// Marks the background refresh as stopped if the token expires within two minutes. Returns whether it did.
    fn stop_refresh(&self) -> bool {
        let soon = self.clock.now().after(2 * MARGIN);
        self.flight.stop_refresh(|token| {
            let expires_at = token.and_then(|token| token.expires_at);
            expires_at.is_none_or(|at| at <= soon)
        })
    }

    /// Returns the pause before the next refresh: 45 to 55 % of the lifetime of the token, so that clients spread their refreshes.
    fn refresh_pause(&self) -> Duration {
        let lifetime = self.flight.value().and_then(|token| token.lifetime);
        lifetime.map_or(RETRY_PAUSE, |lifetime| {
            lifetime.mul_f64(0.45 + 0.1 * self.jitter.unit())
        })
    }

    /// Fetches a token and stores the outcome.
    async fn fetch(
        &self,
        permission: Fetch<'_, Arc<Token>, Failure>,
    ) -> Result<Arc<Token>, Failure> {
        let current = self.flight.value();
        // With a token that still works, requests do not wait for retries.
        let is_alive = current.is_some_and(|token| self.is_alive(&token));
        let fetched = self.source.fetch(if is_alive { 1 } else { ATTEMPTS }).await;
        let fetched = fetched.and_then(|secret| self.received(&secret));
        if permission.end(fetched.clone()) {
            self.resumed.notify_one();
        }
        fetched
    }

    fn received(&self, secret: &SecretString) -> Result<Arc<Token>, Failure> {
        let value = self.placement.value(secret);
        let value = value
            .map_err(|expected| Failure::local(format!("invalid token: expected {expected}")))?;
        let text = secret.expose_secret();
        let now = self.clock.now();
        let claims = Claims::of(text);
        let is_key = claims.is_none() && text.starts_with("tml-");
        let claims = claims.unwrap_or_default();
        let lifetime = claims.lifetime();
        let by_date = claims.left(self.clock.wall());
        // If the clocks of the client and the server differ, only the difference of two claims is reliable.
        let left = match (by_date, lifetime) {
            (Some(left), Some(lifetime)) if left > margin(lifetime) => left.min(lifetime),
            (_, Some(lifetime)) => lifetime,
            (Some(left), None) => left,
            (None, None) => UNKNOWN_LIFETIME,
        };
        let fresh = left.saturating_sub(margin(lifetime.unwrap_or(left)));
        Ok(Arc::new(Token {
            value,
            identity: claims.identity(),
            lifetime,
            fresh_until: (!is_key).then(|| now.after(fresh)),
            expires_at: (!is_key).then(|| now.after(left)),
        }))
    }

    /// Returns whether a token can be used without a fetch.
    fn is_fresh(&self, token: &Token) -> bool {
        let now = self.clock.now();
        token.fresh_until.is_none_or(|until| now < until)
    }

    /// Returns whether a token has not expired.
    fn is_alive(&self, token: &Token) -> bool {
        let now = self.clock.now();
        token.expires_at.is_none_or(|at| now < at)
    }

    /// Returns the token that stays in use although a fetch has failed, or the failure.
    fn despite(
        &self,
        failure: Failure,
        rejected: Option<&HeaderValue>,
    ) -> Result<Arc<Token>, Failure> {
        let current = self.flight.value();
        let is_usable = |token: &Arc<Token>| self.is_alive(token) && !is_rejected(token, rejected);
        match current.filter(is_usable) {
            Some(token) if !failure.is_rejection() => Ok(token),
            _ => Err(failure),
        }
    }
}

fn is_rejected(token: &Token, rejected: Option<&HeaderValue>) -> bool {
    rejected == Some(&token.value)
}

fn margin(lifetime: Duration) -> Duration {
    MARGIN.min(lifetime / 2)
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").finish_non_exhaustive()
    }
}
